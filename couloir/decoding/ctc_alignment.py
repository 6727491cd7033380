"""The best CTC path of a given token string (forced alignment), for many utterances at once."""
# Shapes: B batch, L labels with blanks between, N tokens, S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.hypothesis import Hypothesis

NEVER = float("-inf")
_FLOOR = -1e9


@torch.no_grad()
def ctc_align(log_probs: Tensor, lens: Tensor, labels: Sequence[Sequence[int]], blank: int = 0) -> list[Hypothesis]:
    """Viterbi alignment of labels to frames under the CTC topology (Graves et al. 2006, best path).

    Args:
        log_probs: (B, S, V) normalised log-probabilities; lens: (B,) valid frames.
        labels: token ids of each utterance, without blanks.

    Returns:
        For each utterance the labels with their frames and the log-probability of the path; no tokens, and a score of
        -inf, where the frames are too few for them.
    """
    states = _states(labels, blank).to(log_probs.device)
    lens = lens.to(log_probs.device)
    scores, back = _viterbi(log_probs, lens, states, blank)
    label_lens = torch.tensor([len(tokens) for tokens in labels], device=log_probs.device)
    ends = torch.stack([2 * label_lens, (2 * label_lens - 1).clamp(min=0)], 1)
    best, which = scores.gather(1, ends).max(1)
    path = _backtrace(back, ends.gather(1, which[:, None])[:, 0].cpu().numpy(), lens.cpu().numpy())
    on_path = states.gather(1, torch.from_numpy(path).to(states.device))
    emitted = log_probs.gather(2, on_path[:, :, None])[:, :, 0].exp().cpu().numpy()
    return [
        _placed(path[b, :n], emitted[b, :n], tokens, score)
        for b, (n, tokens, score) in enumerate(zip(lens.tolist(), labels, best.tolist()))
    ]


def _states(labels: Sequence[Sequence[int]], blank: int) -> Tensor:
    """(B, 2 U + 1) token of each state: blank, token, blank, token, ... blank."""
    states = torch.full((len(labels), 2 * max(map(len, labels), default=0) + 1), blank)
    for b, tokens in enumerate(labels):
        states[b, 1 : 2 * len(tokens) : 2] = torch.tensor(tokens, dtype=torch.int64)
    return states


def _viterbi(log_probs: Tensor, lens: Tensor, states: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Best path scores (B, L) at each utterance's last frame, and steps back (S, B, L): 0, 1 or 2 states."""
    batch, width = states.shape
    may_skip = torch.zeros_like(states, dtype=torch.bool)
    may_skip[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    scores = torch.full((batch, width), NEVER, device=states.device, dtype=torch.float64)
    scores[:, 0] = 0.0  # before the first frame: as if a blank had been passed
    back = torch.zeros(log_probs.shape[1], batch, width, dtype=torch.int8, device=states.device)
    never = scores.new_full((batch, 2), NEVER)
    for t in range(log_probs.shape[1]):
        padded = torch.cat([never, scores], 1)
        skipped = padded[:, :width].masked_fill(~may_skip, NEVER)
        best, back[t] = _best_of_three(scores, padded[:, 1 : width + 1], skipped)
        best = best + log_probs[:, t].gather(1, states)
        scores = torch.where((t < lens)[:, None], best, scores)
    return scores, back


def _best_of_three(stay: Tensor, step: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    best, which = torch.stack([stay, step, skip]).max(0)
    return best, which.to(torch.int8)


def _backtrace(back: Tensor, last: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """(B, S) state of each frame, from the state after each utterance's last frame."""
    steps = back.cpu().numpy()
    path = np.zeros((len(last), len(steps)), dtype=np.int64)
    rows, state = np.arange(len(last)), last.astype(np.int64)
    for t in range(len(steps) - 1, -1, -1):
        path[:, t] = state
        state = np.where(t < lens, state - steps[t, rows, state], state)
    return path


def _placed(path: np.ndarray, emitted: np.ndarray, tokens: Sequence[int], score: float) -> Hypothesis:
    if score == NEVER:
        return Hypothesis(score=score)
    states = 2 * np.arange(len(tokens)) + 1
    starts, ends = np.searchsorted(path, states), np.searchsorted(path, states, side="right")
    strongest = [float(emitted[a:b].max()) for a, b in zip(starts, ends)]
    return Hypothesis(list(tokens), starts.tolist(), ends.tolist(), strongest, score)


def with_extents(
    log_probs: Tensor, lens: Tensor, hypotheses: list[Hypothesis], owner: Sequence[int] | None = None
) -> list[Hypothesis]:
    """Give tokens whose starts a best path has the frames that repeat them: ends, and confidences over all.

    Between two starts the best path repeats the first token for as long as that is likelier, in sum, than blank.

    Args:
        log_probs: (B, S, V). lens: (B,) valid frames. hypotheses: changed in place, and returned.
        owner: the utterance of each; None where there is one for each utterance.
    """
    counts = np.array([len(hypothesis.tokens) for hypothesis in hypotheses], np.int64)
    if not counts.sum():
        return hypotheses
    tokens = np.array([token for hypothesis in hypotheses for token in hypothesis.tokens])
    starts = np.array([frame for hypothesis in hypotheses for frame in hypothesis.starts])
    utterance = np.arange(len(counts)).repeat(counts) if owner is None else np.array(owner).repeat(counts)
    # Up to the next token's start, but for the blank that the same one needs before it; at last to the last frame.
    stops = np.append(starts[1:] - (tokens[1:] == tokens[:-1]), 0)
    last = counts.cumsum()[counts > 0] - 1
    stops[last] = lens.cpu().numpy()[utterance[last]]
    lengths = stops - starts
    first = lengths.cumsum() - lengths
    token, offset = np.arange(len(tokens)).repeat(lengths), np.arange(lengths.sum())
    offset -= first[token]
    repeats, blanks = _log_probs_at(log_probs, utterance[token], starts[token] + offset, tokens[token])
    gain = (repeats - blanks).cumsum()
    gain -= np.append(0.0, gain)[first][token]
    best = np.where(gain == np.maximum.reduceat(gain, first)[token], offset, len(offset))
    lengths = np.minimum.reduceat(best, first) + 1
    strongest = np.exp(np.maximum.reduceat(np.where(offset < lengths[token], repeats, _FLOOR), first))
    bounds = np.append(0, counts.cumsum())
    for hypothesis, begin, end in zip(hypotheses, bounds, bounds[1:]):
        hypothesis.ends = (starts + lengths)[begin:end].tolist()
        hypothesis.confidences = strongest[begin:end].tolist()
    return hypotheses


def _log_probs_at(
    log_probs: Tensor, utterance: np.ndarray, frame: np.ndarray, token: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finite float64 log-probabilities (N,) of the tokens at these frames, and of blank."""
    at = [torch.from_numpy(part).to(log_probs.device) for part in (utterance, frame, token)]
    both = torch.stack([log_probs[at[0], at[1], at[2]], log_probs[at[0], at[1], 0]])
    repeats, blanks = np.maximum(both.double().cpu().numpy(), _FLOOR)
    return repeats, blanks
