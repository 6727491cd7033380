"""Modified beam search: at most one token per frame, hypotheses with equal tokens merged. Batched."""
# Shapes: B batch, D model dimension, K hypotheses of an utterance, S output frames.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.result import read_hypotheses
from couloir.decoding.fusion import Fusion, TokenScorer
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.errors import must_be

HASH_FACTOR = 6364136223846793005  # Knuth's MMIX multiplier; the hash wraps modulo 2**64


class BeamTable:
    """The best K hypotheses of each utterance, as flat rows (n * K) over the n utterances that still run."""

    def __init__(self, scorer: FrameScorer, beam: int, scorers: Sequence[tuple[float, TokenScorer]]) -> None:
        self.frames, self.beam, rows = scorer, beam, scorer.batch * beam
        self.history = History()
        self.context = scorer.start(rows)
        device = self.context.device
        self.score = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        self.score[::beam] = 0.0
        self.hash, self.length = self.context[:, 0].clone(), torch.zeros_like(self.context[:, 0])
        self.predicted = scorer.predictions(self.context)
        self.fusion = Fusion(scorers, rows, device) if scorers else None
        self.finished: list[tuple[Tensor, Tensor]] = []  # by ascending original length: (score, length)

    def advance(self, frame: int) -> None:
        """Consume a frame."""
        rows = self.frames.active[frame] * self.beam
        if rows < len(self.score):
            self._finish(rows)
        log_probs = self.frames.leading_log_probs(frame, self.predicted, self.beam)
        vocab = log_probs.shape[1]
        total = (self.score[:, None] + log_probs).view(-1, self.beam * vocab)
        self.score, best = (part.flatten() for part in total.topk(self.beam, dim=1))
        token = best % vocab
        first = torch.arange(0, rows, self.beam, device=token.device).repeat_interleave(self.beam)
        parent = first + torch.div(best, vocab, rounding_mode="floor")
        self.history.append(frame, parent, token=token, log_prob=log_probs[parent, token].double())
        self._move(parent, token)
        self._merge()

    def _move(self, parent: Tensor, token: Tensor) -> None:
        context, emits = self.context[parent], token > 0
        self.context = torch.where(emits[:, None], torch.cat([context[:, 1:], token[:, None]], dim=1), context)
        self.hash = torch.where(emits, self.hash[parent] * HASH_FACTOR + token, self.hash[parent])
        self.length = self.length[parent] + emits
        self.predicted = self.predicted[parent]
        rows = torch.nonzero(emits).squeeze(1)
        if len(rows):
            self.predicted[rows] = self.frames.predictions(self.context[rows])
        if self.fusion:
            self.score += self.fusion.follow(parent, token)

    def _merge(self) -> None:
        """Give the probability of equal token sequences to the first of them."""
        shape = (-1, self.beam)
        score, key, length = self.score.view(shape), self.hash.view(shape), self.length.view(shape)
        same = (key[:, :, None] == key[:, None, :]) & (length[:, :, None] == length[:, None, :])
        same &= score.isfinite()[:, None, :]
        total = torch.where(same, score[:, None, :], -torch.inf).logsumexp(2)
        earlier = same.tril(-1).any(2)
        self.score = torch.where(earlier, -torch.inf, total).flatten()

    def _finish(self, rows: int) -> None:
        """Set the hypotheses behind the first ``rows`` aside: their utterances have ended."""
        score = self.score + self.fusion.final() if self.fusion else self.score
        self.finished.append((score[rows:], self.length[rows:]))
        self.score, self.hash, self.length = self.score[:rows], self.hash[:rows], self.length[:rows]
        self.context, self.predicted = self.context[:rows], self.predicted[:rows]
        if self.fusion:
            self.fusion.states = [tuple(part[:rows] for part in state) for state in self.fusion.states]

    def results(self) -> tuple[Tensor, Tensor]:
        """Scores and lengths (B, K), in the order of the sorted utterances."""
        self._finish(0)
        score, length = (torch.cat(parts[::-1]) for parts in zip(*self.finished))
        return score.view(-1, self.beam), length.view(-1, self.beam)


@torch.no_grad()
def modified_beam_search_nbest(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    beam: int = 4,
    scorers: Sequence[tuple[float, TokenScorer]] = (),
    scoring: Scoring = PLAIN,
) -> list[list[Hypothesis]]:
    """All surviving hypotheses of `modified_beam_search`, the best (by score per token) first.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames.
        beam: hypotheses kept per utterance.
        scorers: (scale, scorer) pairs that add to the score at each token: neural or n-gram language models
            (LODR is an n-gram with a negative scale), hotwords (`ContextGraph`).
        scoring: blank penalty and temperature.

    Returns:
        For each utterance at most ``beam`` hypotheses with different tokens.
    """
    if beam < 1:
        raise must_be("--beam-size", "at least 1", beam)
    frames = FrameScorer(model, encoder_out, lens, scoring)
    if frames.batch == 0:
        return []
    table = BeamTable(frames, beam, scorers)
    for frame in range(frames.num_frames):
        table.advance(frame)
    score, length = table.results()
    # icefall divides by the length with the initial history counted in
    ranked = (score / (length + frames.predictions.context_size)).argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(frames.batch, device=score.device)[:, None] * beam + ranked
    last = (frames.lens - 1)[:, None].expand_as(rows)
    found = read_hypotheses(table.history, rows.flatten(), last.flatten(), score.gather(1, ranked).flatten())
    alive = score.gather(1, ranked).isfinite().tolist()
    by_position = {
        utterance: [h for h, live in zip(found[i * beam : (i + 1) * beam], alive[i]) if live]
        for i, utterance in enumerate(frames.order.tolist())
    }
    return [by_position[i] for i in range(frames.batch)]


def modified_beam_search(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    beam: int = 4,
    scorers: Sequence[tuple[float, TokenScorer]] = (),
    scoring: Scoring = PLAIN,
) -> list[Hypothesis]:
    """The best hypothesis of each utterance; arguments as `modified_beam_search_nbest`.

    Its score is the log-probability of the token sequence, summed over the alignments that the beam held.
    """
    nbest = modified_beam_search_nbest(model, encoder_out, lens, beam, scorers, scoring)
    return [hypotheses[0] for hypotheses in nbest]
