"""Losses of a Paraformer: label-smoothed cross entropy, error in the number of tokens, CTC, expected errors.

Source: Gao et al. 2022 (arXiv:2206.08317), section 3.4; label smoothing is that of Szegedy et al. 2016
(arXiv:1512.00567), section 7, spread over the other tokens alone, as a divergence that is 0 at its target.

Shapes: B batch, K tokens, S encoder frames, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from couloir.losses.ctc import ctc_loss
from couloir.losses.mwer import mwer_loss
from couloir.losses.paraformer_config import ParaformerLossConfig
from couloir.models.paraformer.config import BLANK_ID, EOS_ID, SOS_ID

if TYPE_CHECKING:
    from couloir.models.paraformer.model import Lesson


class ParaformerLosses(NamedTuple):
    """Scalars.

    Attributes:
        total: what is minimised. attention: cross entropy. predictor: error in the number of tokens. ctc: None without
            such a head or with the weight 0. mwer: expected errors; None with the weight 0.
        accuracy: share of tokens that the pass without the sampler has right.
        weight: tokens (normalised by length) or utterances that the means are over, for the mean of several batches.
    """

    total: Tensor
    attention: Tensor
    predictor: Tensor
    ctc: Tensor | None
    mwer: Tensor | None
    accuracy: Tensor
    weight: Tensor


def smoothed_divergence(logits: Tensor, targets: Tensor, smoothing: float, ignored: int = -1) -> Tensor:
    """Kullback-Leibler divergence from a smoothed target, summed over all tokens.

    The target has 1 - ``smoothing`` on the token and the rest evenly on all others.

    Args:
        logits: (B, K, V). targets: (B, K) ids, or ``ignored``. smoothing: from 0 to below 1.
    """
    vocabulary = logits.shape[-1]
    log_probs = logits.float().log_softmax(dim=-1) if logits.dtype.itemsize < 4 else logits.log_softmax(dim=-1)
    valid = targets != ignored
    picked = log_probs.gather(-1, targets.masked_fill(~valid, 0).unsqueeze(-1)).squeeze(-1)
    if smoothing == 0.0:
        return -(picked * valid).sum()
    other = smoothing / (vocabulary - 1)
    expected = (1.0 - smoothing - other) * picked + other * log_probs.sum(dim=-1)
    entropy = (1.0 - smoothing) * math.log(1.0 - smoothing) + smoothing * math.log(other)
    return ((entropy - expected) * valid).sum()


def paraformer_losses(
    lesson: Lesson, tokens: Sequence[Sequence[int]], config: ParaformerLossConfig
) -> ParaformerLosses:
    """The losses of one batch.

    Args:
        lesson: what the model made of it. tokens: its B lists of ids, without the sentence's end. config: weights.
    """
    num_tokens, batch = lesson.target_lens.sum().clamp(min=1), torch.tensor(len(tokens), device=lesson.logits.device)
    weight = num_tokens if config.length_normalized_loss else batch
    attention = smoothed_divergence(lesson.logits, lesson.targets, config.label_smoothing) / weight
    predictor = (lesson.target_lens - lesson.raw_sum).abs().sum() / weight
    total = config.predictor_weight * predictor
    ctc = None
    if lesson.ctc_log_probs is not None and config.ctc_weight > 0.0:
        ctc = ctc_loss(lesson.ctc_log_probs, lesson.encoder_lens, tokens) / batch
        total = total + config.ctc_weight * ctc + (1.0 - config.ctc_weight) * attention
    else:
        total = total + attention
    mwer = None
    if config.mwer_weight > 0.0:
        log_probs = lesson.logits.float().log_softmax(dim=-1)
        silent = (BLANK_ID, SOS_ID, EOS_ID)
        mwer = mwer_loss(log_probs, lesson.target_lens, tokens, config.mwer_paths, config.mwer_mask_prob, silent)
        total = total + config.mwer_weight * mwer
    right = (lesson.first_ids == lesson.targets).sum()
    return ParaformerLosses(total, attention, predictor, ctc, mwer, right / num_tokens, weight)
