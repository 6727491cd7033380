"""Transducer losses with k2's names and arguments: simple, smoothed, pruned and unpruned.

``from couloir.losses import rnnt as k2`` is the one import to change. Facts: Graves 2012 (arXiv:1211.3711); Kuang et
al. 2022, pruned RNN-T (arXiv:2206.13236); delay penalty: Kang et al. 2022 (arXiv:2211.00490).

All are -log p, positive. ``rnnt_type``:

* "regular": a symbol takes no time, a blank takes a frame, the last step is a blank;
* "modified": a symbol takes a frame too, so an item needs at least as many frames as symbols;
* "constrained": modified, and emitting a symbol also pays the blank that follows it in the same frame.

``boundary`` (B, 4) int64 has rows [s_begin, t_begin, s_end, t_end]; None means that no item is padded. ``reduction`` is
"none", "mean" (over the batch, neither symbols nor frames) or "sum". An item without a path has loss +inf and gradient
zero: see `reason_without_path`. Half-precision input is computed in float32, autocast or not.

Peak memory of `rnnt_loss_pruned` beyond its input, in bytes, measured on CPU for "regular": forward
20*B*(T+1)*(S+1) + 8*B*(T+S)*(S+2) for the lattice; backward the logits' gradient in the logits' own dtype and
8*B*(T+1)*(S+1); and in both 32*B*T*R and a work space of 1 MiB, of 2 MiB for half precision. At B 30, T 500, S 100,
V 500, R 5 in float32 that is 166 MB beside the 150 MB of logits. `rnnt_loss` is the same with R = S+1.

Legend: B batch, T frames, S symbols, R rows of the band, V vocabulary.
"""
# Shapes: B batch, R symbols of the band, S symbols, T frames, V vocabulary.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from couloir.errors import must_be
from couloir.losses.rnnt_lattice import NEG_INF, lattice_scores, mutual_information_recursion
from couloir.losses.rnnt_logprobs import Smoothing, joiner_logprobs, simple_logprobs
from couloir.losses.rnnt_pruning import do_rnnt_pruning, get_rnnt_prune_ranges

__all__ = [
    "RNNT_TYPES",
    "do_rnnt_pruning",
    "get_rnnt_logprobs",
    "get_rnnt_logprobs_joint",
    "get_rnnt_logprobs_pruned",
    "get_rnnt_logprobs_smoothed",
    "get_rnnt_prune_ranges",
    "mutual_information_recursion",
    "reason_without_path",
    "rnnt_loss",
    "rnnt_loss_pruned",
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
]

RNNT_TYPES = ("regular", "modified", "constrained")
LossResult = Any
"""A Tensor, or with ``return_grad`` (Tensor, (px_grad, py_grad)). It depends on an argument's value, as in k2."""


# --- losses ----------------------------------------------------------------------------------------------------------


def rnnt_loss_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    return_grad: bool = False,
) -> LossResult:
    """Loss of the joiner that adds: log-softmax of ``lm`` (B, S+1, V) + ``am`` (B, T, V).

    Arguments, result and errors are those of `rnnt_loss_smoothed` with both scales 0.
    """
    return rnnt_loss_smoothed(
        lm, am, symbols, termination_symbol, 0.0, 0.0, boundary, rnnt_type, delay_penalty, reduction, return_grad
    )


def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    return_grad: bool = False,
    *,
    unigram_over_padding: bool = False,
) -> LossResult:
    """Loss of the adding joiner, its log-probabilities mixed with those of lm alone and of am alone.

    Args:
        lm: (B, S+1, V) predictor scores; am: (B, T, V) encoder scores.
        symbols: (B, S) int64; termination_symbol: the blank.
        lm_only_scale: share of log-softmax(lm); am_only_scale: share of log-softmax(am + log u), where u is the mean of
            softmax(lm) over the batch.
        delay_penalty: added to a symbol's log-probability at frame t, times ((t_end-1)/2 - t).
        return_grad: also return the occupations, for `get_rnnt_prune_ranges`.
        unigram_over_padding: let u include rows beyond an item's symbols, as k2 does; without it padding has no
            influence on the loss.

    Returns:
        the loss, () or for reduction "none" (B,); with ``return_grad`` also (px_grad, py_grad), which are
        (B, S, T+1 or T) and (B, S+1, T).

    Raises:
        ValueError: shapes or names that do not fit; UserError: symbols outside the vocabulary (seen on CPU only).
    """
    px, py = get_rnnt_logprobs_smoothed(
        lm, am, symbols, termination_symbol, lm_only_scale, am_only_scale, boundary, rnnt_type,
        unigram_over_padding=unigram_over_padding, delay_penalty=delay_penalty,
    )  # fmt: skip
    return _loss(px, py, boundary, reduction, return_grad)


