"""The objective against its heads computed one by one, in every combination that icefall allows."""

import dataclasses
import itertools
import math
import re

import pytest
import torch

from couloir.data.batch import Batch
from couloir.errors import UserError
from couloir.features.config import AugmentConfig, FbankConfig
from couloir.features.fbank import Fbank
from couloir.features.front_end import make_front_end
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.losses import rnnt
from couloir.losses.config import LossConfig, check
from couloir.losses.ctc import ctc_loss
from couloir.losses.objective import AsrObjective
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model

SIZES = ZipformerConfig(
    num_encoder_layers=(1,), downsampling_factor=(1, 2), feedforward_dim=(32,), num_heads=(2,), encoder_dim=(24, 32),
    query_head_dim=(8,), value_head_dim=(6,), encoder_unmasked_dim=(24, 32), cnn_module_kernel=(7,),
    frontend_channels=(4, 8, 8),
)  # fmt: skip
SMALL = {
    "vocab_size": 12, "decoder_dim": 16, "joiner_dim": 20, "attention_decoder_dim": 16,
    "attention_decoder_attention_dim": 16, "attention_decoder_num_layers": 1, "attention_decoder_num_heads": 2,
    "attention_decoder_feedforward_dim": 24,
}  # fmt: skip
PLAIN = AugmentConfig(enable_spec_aug=False)
HEADS = [dict(zip(("transducer", "ctc", "attention_decoder"), on)) for on in itertools.product((True, False), repeat=3)]


def batch(tokens=((2, 3, 4, 4), (5, 6), (7, 8, 9))):
    torch.manual_seed(3)
    lens = torch.tensor([19000, 12000, 16000])[: len(tokens)]
    ids = [f"utt{i}" for i in range(len(tokens))]
    blank = [""] * len(tokens)
    return Batch(ids, blank, blank, blank, [list(t) for t in tokens], torch.randn(len(tokens), int(lens.max())), lens)


def objective(heads, **loss):
    torch.manual_seed(1)
    model = build_model(SIZES, HeadsConfig(**{f"use_{k}": v for k, v in heads.items()}, **SMALL))
    return AsrObjective(model, Fbank(FbankConfig()), PLAIN, LossConfig(**loss))


NORMALISED = LfrConfig(lfr_m=1, lfr_n=1, neg_mean=(-9.0,) * 80, inv_stddev=(0.2,) * 80)


@pytest.mark.parametrize(("config", "written"), [(NORMALISED, 0.0), (LogMelConfig(), None)])
def test_any_front_end_is_trained_with(config, written):
    """Masks have its value, and noise is added where it has some; in eval mode nothing is drawn."""
    torch.manual_seed(1)
    model = build_model(SIZES, HeadsConfig(use_ctc=True, use_transducer=False, **SMALL))
    augment = AugmentConfig(spec_aug_prob=1.0, spec_aug_time_warp_factor=0)
    ours, data = AsrObjective(model, make_front_end(config), augment, LossConfig()), batch()
    feats, lens = ours.train().features(data)
    masked = feats[0, : lens[0]] == (feats[0].mode().values[0] if written is None else written)
    assert masked.any() and lens.tolist() == [config.num_frames(n) for n in data.audio_lens.tolist()]
    loss, _ = ours(data, 500)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.encoder_embed.parameters() if p.grad is not None)
    state = torch.get_rng_state()
    plain, _ = ours.eval().features(data)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(plain, ours.features(data)[0])
    assert torch.equal(plain, make_front_end(config)(data.audio, data.audio_lens)[0])


