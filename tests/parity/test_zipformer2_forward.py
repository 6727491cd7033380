"""Outputs, streaming states, gradients, keys and sizes equal icefall's (goldens: data/README.md)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from zipformer2_golden import CAUSAL, DATA, SIZES, arrays, golden_model

from couloir.models.common import balancer, blocks, whiten
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import HEAD_WIDTHS, PRESETS, ZipformerConfig
from couloir.models.zipformer.model import build_model
from couloir.models.zipformer.streaming import initial_states, state_shapes

# float32 noise of the reference is 4e-6; the goldens' README sets 2e-5.
OUTPUT_TOLERANCE = 2.0e-5


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "autograd"])
@pytest.mark.parametrize("tag", ["nc", "ca"])
def test_outputs(tag, grad):
    model, stored = golden_model(tag)
    with torch.set_grad_enabled(grad):
        embedded = model.encoder_embed(stored["x"])
        encoded, lens = model.forward_encoder(stored["x"], stored["x_lens"], padding="reference")
        log_probs = model.ctc_log_probs(encoded)
    assert lens.tolist() == stored["enc_lens"].tolist()
    torch.testing.assert_close(embedded.detach(), stored["embed"], atol=OUTPUT_TOLERANCE, rtol=0)
    # Each of the two float32 results alone, from float64: both are off by 4e-6, on other processors, too.
    exact = model.encoder_embed.double()(stored["x"].double()).detach()
    for single in (embedded.detach(), stored["embed"]):
        torch.testing.assert_close(single.double(), exact, atol=OUTPUT_TOLERANCE, rtol=0)
    for item, length in enumerate(lens):
        for ours, theirs in ((encoded, stored["enc"]), (log_probs, stored["ctc_logprobs"])):
            torch.testing.assert_close(
                ours[item, :length].detach(), theirs[item, :length], atol=OUTPUT_TOLERANCE, rtol=0
            )


@pytest.mark.parametrize("tag", ["nc", "ca"])
@torch.no_grad()
def test_transducer_heads(tag):
    model, stored = golden_model(tag)
    decoded = model.decoder(stored["dec_in"], need_pad=False)
    torch.testing.assert_close(decoded, stored["dec_out"], atol=OUTPUT_TOLERANCE, rtol=0)
    joined = model.joiner(stored["enc"][0, :3], decoded[:, 0])
    torch.testing.assert_close(joined, stored["joiner_logit"], atol=OUTPUT_TOLERANCE, rtol=0)


@torch.no_grad()
def test_streaming_equals_reference_and_masked_offline():
    model, stored = golden_model("ca")
    left = CAUSAL["left_context_frames"][0]
    states = initial_states(model.zipformer_config, 2, left)
    assert [tuple(s.shape) for s in states[:-1]] == [s for _, s in state_shapes(model.zipformer_config, 2, left)]
    chunks = []
    for i in range(12):
        chunk, states = model.streaming_forward(stored["x"][:, 16 * i : 16 * i + 29], states)
        chunks.append(chunk)
    streamed = torch.cat(chunks, dim=1)
    torch.testing.assert_close(streamed, stored["stream_enc"], atol=OUTPUT_TOLERANCE, rtol=0)
    for i in range(6):
        torch.testing.assert_close(states[i], stored[f"final_state_{i}"], atol=OUTPUT_TOLERANCE, rtol=0)
    assert states[-1].tolist() == [96, 96]
    offline, _ = model.forward_encoder(stored["x"], torch.tensor([205, 205]))
    torch.testing.assert_close(streamed, offline[:, :48], atol=OUTPUT_TOLERANCE, rtol=0)


def golden_loss(model, case, encoded, lens, golden):
    if case == "enc":
        return (encoded * golden("enc_R")).sum()
    if case == "ctcout":
        return (model.ctc_log_probs(encoded) * golden("ctc_R")).sum()
    if case == "ctcloss":
        log_probs = model.ctc_log_probs(encoded).transpose(0, 1)
        return F.ctc_loss(log_probs, golden("ctc_targets"), lens, golden("ctc_target_lens"), reduction="sum")
    predicted = model.decoder(golden("joiner_y"), need_pad=True)
    return (model.joiner(encoded[:, :5, None], predicted[:, None]) * golden("joiner_R")).sum()


@pytest.mark.parametrize("tag", ["nc", "ca"])
@torch.no_grad()
def test_losses_in_double(tag):
    """Without the rounding of float32, so within 1e-11 on any processor (seen: 1e-14); the reference's are float64."""
    model, stored = golden_model(tag)
    grads = {key[3:]: value for key, value in arrays("zipformer2_grads").items() if key.startswith(tag)}
    golden = {key: value.double() if value.is_floating_point() else value for key, value in grads.items()}
    encoded, lens = model.double().forward_encoder(stored["x"].double(), stored["x_lens"], padding="reference")
    for case in ("enc", "ctcout", "ctcloss", "joiner"):
        loss = golden_loss(model, case, encoded, lens, golden.__getitem__)
        assert loss.item() == pytest.approx(golden[f"{case}/loss"].item(), rel=1e-11)


