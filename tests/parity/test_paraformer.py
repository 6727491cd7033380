"""Every golden number of FunASR's Paraformer: layers, predictor, decoder, losses, gradients, keys (data/README.md)."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from paraformer_golden import CONFIGS, DATA, TOKENS, arrays, golden_model, inputs

from couloir.losses.paraformer import paraformer_losses
from couloir.losses.paraformer_config import ParaformerLossConfig
from couloir.models.paraformer.config import AISHELL, PRESETS
from couloir.models.paraformer.model import build_model
from couloir.models.paraformer.predictor import TimedPredictor

# The goldens were rounded to 6 decimals, and 1e-5 is what a float32 implementation should meet. Sums over thousands of
# values have 4 or 5 decimals, and float32 adds them up to 2e-6 of their size. Within the decoder's layers the
# reference's own float32 numbers are 2.5e-5 from what float64 gives.
ATOL, RTOL = 1.0e-5, 2.0e-6
WIDER = {"sum": 2.0e-4, "decoder.decoders.": 5.0e-5, "decoder.decoders2.": 5.0e-5}
STORED = arrays()
LOSSES = {
    "A": ParaformerLossConfig(),
    "B": ParaformerLossConfig(ctc_weight=0.3, length_normalized_loss=False),
    "C": ParaformerLossConfig(ctc_weight=0.3, length_normalized_loss=False),
}


def stored(tag, prefix):
    """Arrays below a prefix, the prefix cut off."""
    start = f"{tag}/{prefix}"
    return {key.removeprefix(start): value for key, value in STORED.items() if key.startswith(start)}


def check(ours, theirs):
    """All of the golden numbers, by name, and no other."""
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        value = torch.as_tensor(ours[name]).detach().double().numpy()
        assert value.shape == expected.shape, name
        atol = next((bound for part, bound in WIDER.items() if part in name), ATOL)
        np.testing.assert_allclose(value, expected, atol=atol, rtol=RTOL, err_msg=name)


def recognised(tag):
    model = golden_model(tag)
    with torch.no_grad():
        return model, model(*inputs(tag, STORED), padding="reference")


@pytest.mark.parametrize("tag", CONFIGS)
def test_outputs_unrounded(tag):
    _, found = recognised(tag)
    prediction = found.prediction
    ours = {
        "encoder_out": found.encoder_out,
        "encoder_out_lens": found.encoder_lens,
        "alphas": prediction.alphas,
        "peaks": prediction.peaks,
        "token_num": found.token_num,
        "acoustic": prediction.acoustic,
        "logp": found.log_probs,
    }
    check({**ours, **dict(zip(("x", "x_lens"), inputs(tag, STORED)))}, stored(f"full/{tag}", ""))


@pytest.mark.parametrize("tag", CONFIGS)
def test_outputs_rounded(tag):
    model, found = recognised(tag)
    out, lens, counts = found.encoder_out, found.encoder_lens, found.token_num
    valid = [out[i, : lens[i]] for i in range(2)]
    best = [found.log_probs[i, : counts[i]].max(dim=-1) for i in range(2)]
    prediction = found.prediction
    ours = {
        "params": sum(p.numel() for p in model.parameters()),
        "encoder_out_lens": lens,
        "encoder_out_shape": list(out.shape),
        "encoder_sum_valid": torch.stack([v.sum() for v in valid]),
        "encoder_abs_sum_valid": torch.stack([v.abs().sum() for v in valid]),
        "encoder_out[0,0,:4]": out[0, 0, :4],
        "encoder_out[1,last,:4]": valid[1][-1, :4],
        "alphas": prediction.alphas,
        "peaks": prediction.peaks,
        "token_num": counts,
        "acoustic_shape": list(prediction.acoustic.shape),
        "acoustic_abs_sum": prediction.acoustic.abs().sum(dim=(1, 2)),
        "acoustic[0,0,:4]": prediction.acoustic[0, 0, :4],
        "logp_shape": list(found.log_probs.shape),
        "logp[0,0]": found.log_probs[0, 0],
        "argmax/0": best[0].indices,
        "argmax/1": best[1].indices,
        "score": torch.stack([b.values.sum() for b in best]),
    }
    elsewhere = re.compile(r"train_|grad_norms|params_without|trace/|teacher/|fill_check/|input_check/|keys$")
    check(ours, {name: value for name, value in stored(tag, "").items() if not elsewhere.match(name)})


@pytest.mark.parametrize("tag", CONFIGS)
def test_weights_and_inputs_are_the_ones_meant(tag):
    model, (x, _) = golden_model(tag), inputs(tag, STORED)
    weights = [parameter.double() for parameter in model.parameters()]
    ours = {
        "sum": sum(w.sum() for w in weights),
        "abs_sum": sum(w.abs().sum() for w in weights),
        "first": model.decoder.output_layer.weight.flatten()[:4],
    }
    check(ours, stored(tag, "fill_check/"))
    if theirs := stored(tag, "input_check/"):
        check({"x[0,0,:4]": x[0, 0, :4], "x[1,12,:4]": x[1, 12, :4], "abs_sum": x.double().abs().sum()}, theirs)


@pytest.mark.parametrize("tag", ["A", "B"])
def test_layer_by_layer(tag):
    model, seen = golden_model(tag), {}
    theirs = stored(tag, "trace/")
    for name in {key.rsplit("/", 1)[0] for key in theirs}:
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, out))
    with torch.no_grad():
        model(*inputs(tag, STORED), padding="reference")
    ours = {f"{name}/[0,0,:4]": out[0, 0, :4] for name, out in seen.items()}
    ours |= {f"{name}/[0] abs_sum": out[0].abs().sum() for name, out in seen.items()}
    check(ours, theirs)


def test_vectors_of_known_tokens():
    model, theirs = golden_model("A"), stored("A", "teacher/")
    with torch.no_grad():
        lesson = model.teach(*inputs("A", STORED), TOKENS, padding="reference")
        prediction = model.predictor.teach(lesson.encoder_out, lesson.encoder_lens, lesson.target_lens, 5)
    rows = prediction.acoustic.abs().sum(dim=-1)
    # The reference loses the last token of the first utterance to rounding: 4 fires of 5, and a row of zeros.
    lost = theirs.pop("fires")
    assert lost.tolist() == [4, 3]
    assert prediction.token_num.tolist() == [5, 3]
    assert rows[0, 4] > 5.0
    rows[0, 4] = 0.0
    ours = {
        "ys_with_eos": lesson.targets,
        "raw_token_num": prediction.raw_sum,
        "alpha_sum_scaled": prediction.alphas.sum(dim=1),
        "acoustic_shape": list(prediction.acoustic.shape),
        "acoustic_row_abs_sum": rows,
        "alphas[0]": prediction.alphas[0],
    }
    check(ours, theirs)


def test_fires_of_known_tokens():
    model = golden_model("B")
    with torch.no_grad():
        lesson = model.teach(*inputs("B", STORED), TOKENS, padding="reference")
        prediction = model.predictor.teach(lesson.encoder_out, lesson.encoder_lens, lesson.target_lens, 4)
    check({"fires": prediction.token_num}, stored("B", "teacher/"))


def without_the_last_fire(model):
    """Let the predictor lose what the reference loses: the last of the first utterance's five tokens."""
    teach = model.predictor.teach

    def losing(*args):
        prediction = teach(*args)
        keep = torch.ones(2, 5, 1)
        keep[0, 4] = 0.0
        return prediction._replace(acoustic=prediction.acoustic * keep)

    model.predictor.teach = losing
    return model


