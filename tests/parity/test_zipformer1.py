"""Outputs, streaming states, gradients, keys and sizes equal icefall's first generation (goldens: data/README.md)."""

import pytest
import torch
from zipformer1_golden import HEADS, arrays, golden_config, golden_model, names_and_shapes, state_dict

from couloir.decoding.transducer.greedy import greedy_search
from couloir.models.common import blocks
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer1.architecture import adapted, preset_name, same_sizes, zipformer1_config
from couloir.models.zipformer1.config import PRESETS, Zipformer1Config
from couloir.models.zipformer1.model import build_model
from couloir.models.zipformer1.streaming import Zipformer1Streaming, initial_states

# The goldens' README sets 1e-5; noise here is 4e-7 on outputs and 6e-6 on states, which are of size 10.
TOLERANCE = 1.0e-5
# Embedded frames are of size 20, of which float32 resolves 2e-6; sums of 288 products differ by a few of these.
EMBED_TOLERANCE = 2.0e-5
CHUNKS = 7


def close(ours, theirs, tolerance=TOLERANCE):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def encode_chunks(model, feats, hide_unfilled=False):
    """The streamed output, and the states after every chunk."""
    streaming = Zipformer1Streaming(model, hide_unfilled)
    states, outputs, history = streaming.initial(len(feats)), [], []
    for i in range(CHUNKS):
        begin = i * streaming.chunk_frames
        chunk, states = streaming.step(feats[:, begin : begin + streaming.window_frames], states)
        outputs.append(chunk)
        history.append(states)
    return torch.cat(outputs, dim=1), history


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "autograd"])
@pytest.mark.parametrize("padding", ["exact", "reference"])
def test_masked_outputs(padding, grad):
    model, stored = golden_model()
    with torch.set_grad_enabled(grad):
        encoded, lens = model.forward_encoder(stored["x"], stored["x_lens"], padding)
    assert lens.tolist() == stored["enc_lens"].tolist() == [56, 48]
    for item, length in enumerate(lens):
        close(encoded[item, :length].detach(), stored["enc_sim"][item, :length])


@torch.no_grad()
def test_embedding():
    model, stored = golden_model()
    close(model.encoder.encoder_embed(stored["x"][1:]), stored["embed"], EMBED_TOLERANCE)


@torch.no_grad()
def test_full_context():
    model, stored = golden_model(decode_chunk_len=2 * 8192)
    encoded, _ = model.forward_encoder(stored["x"], stored["x_lens"])
    close(encoded[:1], stored["enc_full"])


@torch.no_grad()
def test_chunk_by_chunk_and_every_state():
    model, stored = golden_model()
    encoded, history = encode_chunks(model, stored["x"])
    close(encoded, stored["enc_stream"])
    names = Zipformer1Streaming(model).names
    for when, states, stream in (("state_after_1", history[0], 0), ("state_final", history[-1], 1)):
        for index, (name, state) in enumerate(zip(names, states)):
            axis = Zipformer1Streaming(model).batch_axis(name)
            expected = stored[f"{when}/{index:02}"]
            assert state.dtype == expected.dtype, name
            close(state.narrow(axis, stream, 1), expected)
    assert len(names) == len(history[0]) == 21


def test_initial_states():
    stored = arrays()
    states = initial_states(golden_config(), 1)
    assert len(states) == 21 and not any(state.any() for state in states)
    for index, state in enumerate(states):
        layers, *shape = stored[f"init_state_shape/{index:02}"].tolist()
        # The stored shapes are of two streams.
        axis = 2 if 6 <= index < 15 else 1
        expected = [layers, *shape]
        expected[axis] = 1
        assert list(state.shape) == expected
        assert state.dtype == (torch.int64 if index < 3 else torch.float32)


@torch.no_grad()
def test_chunk_by_chunk_with_hidden_empty_slots_is_the_masked_whole():
    """The reference, with such a mask added, was within 3e-7."""
    model, stored = golden_model()
    encoded, _ = encode_chunks(model, stored["x"], hide_unfilled=True)
    close(encoded[0], stored["enc_sim"][0], 2e-6)
    whole, _ = model.forward_encoder(stored["x"], torch.tensor([231, 231]))
    close(encoded, whole, 2e-6)


@torch.no_grad()
def test_transducer_heads():
    model, stored = golden_model()
    decoded = model.decoder(stored["dec_in"], need_pad=False)
    close(decoded, stored["dec_out"])
    close(model.decoder(stored["dec_seq_in"]), stored["dec_seq_out"])
    encoded = stored["enc_sim"][:, :5]
    close(model.joiner(encoded[:, :, None], decoded[:, 0][None, None]), stored["joiner_logits"])
    close(model.simple_am_proj(encoded), stored["simple_am"])
    close(model.simple_lm_proj(decoded[:, 0][None]), stored["simple_lm"])