# The small blocks make every blocked loop go round many times; the large ones, once.
@pytest.mark.parametrize("block", [512, 1 << 17])
@pytest.mark.parametrize("case", ["enc", "ctcout", "ctcloss", "joiner"])
@pytest.mark.parametrize("tag", ["nc", "ca"])
def test_gradients(tag, case, block, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    model, stored = golden_model(tag)
    grads = {key[3:]: value for key, value in arrays("zipformer2_grads").items() if key.startswith(tag)}
    feats = stored["x"].clone().requires_grad_()
    encoded, lens = model.forward_encoder(feats, stored["x_lens"], padding="reference")
    loss = golden_loss(model, case, encoded, lens, grads.__getitem__)
    loss.backward()
    # A sum of products of both signs: what its terms are rounded by stays, however small it is.
    weights = grads.get({"ctcout": "ctc_R"}.get(case, f"{case}_R"))
    slack = 0 if weights is None else OUTPUT_TOLERANCE * float(weights.norm())
    assert loss.item() == pytest.approx(grads[f"{case}/loss"].item(), rel=1e-6, abs=slack or 1e-4)
    parameters = dict(model.named_parameters())
    assert sum(p.grad is None for p in parameters.values()) == grads[f"{case}/no_grad_params"]
    expected = {key.split("/grad/")[1]: value for key, value in grads.items() if key.startswith(f"{case}/grad/")}
    assert len(expected) >= 10
    pairs = [(feats.grad, grads[f"{case}/grad_x"])] + [(parameters[n].grad, g) for n, g in expected.items()]
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()


@pytest.mark.parametrize("block", [32, 1 << 17])
def test_balancer_gradient(block, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    stored = arrays("zipformer2_gradient_rules")
    module = balancer.Balancer(0.3, 0.7, 0.2, 4.0, prob=1.0)
    x = stored["balancer/x"].requires_grad_()
    module(x).backward(stored["balancer/up"])
    torch.testing.assert_close(x.grad, stored["balancer/down"], atol=OUTPUT_TOLERANCE, rtol=0)


def test_whiten_gradient():
    stored = arrays("zipformer2_gradient_rules")
    module = whiten.Whiten(2, 1.5, grad_scale=0.01)
    x = stored["whiten/x"].requires_grad_()
    metric, _ = whiten.whitening_metric(x.detach(), 2)
    assert metric.item() == pytest.approx(stored["whiten/metric"].item(), rel=1e-5)
    whiten._Whiten.apply(x, module, 1.5, slice(None)).backward(stored["whiten/up"])
    torch.testing.assert_close(x.grad, stored["whiten/down"], atol=OUTPUT_TOLERANCE, rtol=0)


def heads_of(name):
    """The heads, and the encoder's preset, of a key list's name."""
    family, size, kind, *rest = name.split("-")
    preset = f"zipa_{size}" if family == "zipa" else size
    heads = {
        "transducer": {"use_ctc": "ctc" in rest},
        "ctc": {"use_transducer": False, "use_ctc": True, "use_attention_decoder": "aed" in rest},
        "crctc": {"use_transducer": False, "use_ctc": True},
    }[kind]
    widths = HEAD_WIDTHS.get(preset, {})
    config = PRESETS[preset]
    overrides = {"causal": "causal" in rest}
    if kind == "transducer":
        overrides["output_downsampling_factor"] = 2
    values = {field: getattr(config, field) for field in config.__dataclass_fields__}
    heads = HeadsConfig(vocab_size=127 if family == "zipa" else 500, **heads, **widths)
    return ZipformerConfig(**{**values, **overrides}), heads


@pytest.mark.parametrize("name", np.load(DATA / "zipformer2_keys.npz").files)
def test_state_dict_keys_and_shapes(name):
    with np.load(DATA / "zipformer2_keys.npz") as stored:
        lines = stored[name].tobytes().decode().splitlines()
    expected = [line.split("\t") for line in lines]
    with torch.device("meta"):
        model = build_model(*heads_of(name))
    ours = [[key, ",".join(map(str, tensor.shape))] for key, tensor in model.state_dict().items()]
    assert ours == [pair if len(pair) == 2 else [*pair, ""] for pair in expected]


# Counts that icefall's RESULTS.md prints, and those of ZIPA's published models.
COUNTS = {
    ("small", "transducer"): 23_285_615,
    ("small", "ctc"): 22_118_279,
    ("small", "both"): 23_414_115,
    ("medium", "transducer"): 65_549_011,
    ("medium", "ctc"): 64_250_603,
    ("medium", "both"): 65_805_511,
    ("medium", "aed"): 89_987_295,
    ("medium", "causal"): 66_110_931,
    ("large", "transducer"): 148_439_574,
    ("large", "ctc"): 147_010_094,
    ("large", "both"): 148_824_074,
    ("zipa_small", "ctc"): 64_059_253,
    ("zipa_large", "ctc"): 299_970_501,
}


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "kind"), COUNTS, ids=lambda value: value)
def test_parameter_counts(preset, kind):
    config = PRESETS[preset]
    if kind == "causal":
        config = ZipformerConfig(causal=True)
    heads = HeadsConfig(
        use_transducer=kind in ("transducer", "both", "causal"),
        use_ctc=kind in ("ctc", "both", "aed"),
        use_attention_decoder=kind == "aed",
        vocab_size=127 if "zipa" in preset else 500,
        **HEAD_WIDTHS.get(preset, {}),
    )
    with torch.device("meta"):
        model = build_model(config, heads)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[preset, kind]


def test_layers_of_a_stack_start_equal():
    model = build_model(ZipformerConfig(**SIZES), HeadsConfig(vocab_size=30))
    first, second = model.encoder.encoders[1].encoder.layers
    for a, b in zip(first.parameters(), second.parameters()):
        assert torch.equal(a, b)