def rnnt_loss_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    use_hat_loss: bool = False,
    return_grad: bool = False,
) -> LossResult:
    """Loss of a joiner's ``logits`` (B, T, R, V) in the band ``ranges`` (B, T, R) of `get_rnnt_prune_ranges`.

    With ``use_hat_loss`` the joiner is that of the hybrid autoregressive transducer (Variani et al. 2020,
    arXiv:2003.07705): p(blank) is the sigmoid of its logit, and the symbols share 1 - p(blank) by a softmax.
    Other arguments, result and errors as in `rnnt_loss_smoothed`.
    """
    px, py = get_rnnt_logprobs_pruned(
        logits, symbols, ranges, termination_symbol, boundary, rnnt_type, use_hat_loss, delay_penalty=delay_penalty
    )
    return _loss(px, py, boundary, reduction, return_grad)


def rnnt_loss(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str | None = "mean",
    use_hat_loss: bool = False,
    return_grad: bool = False,
) -> LossResult:
    """Loss of a joiner's ``logits`` (B, T, S+1, V) over the whole lattice.

    Other arguments, result and errors as in `rnnt_loss_pruned`.
    """
    px, py = get_rnnt_logprobs_joint(
        logits, symbols, termination_symbol, rnnt_type, boundary, use_hat_loss, delay_penalty=delay_penalty
    )
    return _loss(px, py, boundary, reduction, return_grad)


def _loss(px: Tensor, py: Tensor, boundary: Tensor | None, reduction: str | None, return_grad: bool) -> LossResult:
    if reduction not in ("none", "mean", "sum", None):
        raise ValueError(f"reduction must be none, mean or sum, but is {reduction!r}")
    scores, occupations = lattice_scores(px, py, boundary, return_grad)
    loss = -scores
    if reduction in ("mean", "sum"):
        loss = loss.mean() if reduction == "mean" else loss.sum()
    return (loss, occupations) if return_grad else loss


# --- log-probabilities -----------------------------------------------------------------------------------------------


def get_rnnt_logprobs(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """px (B, S, T+1 or T) and py (B, S+1, T) of `rnnt_loss_simple`, for `mutual_information_recursion`."""
    return get_rnnt_logprobs_smoothed(lm, am, symbols, termination_symbol, 0.0, 0.0, boundary, rnnt_type)


def get_rnnt_logprobs_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    *,
    unigram_over_padding: bool = False,
    delay_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """px (B, S, T+1 or T) and py (B, S+1, T) of `rnnt_loss_smoothed`."""
    batch, num_symbols = symbols.shape
    if lm.dim() != 3 or am.dim() != 3 or lm.shape[:2] != (batch, num_symbols + 1) or lm.shape[2] != am.shape[2]:
        shapes = f"{tuple(lm.shape)}, {tuple(am.shape)}, {tuple(symbols.shape)}"
        raise ValueError(f"lm (B, S+1, V), am (B, T, V) and symbols (B, S) do not fit: {shapes}")
    _check_symbols(symbols, termination_symbol, lm.shape[2])
    rows = torch.arange(num_symbols + 1, device=lm.device).expand(batch, -1)
    if boundary is None or unigram_over_padding:
        lm_rows = torch.ones_like(rows, dtype=torch.bool)
    else:
        lm_rows = rows <= boundary[:, 2:3]
    smoothing = Smoothing(lm_only_scale, am_only_scale)
    px, py = simple_logprobs(lm, am, symbols, termination_symbol, smoothing, lm_rows)
    return _for_lattice(px, py, boundary, rnnt_type, delay_penalty)


def get_rnnt_logprobs_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    use_hat_loss: bool = False,
    *,
    delay_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """px (B, S, T+1 or T) and py (B, S+1, T) of `rnnt_loss_pruned`, -inf outside the band."""
    if logits.dim() != 4 or ranges.shape != logits.shape[:3] or symbols.shape[:1] != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)}, {tuple(ranges.shape)}, {tuple(symbols.shape)}"
        raise ValueError(f"logits (B, T, R, V), ranges (B, T, R) and symbols (B, S) do not fit: {shapes}")
    _check_symbols(symbols, termination_symbol, logits.shape[3])
    px, py = joiner_logprobs(logits, symbols, termination_symbol, ranges, use_hat_loss)
    return _for_lattice(px, py, boundary, rnnt_type, delay_penalty)


