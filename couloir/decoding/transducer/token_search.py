"""The graph search where the graph is trivial: every token everywhere. A dense table instead of a general one.

On `trivial_graph` a row of the general search is a token history, at the start or at the end. A row at the end leads
nowhere, and its score is that of its history without it or less: until an utterance's last frame it can be left out,
and with at least twice as many states as histories allowed, it takes no other's place. What is left is a table of the
best histories of each utterance. The last frame, where the ends compete with the rest, is a step of the general search.
"""
# Shapes: B' utterances that still have frames, K hypotheses of each.

from __future__ import annotations

import torch
from torch import Tensor

from couloir.decoding.fsa.graph import Graph, trivial_graph
from couloir.decoding.fsa.search import IMPLICIT, GraphSearch, SearchLimits, SearchResult, Table
from couloir.decoding.transducer.emissions import TransducerEmissions

MOST_PLACES = 32
SPARE = 32  # arcs with a token that are looked at first: many lead to the same history


def fits_token_search(graph: Graph, vocab_size: int, limits: SearchLimits) -> bool:
    """Whether `TokenSearch` does what `GraphSearch` would."""
    few = limits.max_contexts <= MOST_PLACES and 2 * limits.max_contexts <= limits.max_states
    return few and graph.is_trivial(vocab_size)


class TokenSearch(GraphSearch):
    """`GraphSearch` on the trivial graph, for the best path alone, without hotwords; see `fits_token_search`.

    The table holds K histories of each of the n utterances that still run, all (n, K), in order of their scores; a
    place that holds none has score -inf.
    """

    def __init__(self, emissions: TransducerEmissions, limits: SearchLimits) -> None:
        graph = trivial_graph(emissions.vocab_size)
        super().__init__(emissions, graph.to(emissions.lens.device), limits)
        self.frames, self.places = emissions, limits.max_contexts
        some = int((emissions.lens > 0).sum())  # lengths descend
        self.histories = torch.zeros((some, self.places), dtype=torch.int64, device=emissions.lens.device)
        self.scores = torch.full(self.histories.shape, -torch.inf, dtype=torch.float64, device=emissions.lens.device)
        self.scores[:, 0] = 0.0

    def run(self) -> SearchResult:
        """Decode all frames."""
        running = [*self.frames.scorer.active[1:], 0]  # of each frame, the utterances that have another one after it
        ended: list[tuple[Tensor, Tensor]] = []
        predicted = self.frames.predict(self.histories.flatten()) if len(self.scores) else None
        for frame, count in enumerate(running):
            if count < len(self.scores):
                ended.append((self.histories[count:], self.scores[count:]))
                self.histories, self.scores = self.histories[:count], self.scores[:count]
            if not count or predicted is None:
                break
            predicted = self._advance(frame, predicted[: count * self.places])
        if ended:
            self._finish(*(torch.cat(parts[::-1]) for parts in zip(*ended)))
        return self.result

    def _advance(self, frame: int, predicted: Tensor) -> Tensor:
        """Consume a frame that is not the last of any utterance; the predictions of the new histories (n * K, J)."""
        log_probs = self.frames.scorer.leading_log_probs(frame, predicted, self.places)
        chosen = self._choose(log_probs, SPARE)
        if chosen is None:
            chosen = self._choose(log_probs, self.places**2)
        assert chosen is not None
        self.scores, self.histories, row, label = chosen
        parent = (torch.arange(0, len(log_probs), self.places, device=row.device)[:, None] + row).flatten()
        label = label.flatten()
        log_prob = log_probs[parent, label].double()
        self.result.history.append(
            frame, parent, token=label, log_prob=log_prob, arc=label - 1, move=torch.full_like(label, IMPLICIT)
        )
        predicted, emits = predicted[parent], label.nonzero().squeeze(1)
        if len(emits):
            predicted[emits] = self.frames.predict(self.histories.flatten()[emits])
        return predicted

    def _choose(self, log_probs: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The best K histories after a frame: their scores, numbers, the place (n, K) each comes from, and its label.

        Args:
            log_probs: (n * K, V). most: arcs with a token that are looked at, beside all with blank; None is returned
                where these may not hold all that is needed.
        """
        count, places = self.scores.shape
        vocab = log_probs.shape[1]
        before = self.scores[:, :1]
        total = log_probs.view(count, places, vocab) + (self.scores - before).float()[:, :, None]
        total[:, :, 0] = torch.inf  # blank is never dropped unseen
        arc = total.view(count, -1).topk(min(places + most, places * vocab), dim=1).indices
        row, label = torch.div(arc, vocab, rounding_mode="floor"), arc % vocab
        flat = torch.arange(0, len(log_probs), places, device=arc.device)[:, None] + row
        score = self.scores.gather(1, row) + log_probs[flat, label]
        score = score.masked_fill((label > 0) & (score < before - self.limits.beam), -torch.inf)
        near = score >= score.max(dim=1, keepdim=True).values - self.limits.beam
        history, _ = self.frames.advance(self.histories.gather(1, row), label)
        best, at = score.masked_fill(~(near & self._leads(history, score)), -torch.inf).topk(places, dim=1)
        if most < places * min(places, vocab - 1) and bool((near[:, -1] & (score[:, -1] > best[:, -1])).any()):
            return None
        return best, history.gather(1, at), row.gather(1, at), label.gather(1, at)

    @staticmethod
    def _leads(history: Tensor, score: Tensor) -> Tensor:
        """Mask (n, M) of the arcs that are the best, or the first of the best, to lead to their history."""
        better = score[:, None, :] > score[:, :, None]
        earlier = (score[:, None, :] == score[:, :, None]).tril(-1)
        return ~((history[:, :, None] == history[:, None, :]) & (better | earlier)).any(2)

    def _finish(self, histories: Tensor, scores: Tensor) -> None:
        """The last frame of all utterances that have one, from the tables (B', K) they had before."""
        utterance, place = torch.nonzero(scores.isfinite()).unbind(1)
        history = histories[utterance, place]
        order = torch.sort(utterance * self.frames.num_histories + history).indices
        utterance, history, place = utterance[order], history[order], place[order]
        nothing = torch.zeros_like(history)
        before = self.table = Table(utterance, history, nothing, nothing, scores[utterance, place])
        arcs, _ = self._step(self.emissions.lens - 1)
        self._end(before, self.emissions.lens - 2, self._final_sources(before, arcs))
        reached = utterance.unique()
        rows = self.result.row[reached]
        self.result.row[reached] = (utterance * self.places + place)[rows]