@pytest.mark.parametrize("kind", ["sim", "stream"])
@torch.no_grad()
def test_greedy_tokens(kind):
    """The narrowest choice on the way is by 6e-3, a thousand times what the outputs differ by."""
    model, stored = golden_model()
    if kind == "stream":
        encoded, lens = encode_chunks(model, stored["x"])[0], torch.tensor([56, 56])
    else:
        encoded, lens = model.forward_encoder(stored["x"], stored["x_lens"])
    assert stored["greedy_margin"].min() > 1e-3
    for found, expected in zip(greedy_search(model, encoded, lens), stored[f"greedy_{kind}"].tolist()):
        assert found.tokens == [token for token in expected if token >= 0]


@pytest.mark.parametrize("block", [512, 1 << 17])
def test_gradients(block, monkeypatch):
    """A float32 run against float64: within 2e-5 of each array's largest, where 2e-4 is asked for."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    model, stored = golden_model()
    feats = stored["x"].clone().requires_grad_()
    encoded, _ = model.forward_encoder(feats, stored["x_lens"], padding="reference")
    loss = (encoded * stored["grad_R"]).sum()
    # A sum of 5000 products of both signs.
    assert loss.item() == pytest.approx(stored["grad_scalar"].item(), abs=1e-5 * stored["grad_R"].norm().item())
    loss.backward()
    parameters = dict(model.named_parameters())
    assert all(p.grad is not None for name, p in parameters.items() if name.startswith("encoder."))
    expected = {key.removeprefix("grad/"): value for key, value in stored.items() if key.startswith("grad/")}
    pairs = [(feats.grad[:, ::8], expected.pop("x"))]
    pairs += [(parameters[name].grad[: len(g)] if g.ndim else parameters[name].grad, g) for name, g in expected.items()]
    assert len(pairs) == 21
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max()


def test_names_shapes_and_their_order():
    model, _ = golden_model()
    ours = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    assert ours == names_and_shapes()


def test_counts_of_calls_come_and_go_with_checkpoints():
    weights = state_dict()
    model, _ = golden_model()
    saved = model.state_dict()
    counts = [name for name in weights if name.endswith(".count")]
    assert len(counts) == 8 * 4 + 3
    assert all(saved[name].dtype == torch.int64 and saved[name] == weights[name] for name in counts)


def layer_parameters(d, a, h, f, k):
    """Of one layer, counted by hand."""
    attention = (2 * a + a // 2 + 4 * h) * (d + 1) + 4 * h * d + 2 * (a // 2 * d + d) + a // 2 * d
    return attention + d * d + 3 * (2 * d * f + f + d) + 2 * (3 * d * d + 4 * d + d * k) + 2


def test_the_default_has_the_keys_and_parameters_of_icefalls():
    """Figures that icefall prints, and the sum of its parts."""
    with torch.device("meta"):
        model = build_model(Zipformer1Config(), HeadsConfig(vocab_size=500))
    names = list(model.state_dict())
    assert len(names) == 682
    assert sum(name.endswith(".count") for name in names) == 123
    assert "encoder.skip_modules.4.weight1" in names and not any("skip_modules.3" in name for name in names)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(model) == 70_369_391
    parts = (model.encoder, model.decoder, model.joiner, model.simple_am_proj, model.simple_lm_proj)
    assert [count(part) for part in parts] == [68_944_019, 260_096, 716_276, 192_500, 256_500]
    assert layer_parameters(384, 192, 8, 1024, 31) == 3_743_362 == count(model.encoder.encoders[0].layers[0])
    assert layer_parameters(384, 192, 8, 2048, 31) == 6_105_730 == count(model.encoder.encoders[2].encoder.layers[2])
    assert count(model.encoder.encoder_embed) == 973_680


@pytest.mark.parametrize("name", [*PRESETS, "golden"])
def test_sizes_are_read_off_weights(name):
    config = golden_config() if name == "golden" else PRESETS[name]
    heads = HEADS if name == "golden" else HeadsConfig(vocab_size=500)
    with torch.device("meta"):
        weights = build_model(config, heads).state_dict()
    assert same_sizes(zipformer1_config(weights, "x.pt"), config)
    assert preset_name(config) == ("" if name == "golden" else name)
    found, widths = adapted(Zipformer1Config(decode_chunk_len=64), heads, weights, ["decode_chunk_len"], "x.pt")
    assert same_sizes(found, config) and found.decode_chunk_len == 64 and widths == heads