def by_hand(model, feats, feat_lens, tokens, prune_range):
    """The heads' sums over the batch, each utterance by itself and the transducer through its whole lattice."""
    encoded, lens = model.forward_encoder(feats, feat_lens)
    sums = {"ctc_loss": 0.0, "attn_decoder_loss": 0.0, "simple_loss": 0.0, "pruned_loss": 0.0}
    for frames, length, ids in zip(encoded, lens.tolist(), tokens):
        one = frames[None, :length]
        if hasattr(model, "ctc_output"):
            sums["ctc_loss"] += ctc_loss(model.ctc_log_probs(one), torch.tensor([length]), [ids])
        if hasattr(model, "attention_decoder"):
            sums["attn_decoder_loss"] += model.attention_decoder(one, torch.tensor([length]), [ids])
        if hasattr(model, "joiner"):
            predicted = model.decoder(torch.tensor([[0, *ids]]))
            lm, am, symbols = model.simple_lm_proj(predicted), model.simple_am_proj(one), torch.tensor([ids])
            sums["simple_loss"] += rnnt.rnnt_loss_smoothed(lm, am, symbols, 0, 0.25, 0.0)
            if prune_range > len(ids):
                logits = model.joiner(one[:, :, None], predicted[:, None])
                sums["pruned_loss"] += rnnt.rnnt_loss(logits, symbols, 0, reduction="sum")
    return sums


@pytest.mark.parametrize("heads", [heads for heads in HEADS if any(heads.values())])
def test_the_loss_is_the_weighted_sum_of_its_heads(heads):
    loss = {"ctc_loss_scale": 0.3, "attention_decoder_loss_scale": 0.7, "prune_range": 5}
    ours = objective(heads, **loss).eval()
    data = batch()
    with torch.no_grad():
        total, stats = ours(data, 500)
        hand = by_hand(ours.model, *ours.fbank(data.audio, data.audio_lens), data.tokens, 5)
    for name, value in stats.items():
        if name.endswith("_loss"):
            # The unigram of am smoothing is the batch's, but am_scale is 0 here, so items do not see each other.
            assert float(value) == pytest.approx(float(hand[name]), rel=1e-4), name
    # 500 of 2000 warm-up batches: the simple loss has come a quarter of its way from 1 to 0.5.
    expected = 0.0
    if heads["transducer"]:
        expected += 0.875 * hand["simple_loss"] + 0.325 * hand["pruned_loss"]
    alone = not (heads["transducer"] or heads["attention_decoder"])
    if heads["ctc"]:
        expected += (1.0 if alone else 0.3) * hand["ctc_loss"]
    if heads["attention_decoder"]:
        expected += 0.7 * hand["attn_decoder_loss"]
    assert total.item() == pytest.approx(float(expected), rel=1e-4)
    assert int(stats["frames"]) == sum(((int(n) + 80) // 160) // 4 for n in data.audio_lens)


@pytest.mark.parametrize(("step", "scales"), [(0, (1.0, 0.1)), (1000, (0.75, 0.55)), (2000, (0.5, 1.0)), (9, None)])
def test_warm_up_of_the_transducer(step, scales):
    transducer = objective({"transducer": True}, simple_loss_scale=0.5).transducer
    assert transducer.scales(step) == pytest.approx(scales or (1 - 9 / 4000, 0.1 + 0.9 * 9 / 2000))
    assert objective({"transducer": True}, warm_step=0).transducer.scales(0) == (0.5, 1.0)


def test_two_views_give_every_head_its_mean_over_them():
    ours = objective(HEADS[0], use_cr_ctc=True, attention_decoder_loss_scale=0.6, cr_loss_scale=0.02).train()
    total, stats = ours(batch(), 1000)
    assert set(stats) == {
        "loss", "simple_loss", "pruned_loss", "ctc_loss", "cr_loss", "attn_decoder_loss", "frames", "utterances",
    }  # fmt: skip
    value = {name: float(v) for name, v in stats.items()}
    expected = 0.75 * value["simple_loss"] + 0.55 * value["pruned_loss"] + 0.2 * value["ctc_loss"]
    expected += 0.01 * value["cr_loss"] + 0.6 * value["attn_decoder_loss"]
    assert total.item() == pytest.approx(expected, rel=1e-5)
    # Means over the views, hence of the size of one view's losses and not of two.
    single = {name: float(v) for name, v in ours.eval()(batch(), 1000)[1].items()}
    for name in ("simple_loss", "ctc_loss", "attn_decoder_loss"):
        assert value[name] == pytest.approx(single[name], rel=0.5), name


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        (HEADS[0], "no CTC path: 500 tokens"),
        ({"transducer": False, "ctc": True}, "no CTC path: 500 tokens"),
        ({"transducer": True, "ctc": False}, "no transducer path: 500 symbols"),
    ],
)
def test_utterances_without_a_path_are_left_out_and_told(heads, reason):
    ours = objective(heads).eval()
    good, bad = batch(), batch()
    bad.tokens[1] = [3] * 500
    bad.tokens[2] = [4, 0, 5]
    bad.skipped.append(("utt9", "is empty"))
    # On its device it is another object; what is left out must reach the one that the loader counts.
    total, stats = ours(bad.to("cpu"), 5)
    (_, first), (name, told), (other, blank) = bad.skipped
    assert (first, name, other) == ("is empty", "utt1", "utt2")
    assert reason in told and "blank" in blank
    assert int(stats["utterances"]) == 1
    alone = Batch(["utt0"], [""], [""], [""], good.tokens[:1], good.audio[:1], good.audio_lens[:1])
    assert total.item() == pytest.approx(ours(alone, 5)[0].item(), rel=1e-4)


