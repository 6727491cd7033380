"""Contradictions between objective, augmentation and heads are refused by the flags' names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from couloir.errors import UserError
from couloir.features.config import AugmentConfig
from couloir.losses.config import LossConfig, check, ctc_scale


def heads(transducer: bool = False, ctc: bool = True, attention: bool = False) -> SimpleNamespace:
    return SimpleNamespace(use_transducer=transducer, use_ctc=ctc, use_attention_decoder=attention)


@pytest.mark.parametrize(
    "values, flag",
    [
        ({"ctc_loss_scale": -0.1}, "--ctc-loss-scale"),
        ({"cr_loss_scale": float("nan")}, "--cr-loss-scale"),
        ({"lm_scale": 0.7, "am_scale": 0.5}, "--lm-scale"),
        ({"prune_range": 1}, "--prune-range"),
        ({"cr_loss_warm_step": -1}, "--cr-loss-warm-step"),
    ],
)
def test_impossible_values(values, flag):
    with pytest.raises(UserError, match=flag):
        LossConfig(**values)


def test_contradictions_across_classes():
    plain, cr = LossConfig(), LossConfig(use_cr_ctc=True)
    masked, unmasked = AugmentConfig(), AugmentConfig(enable_spec_aug=False)
    for loss, augment, model, flag in (
        (plain, masked, heads(ctc=False), "no head to train"),
        (cr, unmasked, heads(transducer=True, ctc=False), "--use-ctc"),
        (cr, masked, heads(), "--enable-spec-aug"),
        (LossConfig(ctc_loss_scale=0.3), masked, heads(attention=True), "--attention-decoder-loss-scale"),
        (LossConfig(ctc_loss_scale=0.3), masked, heads(ctc=False, attention=True), "--attention-decoder-loss-scale"),
    ):
        with pytest.raises(UserError, match=flag):
            check(loss, augment, model)


def test_published_combinations_are_allowed():
    check(LossConfig(), AugmentConfig(), heads(transducer=True, ctc=False))
    check(LossConfig(), AugmentConfig(), heads(transducer=True, ctc=True, attention=True))
    check(LossConfig(), AugmentConfig(), heads(attention=True))
    # icefall's assertion is on the flags, .2 and .8, also where no CTC head uses the first.
    check(LossConfig(), AugmentConfig(), heads(ctc=False, attention=True))
    check(LossConfig(attention_decoder_loss_scale=1.0), AugmentConfig(), heads(ctc=False, attention=True))
    check(LossConfig(use_cr_ctc=True), AugmentConfig(enable_spec_aug=False), heads())


def test_ctc_alone_has_its_full_weight():
    assert ctc_scale(LossConfig(), heads()) == 1.0
    assert ctc_scale(LossConfig(), heads(transducer=True)) == ctc_scale(LossConfig(), heads(attention=True)) == 0.2
