"""Configuration of the training objective. Field names are icefall's and ZIPA's flags. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from couloir.config import flag_name, option
from couloir.errors import UserError, must_be
from couloir.losses.rnnt_backend import RNNT_BACKENDS

if TYPE_CHECKING:
    from couloir.features.config import AugmentConfig
    from couloir.models.heads.config import HeadsConfig


@dataclass(frozen=True)
class LossConfig:
    """Training objective.

    The sum of the losses of the heads that are switched on, each with its scale. Defaults are icefall's.
    """

    use_cr_ctc: bool = option(
        False,
        "train CTC on two masked views of each utterance and keep them consistent; a batch takes twice the memory",
    )
    ctc_loss_scale: float = option(0.2, "weight of CTC beside another head; CTC alone always has 1")
    cr_loss_scale: float = option(
        0.2, "weight of the consistency term; published: 0.2 with CTC alone, 0.02 beside a transducer; ZIPA 0.15"
    )
    cr_loss_warm_step: int = option(
        2000,
        "batches over which the consistency term rises to its weight; 0 for none, as in ZIPA",
        unit="batches",
        rare=True,
    )
    attention_decoder_loss_scale: float = option(
        0.8, "weight of the attention decoder; without a transducer it and --ctc-loss-scale must sum to 1"
    )
    simple_loss_scale: float = option(
        0.5, "weight of the transducer's simple loss, which finds the pruning bounds, once warm-up is over", rare=True
    )
    prune_range: int = option(
        5,
        "symbols per frame that the pruned transducer loss considers; more is exact and slower",
        unit="symbols",
        rare=True,
    )
    lm_scale: float = option(0.25, "share of the predictor's own distribution in the simple loss", rare=True)
    am_scale: float = option(0.0, "share of the encoder's own distribution in the simple loss; ZIPA 0.1", rare=True)
    warm_step: int = option(
        2000,
        "batches over which the pruned transducer loss rises to its weight and the simple one falls",
        unit="batches",
        rare=True,
    )
    rnnt_backend: str = option(
        RNNT_BACKENDS[0],
        "who computes the transducer losses; the others must be installed",
        choices=RNNT_BACKENDS,
        rare=True,
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_scale") and not (math.isfinite(value) and value >= 0):
                raise must_be(flag_name(field.name), "0 or more", value)
        if self.lm_scale + self.am_scale > 1:
            raise must_be("--lm-scale + --am-scale", "at most 1", self.lm_scale + self.am_scale)
        if self.prune_range < 2:
            raise must_be("--prune-range", "at least 2", self.prune_range)
        for name in ("cr_loss_warm_step", "warm_step"):
            if getattr(self, name) < 0:
                raise must_be(flag_name(name), "0 or more", getattr(self, name))


def ctc_scale(loss: LossConfig, heads: HeadsConfig) -> float:
    """Weight of CTC: ``ctc_loss_scale`` beside another head, else 1."""
    return loss.ctc_loss_scale if heads.use_transducer or heads.use_attention_decoder else 1.0


def check(loss: LossConfig, augment: AugmentConfig, heads: HeadsConfig) -> None:
    """Refuse what contradicts itself across the three. Raises `UserError` naming the flags."""
    if not (heads.use_transducer or heads.use_ctc or heads.use_attention_decoder):
        raise UserError("no head to train: set one of --use-transducer, --use-ctc, --use-attention-decoder to True")
    if loss.use_cr_ctc and not heads.use_ctc:
        raise must_be("--use-ctc", "True with --use-cr-ctc True", heads.use_ctc)
    if loss.use_cr_ctc and augment.enable_spec_aug:
        remedy = "CR-CTC masks each view by itself"
        raise must_be("--enable-spec-aug", "False with --use-cr-ctc True", augment.enable_spec_aug, remedy)
    if heads.use_attention_decoder and not heads.use_transducer:
        # icefall adds up the flags, whether there is a CTC head or not.
        total = loss.attention_decoder_loss_scale + loss.ctc_loss_scale
        whole = not heads.use_ctc and loss.attention_decoder_loss_scale == 1.0
        if not whole and not math.isclose(total, 1.0, abs_tol=1e-6):
            raise must_be(
                "--ctc-loss-scale + --attention-decoder-loss-scale", "1 without a transducer", round(total, 6)
            )
