"""CTC searches: greedy, and prefix beam search with or without language models, for a whole batch on any device."""
# Shapes: B batch, K prefixes, M likeliest tokens, N tokens, S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.ctc_alignment import NEVER, ctc_align
from couloir.decoding.fusion import Fusion, TokenScorer
from couloir.decoding.hypothesis import Hypothesis

_HASH_FACTOR = 6364136223846793005  # odd, so that no information is lost modulo 2**64 (Knuth, MMIX)
_HASH_MASK = (1 << 63) - 1
_FUSED_CANDIDATES = 4  # tokens that are tried per frame, times the beam: a language model may lift an unlikely one

Scorers = Sequence[tuple[float, TokenScorer]]


@torch.no_grad()
def ctc_greedy_search(log_probs: Tensor, lens: Tensor, blank: int = 0) -> list[Hypothesis]:
    """The best token of each frame, repetitions collapsed, blanks dropped.

    Args:
        log_probs: (B, S, V) normalised log-probabilities; lens: (B,) valid frames.
    """
    batch, frames, _ = log_probs.shape
    if batch == 0 or frames == 0:
        return [Hypothesis() for _ in range(batch)]
    values, ids = log_probs.max(2)
    valid = torch.arange(frames, device=ids.device) < lens.to(ids.device)[:, None]
    changed = torch.ones_like(valid)
    changed[:, 1:] = ids[:, 1:] != ids[:, :-1]
    run = changed.cumsum(1) - 1
    strongest = values.new_full(values.shape, NEVER).scatter_reduce(
        1, run, values.masked_fill(~valid, NEVER), reduce="amax"
    )
    starts = changed & valid & (ids != blank)
    counts = starts.sum(1).tolist()
    scores = values.double().masked_fill(~valid, 0.0).sum(1).tolist()
    tokens, confidences = ids[starts].tolist(), strongest.gather(1, run)[starts].exp().tolist()
    first = starts.nonzero()[:, 1]
    length = torch.zeros_like(ids).scatter_add_(1, run, valid.long())
    after = (first + length.gather(1, run)[starts]).tolist()
    at, bounds = first.tolist(), np.cumsum([0, *counts])
    return [
        Hypothesis(tokens[a:b], at[a:b], after[a:b], confidences[a:b], score)
        for a, b, score in zip(bounds, bounds[1:], scores)
    ]


def ctc_prefix_beam_search(
    log_probs: Tensor, lens: Tensor, beam: int = 4, blank: int = 0, scorers: Scorers = ()
) -> list[Hypothesis]:
    """The token string with the greatest probability over all its paths that the beam keeps (see `ctc_nbest`)."""
    return [nbest[0] for nbest in ctc_nbest(log_probs, lens, beam, blank, 1, scorers)]


@torch.no_grad()
def ctc_nbest(
    log_probs: Tensor,
    lens: Tensor,
    beam: int = 4,
    blank: int = 0,
    nbest: int | None = None,
    scorers: Scorers = (),
) -> list[list[Hypothesis]]:
    """Prefix beam search (Hannun et al. 2014): different token strings, best first.

    Paths that spell the same prefix are one hypothesis, with separate probabilities for ending in blank and not. A
    prefix that left the beam and comes back has lost the paths that it had; otherwise a score is exact. Frames and
    confidences are those of the string's best path.

    Args:
        log_probs: (B, S, V) normalised log-probabilities; lens: (B,) valid frames.
        beam: prefixes kept after each frame (icefall's default is 4).
        nbest: strings returned at most, ``beam`` by default; fewer when no more have a probability.
        scorers: (scale, scorer) pairs that add to a string's score at each of its tokens (shallow fusion): neural or
            n-gram language models (LODR is an n-gram with a negative scale), hotwords. Blank must then be 0.
    """
    found = _search(log_probs, lens.to(log_probs.device), beam, blank, scorers)
    wanted = min(beam, nbest or beam)
    lists: list[list[Hypothesis]] = [[] for _ in range(len(log_probs))]
    for rank in range(wanted):
        chosen = [strings[min(rank, len(strings) - 1)] for strings in found]
        aligned = ctc_align(log_probs, lens, [tokens for tokens, _ in chosen], blank)
        for hypotheses, strings, (tokens, score), where in zip(lists, found, chosen, aligned):
            if rank < len(strings):
                hypotheses.append(replace(where, tokens=tokens, score=score))
    return lists


@dataclass
class _Beams:
    """K prefixes for each of B utterances, all (B, K).

    A place that holds no prefix has probability 0 and a key below 0, which no other prefix can have.
    """

    blank: Tensor  # log-probability of the paths that end in blank
    token: Tensor  # log-probability of the paths that end in the prefix's last token
    last: Tensor  # last token; -1 for the empty prefix
    key: Tensor  # hash of the prefix
    bonus: Tensor  # what language models and hotwords gave to the prefix

    @classmethod
    def start(cls, batch: int, beam: int, device: torch.device) -> _Beams:
        """The empty prefix, and nothing else."""
        token = torch.full((batch, beam), NEVER, dtype=torch.float64, device=device)
        blank = token.clone()
        blank[:, 0] = 0.0
        last = torch.full((batch, beam), -1, device=device)
        key = -torch.arange(beam, device=device).expand(batch, beam)
        return cls(blank, token, last, key, torch.zeros_like(blank))

    @property
    def total(self) -> Tensor:
        """Log-probability of each prefix."""
        return torch.logaddexp(self.blank, self.token)

    def longer_key(self, tokens: Tensor) -> Tensor:
        """Keys of the prefixes with one more token: (B, K, N) for tokens (B, K or 1, N)."""
        mixed = (self.key[:, :, None] * _HASH_FACTOR) ^ (tokens + 1)
        return (mixed ^ (mixed >> 29)) * _HASH_FACTOR & _HASH_MASK