def get_rnnt_logprobs_joint(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
    use_hat_loss: bool = False,
    *,
    delay_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """px (B, S, T+1 or T) and py (B, S+1, T) of `rnnt_loss`; the order of arguments is k2's."""
    if logits.dim() != 4 or logits.shape[0] != symbols.shape[0] or logits.shape[2] != symbols.shape[1] + 1:
        shapes = f"{tuple(logits.shape)} and {tuple(symbols.shape)}"
        raise ValueError(f"logits (B, T, S+1, V) and symbols (B, S) do not fit: {shapes}")
    _check_symbols(symbols, termination_symbol, logits.shape[3])
    px, py = joiner_logprobs(logits, symbols, termination_symbol, hat=use_hat_loss)
    return _for_lattice(px, py, boundary, rnnt_type, delay_penalty)


def _check_symbols(symbols: Tensor, blank: int, vocab_size: int) -> None:
    if symbols.dtype != torch.int64:
        raise ValueError(f"symbols must be int64, but are {symbols.dtype}")
    if not 0 <= blank < vocab_size:
        raise ValueError(f"termination_symbol must be below the vocabulary size {vocab_size}, but is {blank}")
    if symbols.is_cuda or symbols.numel() == 0:  # reading them there would stall the device
        return
    low, high = (int(bound) for bound in symbols.aminmax())
    if low < 0 or high >= vocab_size:
        remedy = "the tokenizer and the model have different vocabularies"
        raise must_be("symbols", f"from 0 to {vocab_size - 1}", low if low < 0 else high, remedy)


def _for_lattice(
    px: Tensor, py: Tensor, boundary: Tensor | None, rnnt_type: str, delay_penalty: float
) -> tuple[Tensor, Tensor]:
    """From (B, S, T) to the type's lattice: the extra column, the blank that a symbol pays, the delay penalty."""
    if rnnt_type not in RNNT_TYPES:
        raise ValueError(f"rnnt_type must be one of {', '.join(RNNT_TYPES)}, but is {rnnt_type!r}")
    if rnnt_type == "regular":
        px = torch.nn.functional.pad(px, (0, 1), value=NEG_INF)
    elif rnnt_type == "constrained":
        px = px + py[:, 1:]
    if boundary is None and delay_penalty == 0:
        return px, py
    num_frames = py.shape[2]
    frames = torch.arange(px.shape[2], device=px.device)
    ends = torch.full((1, 1), num_frames, device=px.device) if boundary is None else boundary[:, 3:]
    # float32 also for float64 input: k2 does so, and the numbers are to be the same.
    bonus = ((ends - 1) / 2 - frames).float() * delay_penalty
    if rnnt_type == "regular":
        bonus = bonus.masked_fill(frames == ends, NEG_INF)  # no symbol after the last blank
    return px + bonus[:, None].to(px.dtype), py


# --- items without a path --------------------------------------------------------------------------------------------


def reason_without_path(
    num_symbols: int, num_frames: int, rnnt_type: str = "regular", s_range: int | None = None
) -> str | None:
    """Why an item of these lengths can have no path, in words for a report; None if it has one.

    With ``s_range`` for the pruned loss (a band of that many rows), without it for the other losses.
    """
    if num_frames < 1:
        return "no frame is left after subsampling"
    most_per_frame = 1 if rnnt_type != "regular" else None if s_range is None else max(s_range - 1, 0)
    if most_per_frame is not None and num_symbols > most_per_frame * num_frames:
        return f"{num_symbols} symbols do not fit into {num_frames} frames ({rnnt_type}, {most_per_frame} per frame)"
    return None
