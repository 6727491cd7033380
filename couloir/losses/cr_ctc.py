"""Consistency-regularised CTC (CR-CTC).

Source: Yao et al. 2024, arXiv:2410.05101, "Our approach: Consistency-regularized CTC".

Two differently masked views of each utterance pass through the encoder in one batch; each is trained by CTC and
towards the other's frame-wise distribution. A batch of views is [first views; second views], B utterances each.
Shapes: B batch, S subsampled frames, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from couloir.losses.ctc import Targets, ctc_loss, pad_targets


def cr_ctc(
    log_probs: Tensor, log_probs_lens: Tensor, targets: Targets, target_lens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both terms of CR-CTC, each the mean over the two views and the sum over the batch.

    Args:
        log_probs: (2B, S, V) of the views; log_probs_lens: (2B,).
        targets, target_lens: of the B utterances, as for `couloir.losses.ctc.pad_targets`.

    Returns:
        ctc, consistency: scalars; as means over the views they compare with a run that has one view.
    """
    padded, lens = pad_targets(targets, target_lens)
    ctc = ctc_loss(log_probs, log_probs_lens, padded.repeat(2, 1), lens.repeat(2))
    return 0.5 * ctc, 0.5 * consistency(log_probs, log_probs_lens)


def consistency(log_probs: Tensor, log_probs_lens: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence between the views, summed over frames and batch.

    Each view is drawn towards the other one as it stands: no gradient flows into a target.

    Args:
        log_probs: (2B, S, V), finite; log_probs_lens: (2B,), frames behind them do not count.
    """
    first, second = log_probs.float().chunk(2) if log_probs.dtype.itemsize < 4 else log_probs.chunk(2)
    per_frame = _divergence(first, second.detach()) + _divergence(second, first.detach())
    valid = torch.arange(per_frame.shape[1], device=per_frame.device) < log_probs_lens.chunk(2)[0][:, None]
    return per_frame.masked_fill(~valid, 0.0).sum()


def _divergence(log_probs: Tensor, target: Tensor) -> Tensor:
    """KL(target || log_probs) of each frame: (B, S, V) twice -> (B, S)."""
    return (target.exp() * (target - log_probs)).sum(dim=-1)


def consistency_warmup(batch_idx_train: float, warm_step: int) -> float:
    """Factor of the consistency term: 0 at first, linearly to 1 after ``warm_step`` batches; 1 where that is 0.

    The views of an untrained model agree on nothing worth keeping.
    """
    return min(batch_idx_train / warm_step, 1.0) if warm_step > 0 else 1.0
