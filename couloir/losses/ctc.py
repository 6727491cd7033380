"""Connectionist temporal classification on log-probabilities.

Source: Graves et al. 2006, ICML, section 4.1 (the forward-backward algorithm) and 4.2 (the loss and its gradient).

Shapes: B batch, S subsampled frames, U labels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Targets = Sequence[Sequence[int]] | Tensor
Reduction = Literal["sum", "none"]


def pad_targets(targets: Targets, target_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Label sequences as one tensor.

    Args:
        targets: a list of id lists, or (B, U) padded ids, or all ids in one row (as icefall and torch concatenate
            them); tensors need ``target_lens`` (B,).

    Returns:
        (B, U) int64 ids, padded with 0, and (B,) int64 lengths, on the device of a given tensor (lists: CPU).
    """
    if isinstance(targets, Tensor):
        if target_lens is None:
            raise ValueError("targets in a tensor need target_lens")
        if targets.dim() == 2:
            return targets.long(), target_lens.long()
        targets = [row.tolist() for row in targets.split(target_lens.tolist())]
    lens = torch.tensor([len(row) for row in targets], dtype=torch.int64)
    padded = torch.zeros(len(targets), int(lens.max()) if len(targets) else 0, dtype=torch.int64)
    for place, row in zip(padded, targets):
        place[: len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded, lens


def feasible(targets: Targets, frame_lens: Tensor, target_lens: Tensor | None = None) -> Tensor:
    """Which utterances have a path at all: a frame for each label, and one for a blank between equal neighbours.

    Args:
        targets: as for `pad_targets`; frame_lens: (B,) frames after subsampling.

    Returns:
        (B,) bool on the CPU. An utterance that is False gives neither loss nor gradient and is to be reported.
    """
    padded, lens = (part.cpu() for part in pad_targets(targets, target_lens))
    neighbours = padded[:, 1:] == padded[:, :-1]
    within = torch.arange(1, max(1, padded.shape[1])) < lens[:, None]
    return frame_lens.cpu() >= lens + (neighbours & within).sum(dim=1)


def reason_too_short(tokens: Sequence[int], frames: int) -> str | None:
    """Why a text is too long for an output of that many frames; None where it fits.

    CTC needs a blank between equal neighbours; icefall's rule wants two frames to spare.
    """
    needed = max(len(tokens) + 2, len(tokens) + sum(a == b for a, b in pairwise(tokens)))
    return f"is too short for its {len(tokens)} tokens: {frames} frames, {needed} needed" if frames < needed else None


def ctc_loss(
    log_probs: Tensor,
    log_probs_lens: Tensor,
    targets: Targets,
    target_lens: Tensor | None = None,
    blank: int = 0,
    reduction: Reduction = "sum",
    zero_infinity: bool = True,
) -> Tensor:
    """Negative log-probability of the label sequences, in float32 or better.

    Args:
        log_probs: (B, S, V), normalised over V (the gradient takes that as given); log_probs_lens: (B,) frames.
        targets, target_lens: as for `pad_targets`.
        blank: the id of the blank.
        reduction: "sum" over the batch, or "none" for (B,).
        zero_infinity: an utterance without a path (see `feasible`) counts 0 and has no gradient, instead of infinity.
    """
    if log_probs.dtype in (torch.float16, torch.bfloat16):
        log_probs = log_probs.float()
    padded, lens = pad_targets(targets, target_lens)
    # int64 targets on the CPU: torch then takes its own kernel on every device, and never cuDNN's.
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        padded.cpu(),
        log_probs_lens.long().cpu(),
        lens.cpu(),
        blank=blank,
        reduction=reduction,
        zero_infinity=zero_infinity,
    )