def _extended(beams: _Beams, tokens: Tensor, log_probs: Tensor) -> Tensor:
    """Log-probability of each prefix with one more token, (B, K, N); after itself a token needs a blank between."""
    again = tokens == beams.last[:, :, None]
    return torch.where(again, beams.blank[:, :, None], beams.total[:, :, None]) + log_probs


def _step(
    beams: _Beams, frame: Tensor, top: Tensor, top_ids: Tensor, blank: int, gains: Tensor
) -> tuple[_Beams, Tensor, Tensor]:
    """One frame: new beams, and for each of its places the place it came from and the token it got (-1: none).

    Args:
        frame: (B, V) log-probabilities; top, top_ids: (B, M) its likeliest tokens without blank.
        gains: what each prefix earns by each of these tokens, broadcast to (B, K, M).
    """
    beam = beams.last.shape[1]
    emit_last = frame.gather(1, beams.last.clamp(min=0))
    # Prefixes that stay as they are. One of them may also be another one's prefix plus a token: those paths join it.
    stay_blank = beams.total + frame[:, blank, None]
    stay_token = beams.token + emit_last
    last, emitted = beams.last[:, None, :], emit_last[:, None, :]
    same = (beams.longer_key(last) == beams.key[:, None, :]) & (last >= 0)
    joining = _extended(beams, last, emitted).masked_fill(~same, NEVER).logsumexp(1)
    stay_token = torch.logaddexp(stay_token, joining)
    # Prefixes with a new token. The M likeliest tokens suffice: each of the others would have K better ones before it.
    tokens = top_ids[:, None, :]
    keys = beams.longer_key(tokens)
    present = (keys[:, :, :, None] == beams.key[:, None, None, :]).any(3)
    longer = _extended(beams, tokens, top[:, None, :]).masked_fill(present, NEVER).flatten(1)
    bonuses = torch.cat([beams.bonus, (beams.bonus[:, :, None] + gains).expand(keys.shape).flatten(1)], 1)
    score, choice = (torch.cat([torch.logaddexp(stay_blank, stay_token), longer], 1) + bonuses).topk(beam, 1)

    stays = choice < beam
    extension = (choice - beam).clamp(min=0)
    place = torch.where(stays, choice, extension // top.shape[1])
    added = torch.where(stays, -1, top_ids.gather(1, extension % top.shape[1]))
    new_key = torch.where(stays, beams.key.gather(1, place), keys.flatten(1).gather(1, extension))
    bonus = bonuses.gather(1, choice)
    empty = -1 - torch.arange(beam, device=frame.device)
    new = _Beams(
        blank=torch.where(stays, stay_blank.gather(1, place), NEVER),
        token=torch.where(stays, stay_token.gather(1, place), longer.gather(1, extension)),
        last=torch.where(stays, beams.last.gather(1, place), added),
        key=torch.where(score == NEVER, empty, new_key),
        bonus=bonus,
    )
    return new, place, added


def _search(
    log_probs: Tensor, lens: Tensor, beam: int, blank: int, scorers: Scorers
) -> list[list[tuple[list[int], float]]]:
    """Token strings and their scores of each utterance, best first; at least one each."""
    (batch, frames, vocabulary), device = log_probs.shape, log_probs.device
    without_blank = log_probs.clone()
    without_blank[:, :, blank] = NEVER
    tried = _FUSED_CANDIDATES * beam if scorers else beam + 1
    top, top_ids = without_blank.topk(min(tried, vocabulary), 2)
    beams, fusion = _Beams.start(batch, beam, device), Fusion(scorers, batch * beam, device)
    stay, gains = torch.arange(beam, device=device).expand(batch, beam), beams.bonus[:, :, None]
    first = torch.arange(0, batch * beam, beam, device=device)[:, None]
    places, added = (torch.empty(frames, batch, beam, dtype=torch.int64, device=device) for _ in range(2))
    for t in range(frames):
        if scorers:
            gains = fusion.preview(top_ids[:, t].repeat_interleave(beam, 0)).view(batch, beam, -1)
        new, place, token = _step(beams, log_probs[:, t].double(), top[:, t].double(), top_ids[:, t], blank, gains)
        live = (t < lens)[:, None]
        beams = _Beams(*(torch.where(live, vars(new)[name], before) for name, before in vars(beams).items()))
        places[t], added[t] = torch.where(live, place, stay), torch.where(live, token, -1)
        if scorers:
            fusion.follow((first + places[t]).flatten(), added[t].flatten())
    totals = beams.total + beams.bonus
    if scorers:
        totals += fusion.final().view(batch, beam)
    strings = _strings(places.cpu().numpy(), added.cpu().numpy())
    scores, order = totals.sort(dim=1, descending=True, stable=True)
    return [
        [(strings[b][k], score) for rank, (k, score) in enumerate(zip(ks, ranked)) if rank == 0 or score > NEVER]
        for b, (ks, ranked) in enumerate(zip(order.tolist(), scores.tolist()))
    ]


def _strings(places: np.ndarray, added: np.ndarray) -> list[list[list[int]]]:
    """Token strings [B][K] from where each place came from and what it got, both (S, B, K)."""
    frames, batch, beam = places.shape
    rows, place = np.arange(batch)[:, None], np.tile(np.arange(beam), (batch, 1))
    got = np.full((frames, batch, beam), -1, dtype=np.int64)
    for t in range(frames - 1, -1, -1):
        got[t] = added[t, rows, place]
        place = places[t, rows, place]
    return [[[int(x) for x in got[:, b, k] if x >= 0] for k in range(beam)] for b in range(batch)]