def lesson_and_losses(model, tag, ratio=0.0):
    lesson = model.teach(*inputs(tag, STORED), TOKENS, ratio, padding="reference")
    return lesson, paraformer_losses(lesson, TOKENS, LOSSES[tag])


def named(losses):
    ours = {"loss": losses.total, "loss_att": losses.attention, "loss_pre": losses.predictor, "acc": losses.accuracy}
    return {**ours, "batch_size": 2, **({} if losses.ctc is None else {"loss_ctc": losses.ctc})}


@pytest.mark.parametrize("tag", CONFIGS)
def test_losses_and_gradients_without_the_sampler(tag):
    model = golden_model(tag)
    _, losses = lesson_and_losses(without_the_last_fire(model) if tag == "A" else model, tag)
    check({**named(losses), "weight": losses.weight}, stored(tag, "train_nosampler/"))
    losses.total.backward()
    norms = stored(tag, "grad_norms_nosampler/")
    check({name: model.get_parameter(name).grad.norm() for name in norms}, norms)
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert untouched == STORED[f"{tag}/params_without_grad_nosampler"].tolist()


def test_the_last_fire_is_kept():
    _, losses = lesson_and_losses(golden_model("A"), "A")
    assert losses.attention.item() == pytest.approx(1.967666, abs=ATOL)


