"""The first generation: what an output depends on; streams; configurations that contradict themselves."""

import random

import pytest
import torch
from zipformer1_models import SIZES, features, small_model

from couloir.errors import UserError
from couloir.models.common.attention import chunk_mask
from couloir.models.common.streaming import pack_streams, unpack_streams
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer1.architecture import adapted, owns, zipformer1_config
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.model import build_model, num_subsampled_frames
from couloir.models.zipformer1.stack import StackMasks
from couloir.models.zipformer1.streaming import Zipformer1Streaming, join_layers, split_layers, state_shapes

# Outputs are of size 4; sums are taken in another order in a batch. Seen: 2e-6.
NOISE = 1.0e-5
CASES = {
    "rising_rate_in_the_middle": {},
    "published_shape": {
        "num_encoder_layers": (1,) * 5,
        "feedforward_dims": (24,),
        "nhead": (2,),
        "encoder_dims": (16,),
        "attention_dims": (16,),
        "encoder_unmasked_dims": (8,),
        "zipformer_downsampling_factors": (1, 2, 4, 8, 2),
        "cnn_module_kernels": (31,),
    },
    "first_stack_down_sampled": {"zipformer_downsampling_factors": (2, 4, 2)},
    "full_context": {"num_left_chunks": -1, "decode_chunk_len": 1600},
    "no_left_context": {"num_left_chunks": 0},
}
LENS = [101, 73, 9, 40, 64, 10]