def test_what_speed_perturbation_makes_too_short_is_told():
    """It fits at its own speed, and at 1.5 times of it no longer: not a loss of zero that nobody sees."""
    ours = objective({"transducer": False, "ctc": True}).train()
    frames = int(ours.model.forward_encoder(*ours.fbank(batch().audio, batch().audio_lens))[1][1])
    data = batch()
    data.tokens[1] = [2 + i % 9 for i in range(frames)]
    assert int(ours(data, 5)[1]["utterances"]) == 3 and not data.skipped
    ours.augment = dataclasses.replace(PLAIN, use_speed_perturb=True, speed_perturb_factors=(1.5,))
    assert int(ours(data, 5)[1]["utterances"]) == 2
    assert [name for name, _ in data.skipped] == ["utt1"] and "no CTC path" in data.skipped[0][1]


def test_a_batch_with_nothing_usable_has_no_loss_and_zero_gradient():
    ours = objective(HEADS[0]).train()
    total, stats = ours(batch(tokens=((0,), (0, 3))), 5)
    total.backward()
    assert total.item() == 0.0 and int(stats["utterances"]) == 0
    assert all(not p.grad.any() for p in ours.model.parameters())


def test_every_parameter_that_is_used_gets_a_finite_gradient():
    ours = objective(HEADS[0]).train()
    total, _ = ours(batch(tokens=((2, 3), (), (4,))), 100)
    total.backward()
    for name, parameter in ours.model.named_parameters():
        if not re.search(r"layers\.\d+\.bypass_scale$", name):  # which nothing uses, but checkpoints hold
            assert parameter.grad is not None and math.isfinite(float(parameter.grad.sum())), name


def test_half_precision_changes_little():
    ours = objective(HEADS[0]).eval()
    full = ours(batch(), 1000)[1]
    with torch.autocast("cpu", torch.bfloat16):
        total, half = ours(batch(), 1000)
    total.backward()
    assert total.dtype == torch.float32
    for name in ("simple_loss", "pruned_loss", "ctc_loss", "attn_decoder_loss"):
        assert float(half[name]) == pytest.approx(float(full[name]), rel=0.02), name
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.model.parameters())


@pytest.mark.parametrize(
    ("heads", "loss", "words"),
    [
        ({"transducer": True, "ctc": False}, {"use_cr_ctc": True}, "--use-ctc"),
        (
            {"transducer": False, "attention_decoder": True},
            {"attention_decoder_loss_scale": 0.9},
            "without a transducer",
        ),
        ({"transducer": True}, {"warm_step": -1}, "--warm-step"),
        ({"transducer": True}, {"prune_range": 1}, "--prune-range"),
        ({"transducer": True}, {"rnnt_backend": "k3"}, "k3"),
    ],
)
def test_contradictions_are_one_line(heads, loss, words):
    with pytest.raises(UserError, match=words) as caught:
        config = LossConfig(**loss)
        check(config, PLAIN, HeadsConfig(**{f"use_{k}": v for k, v in heads.items()}))
        objective(heads, **loss)
    assert "\n" not in str(caught.value)