@pytest.mark.parametrize("tag", CONFIGS)
def test_losses_with_all_tokens_shown(tag):
    # No position is right in the first pass, so a ratio of 1 shows them all, whatever is drawn.
    model = golden_model(tag)
    _, losses = lesson_and_losses(model, tag, ratio=1.0)
    check(named(losses), stored(tag, "train_sampler_ratio1_seed0/"))
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("tag", CONFIGS)
def test_keys_shapes_and_order_of_the_tiny_models(tag):
    ours = [f"{key}\t{','.join(map(str, value.shape))}" for key, value in golden_model(tag).state_dict().items()]
    assert ours == STORED[f"{tag}/keys"].tobytes().decode().splitlines()


def key_list(title):
    """(key, shape) in order for one of the dumped models; a run of lines with `*` is one layer, repeated."""
    lines = (DATA / "paraformer_keys.txt").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"== {title}"))
    entries, layers, prefix = [], [], ""
    for line in [*lines[begin + 2 :], "=="]:
        found = re.match(r" +(\S+) \[(.*?)\]\s*(?:torch.int64)?\s*(?:x(\d+))?", line)
        start, star, _ = found[1].partition("*") if found else ("", "", "")
        if layers and (not star or start != prefix):
            entries += [(key.replace("*", str(i)), shape) for i in range(layers[0][2]) for key, shape, _ in layers]
            layers = []
        if not found:
            return entries
        prefix = start
        shape = [int(n) for n in found[2].split(",") if n.strip()]
        if star:
            layers.append((found[1], shape, int(found[3])))
        else:
            entries.append((found[1], shape))
    raise AssertionError


@pytest.mark.parametrize(
    ("title", "preset"),
    [("large 8404", "large"), ("small 8358->8359", "small"), ("aishell conformer 4234", "aishell")],
)
def test_keys_shapes_and_order_of_published_models(title, preset):
    with torch.device("meta"):
        model = build_model(PRESETS[preset])
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == key_list(title)


def test_keys_and_shapes_of_the_predictor_with_times():
    lines = (DATA / "paraformer_keys.txt").read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("== BiCif predictor"))
    with torch.device("meta"):
        model = TimedPredictor(replace(PRESETS["large"], predictor="v3"))
    assert [f"{key} {list(value.shape)}" for key, value in model.state_dict().items()] == lines[begin + 1 :]
    assert sum(p.numel() for p in model.parameters()) == 5_777_922


# Parameters of encoder, decoder, predictor and CTC head, and entries of the state dict, of instantiated FunASR models.
SIZES = {
    "large": (PRESETS["large"], (157_975_648, 61_321_428, 787_457, 0), 956),
    "large, 10 attending": (
        replace(PRESETS["large"], num_decoder_attention_layers=10),
        (157_975_648, 55_011_540, 787_457, 0),
        908,
    ),
    "large with CTC": (replace(PRESETS["large"], use_ctc=True), (157_975_648, 61_321_428, 787_457, 4_311_252), 958),
    "small": (PRESETS["small"], (49_690_720, 21_054_759, 307_841, 0), 754),
    "small, 8358": (replace(PRESETS["small"], vocab_size=8358), (49_690_720, 21_054_118, 307_841, 0), 754),
    "aishell": (AISHELL, (33_464_832, 11_645_066, 1_281, 1_088_138), 655),
    "aishell, v2": (replace(AISHELL, predictor="v2"), (33_464_832, 11_645_066, 197_121, 1_088_138), 655),
    "aishell2": (PRESETS["aishell2"], (52_324_480, 13_208_412, 1_601, 1_673_052), 975),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    config, sizes, entries = SIZES[name]
    with torch.device("meta"):
        model = build_model(config)
    parts = (model.encoder, model.decoder, model.predictor, model.ctc)
    assert tuple(0 if part is None else sum(p.numel() for p in part.parameters()) for part in parts) == sizes
    assert len(model.state_dict()) == entries