def differences(model, padding):
    """Largest difference to the reference's outputs of each item alone; features beyond a length are noise."""
    feats, lens = features(len(LENS), max(LENS)), torch.tensor(LENS)
    with torch.no_grad():
        encoded, out_lens = model.forward_encoder(feats, lens, padding)
        assert torch.equal(out_lens, num_subsampled_frames(lens, model.zipformer_config))
        assert out_lens.tolist() == [((n - 7) // 2 + 1) // 2 for n in LENS]
        found = []
        for i, length in enumerate(LENS):
            alone, _ = model.forward_encoder(feats[i : i + 1, :length], lens[i : i + 1], "reference")
            assert alone.shape[1] == out_lens[i]
            found.append((encoded[i, : alone.shape[1]] - alone[0]).abs().max().item())
    return found


def changed(case):
    return small_model(**{**CASES[case], **({"decode_chunk_len": 16} if case == "published_shape" else {})})


@pytest.mark.parametrize("case", CASES)
def test_batch_equals_single(case):
    assert max(differences(changed(case), None)) < NOISE


def test_reference_padding_is_there_and_leaks():
    leaks = differences(small_model(), "reference")
    assert leaks[0] < NOISE < 1e-3 < max(leaks)


@torch.no_grad()
def test_order_of_the_batch_does_not_matter():
    model = small_model()
    feats, lens, order = features(3, 80), torch.tensor([80, 51, 33]), torch.tensor([2, 0, 1])
    encoded, out_lens = model.forward_encoder(feats, lens)
    shuffled, _ = model.forward_encoder(feats[order], lens[order])
    for new, old in enumerate(order.tolist()):
        n = out_lens[old]
        torch.testing.assert_close(shuffled[new, :n], encoded[old, :n], atol=NOISE, rtol=0)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(("chunk", "left"), [(8, 2), (16, 0), (4, -1)])
def test_reach_by_the_rule(chunk, left, factor):
    """Row i may see columns from max((i // c - left) c, 0) to min((i // c + 1) c, T); stacks take every k-th."""
    frames = 37
    allowed = torch.zeros(frames, frames, dtype=torch.bool)
    for i in range(frames):
        begin = 0 if left < 0 else max((i // chunk - left) * chunk, 0)
        allowed[i, begin : min((i // chunk + 1) * chunk, frames)] = True
    padding = torch.arange(frames)[:, None] >= torch.tensor([frames, 11])
    masks = StackMasks(padding, chunk_mask(frames, chunk, left, torch.device("cpu")), torch.tensor([frames, 11]))
    masks = masks.at_rate(factor)
    hidden = masks.attention()[0, :, :] if masks.attention().dim() == 3 else masks.attention()[0]
    for item in range(2):
        expected = allowed[::factor, ::factor] & ~padding[::factor, item]
        assert torch.equal(~hidden[item], expected)
    assert masks.item_lens.tolist() == [-(-frames // factor), -(-11 // factor)]


@torch.no_grad()
def test_no_output_depends_on_a_later_chunk():
    model = small_model()
    feats, lens = features(1, 16 * 6 + 7), torch.tensor([16 * 6 + 7])
    before, _ = model.forward_encoder(feats, lens)
    for chunk in (1, 3):
        later = feats.clone()
        later[:, 16 * chunk + 7 :] += 1.0
        after, _ = model.forward_encoder(later, lens)
        torch.testing.assert_close(after[:, : 4 * chunk], before[:, : 4 * chunk], atol=NOISE, rtol=0)
        assert (after[:, 4 * chunk :] - before[:, 4 * chunk :]).abs().max() > 0.01


def streamed(streaming, feats):
    states, outputs = streaming.initial(len(feats)), []
    for begin in range(0, feats.shape[1] - streaming.geometry.embedding_margin, streaming.chunk_frames):
        out, states = streaming.step(feats[:, begin : begin + streaming.window_frames], states)
        outputs.append(out)
    return torch.cat(outputs, dim=1), states


@pytest.mark.parametrize("case", ["rising_rate_in_the_middle", "published_shape", "no_left_context"])
@pytest.mark.parametrize("frames", [16 * 9 + 7, 16 * 4 + 7 + 8])
@torch.no_grad()
def test_chunks_are_the_masked_whole(case, frames):
    """Beyond the left context too, and with a shorter last chunk."""
    model = changed(case)
    feats = features(2, frames)
    chunks, _ = streamed(Zipformer1Streaming(model, hide_unfilled=True), feats)
    whole, _ = model.forward_encoder(feats, torch.full((2,), frames))
    torch.testing.assert_close(chunks, whole, atol=NOISE, rtol=0)


@torch.no_grad()
def test_empty_slots_are_attended_to_as_in_trained_models():
    model = small_model()
    feats = features(1, 16 * 5 + 7)
    chunks, _ = streamed(Zipformer1Streaming(model), feats)
    whole, _ = model.forward_encoder(feats, torch.tensor([feats.shape[1]]))
    assert (chunks[:, :4] - whole[:, :4]).abs().max() > 1e-3


@pytest.mark.parametrize("hide", [False, True])
@torch.no_grad()
def test_streams_of_any_age_are_packed_together(hide):
    """A stream that is in its third chunk and one that begins give what each gives alone."""
    streaming = Zipformer1Streaming(small_model(), hide)
    feats = features(3, 16 * 5 + 7)
    alone = [streamed(streaming, feats[i : i + 1]) for i in range(3)]
    windows = [[feats[i : i + 1, 16 * t : 16 * t + 23] for t in range(5)] for i in range(3)]
    states, outputs = [streaming.initial(1) for _ in range(3)], [[], [], []]
    for now in range(9):
        active = [i for i in range(3) if 0 <= now - 2 * i < 5]
        random.Random(now).shuffle(active)
        packed = pack_streams(streaming, [states[i] for i in active])
        out, packed = streaming.step(torch.cat([windows[i][now - 2 * i] for i in active]), packed)
        for row, (i, state) in enumerate(zip(active, unpack_streams(streaming, packed))):
            states[i] = state
            outputs[i].append(out[row : row + 1])
    for i, (expected, last) in enumerate(alone):
        torch.testing.assert_close(torch.cat(outputs[i], dim=1), expected, atol=NOISE, rtol=0)
        for state, theirs in zip(states[i], last):
            assert state.shape == theirs.shape and state.dtype == theirs.dtype
            torch.testing.assert_close(state, theirs, atol=NOISE, rtol=0)


def test_states_split_by_layers_and_join_again():
    shapes = state_shapes(Zipformer1Config(**SIZES), 2)
    states = [torch.full(shape, float(i)) for i, (_, shape) in enumerate(shapes)]
    layers = split_layers(states)
    assert [len(stack) for stack in layers] == [1, 2, 1]
    assert layers[1][0].cached_key.unique().tolist() == [7.0] and layers[2][0].cached_conv2.unique().tolist() == [20.0]
    assert all(torch.equal(a, b) for a, b in zip(states, join_layers(layers)))


def test_the_states_of_the_default():
    config = Zipformer1Config()
    with torch.device("meta"):
        streaming = Zipformer1Streaming(build_model(config, HeadsConfig(vocab_size=500)))
    assert (streaming.chunk_frames, streaming.window_frames, streaming.shortest_window) == (32, 39, 23)
    shapes = dict(state_shapes(config, 3))
    assert list(shapes) == streaming.names and len(shapes) == 35
    assert streaming.names[:6] == [*(f"cached_len_{i}" for i in range(5)), "cached_avg_0"]
    layers, left = (2, 4, 3, 2, 4), (64, 32, 16, 8, 32)
    for i, (n, frames) in enumerate(zip(layers, left)):
        assert shapes[f"cached_len_{i}"] == (n, 3)
        assert shapes[f"cached_avg_{i}"] == (n, 3, 384)
        assert shapes[f"cached_key_{i}"] == (n, frames, 3, 192)
        assert shapes[f"cached_val_{i}"] == shapes[f"cached_val2_{i}"] == (n, frames, 3, 96)
        assert shapes[f"cached_conv1_{i}"] == shapes[f"cached_conv2_{i}"] == (n, 3, 384, 30)
    assert all(shapes[name][streaming.batch_axis(name)] == 3 for name in streaming.names)
    metadata = streaming.metadata()
    assert metadata["decode_chunk_len"] == 32 and metadata["T"] == 39
    assert metadata["left_context_len"] == "64,32,16,8,32" and metadata["attention_dims"] == "192,192,192,192,192"


@pytest.mark.slow
@torch.no_grad()
def test_a_traced_step_takes_other_batches():
    streaming = Zipformer1Streaming(small_model())

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = streaming.model

        def forward(self, feats, *states):
            encoded, states = streaming.step(feats, list(states))
            return encoded, tuple(states)

    feats = features(3, 16 * 4 + 7)
    traced = torch.jit.trace(Step(), (feats[:1, :23], *streaming.initial(1)))
    ours = theirs = streaming.initial(3)
    for i in range(4):
        window = feats[:, 16 * i : 16 * i + 23]
        expected, ours = streaming.step(window, ours)
        found, theirs = traced(window, *theirs)
        torch.testing.assert_close(found, expected, atol=NOISE, rtol=0)


@torch.no_grad()
def test_eval_mode_never_draws():
    model, feats = small_model(), features(2, 60)
    states = torch.get_rng_state(), random.getstate()
    model.forward_encoder(feats, torch.tensor([60, 41]))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"decode_chunk_len": 20}, "`--decode-chunk-len` must be a multiple of 8, but is 20"),
        ({"decode_chunk_len": 0}, "--decode-chunk-len"),
        ({"short_chunk_size": 3}, "--short-chunk-size"),
        ({"num_left_chunks": -2}, "--num-left-chunks"),
        ({"encoder_dims": (16, 24)}, "--encoder-dims"),
        ({"encoder_dims": (24, 16, 16)}, "never fall"),
        ({"encoder_dims": (16, 16, 24), "zipformer_downsampling_factors": (1, 4, 1)}, "never fall"),
        ({"encoder_dims": (15, 24, 24)}, "--encoder-dims"),
        ({"encoder_unmasked_dims": (20,)}, "--encoder-unmasked-dims"),
        ({"attention_dims": (10,)}, "--attention-dims"),
        ({"cnn_module_kernels": (8,)}, "--cnn-module-kernels"),
        ({"zipformer_downsampling_factors": (1, 3, 2)}, "--zipformer-downsampling-factors"),
        ({"nhead": (0,)}, "--nhead"),
        ({"feature_dim": 8}, "--feature-dim"),
    ],
)
def test_contradicting_sizes_are_refused_by_name(values, word):
    with pytest.raises(UserError, match=word):
        Zipformer1Config(**{**SIZES, **values})


def test_skips_come_from_the_stack_that_the_rule_names():
    """The latest stack before the last one at no lower a rate, else the first."""
    config = Zipformer1Config(encoder_dims=(64,), encoder_unmasked_dims=(64,))
    assert [config.skip_source(i) for i in range(5)] == [None, None, None, None, 1]
    rising = {"num_encoder_layers": (1,), "feedforward_dims": (8,), "encoder_dims": (8,), "encoder_unmasked_dims": (8,)}
    other = Zipformer1Config(**rising, zipformer_downsampling_factors=(2, 4, 8, 4, 2, 1))
    assert [other.skip_source(i) for i in range(6)] == [None, None, None, 1, 0, 0]


def test_what_a_model_says_of_its_frames_and_context():
    model = small_model()
    assert model.context() == (8, 16) and small_model(num_left_chunks=-1).context() == (8, -1)
    geometry = model.geometry()
    assert (geometry.factor, geometry.shortest, geometry.window_step) == (4, 9, 16)


def test_another_context_for_the_same_weights():
    config = Zipformer1Config().with_context(64, 2)
    assert (config.decode_chunk_size, config.left_context) == (32, 64)
    assert Zipformer1Config().with_context() == Zipformer1Config()
    with pytest.raises(UserError, match="multiple of 16, but is 40"):
        Zipformer1Config().with_context(40)
    with pytest.raises(UserError, match="--num-left-chunks"):
        state_shapes(Zipformer1Config(num_left_chunks=-1), 1)


def test_other_weights_and_other_heads_are_refused():
    weights = small_model().state_dict()
    assert owns(weights) and not owns(["encoder_embed.out.weight", "encoder.downsample_output.bias"])
    with pytest.raises(UserError, match=r"x.pt is no first-generation Zipformer"):
        zipformer1_config({"encoder_embed.out.weight": torch.zeros(1)}, "x.pt")
    heads = HeadsConfig(vocab_size=30, decoder_dim=16, joiner_dim=12)
    given = Zipformer1Config(**{**SIZES, "nhead": (8,)})
    with pytest.raises(UserError, match="`--nhead` must be 2,4,2"):
        adapted(given, heads, weights, ["nhead"], "x.pt")
    with pytest.raises(UserError, match="heads of a first-generation Zipformer"):
        build_model(Zipformer1Config(**SIZES), HeadsConfig(use_ctc=True, vocab_size=30))
