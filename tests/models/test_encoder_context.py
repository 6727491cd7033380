"""What a causal encoder sees: drawn in training, fixed outside it."""

import dataclasses
import random

import pytest
import torch

from couloir.errors import UserError
from couloir.models.common.attention import chunk_mask
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import PRESETS, ZipformerConfig
from couloir.models.zipformer.encoder import Zipformer2
from couloir.models.zipformer.model import build_model

SIZES = {
    "num_encoder_layers": (1, 1), "downsampling_factor": (1, 2), "feedforward_dim": (32,), "num_heads": (2,),
    "encoder_dim": (24, 32), "query_head_dim": (8,), "value_head_dim": (6,), "encoder_unmasked_dim": (16,),
    "cnn_module_kernel": (7, 7), "frontend_channels": (4, 8, 16),
}  # fmt: skip
HEADS = HeadsConfig(use_ctc=True, use_transducer=False, vocab_size=9)


def causal_model(**settings):
    """Random weights, moved so that every path carries signal."""
    torch.manual_seed(1)
    model = build_model(ZipformerConfig(**SIZES, causal=True, **settings), HEADS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.requires_grad_(False)


def encode(model, frames=300, seed=2, **changes):
    feats = torch.randn(1, frames, 80, generator=torch.Generator().manual_seed(seed))
    if changes:
        feats[:, changes["begin"] : changes["end"]] += 1.0
    return model.forward_encoder(feats, torch.tensor([frames]))[0][0]


@pytest.mark.parametrize(
    ("chunk_size", "left_context_frames", "fixed"),
    [
        ((16, 32, 64, -1), (64, 128, 256, -1), (-1, -1)),
        ((16, 32), (64,), (-1, -1)),
        ((32,), (128,), (32, 128)),
        ((16,), (64, 128), (16, -1)),
        ((16,), (-1,), (16, -1)),
        ((-1,), (128,), (-1, -1)),
    ],
)
def test_one_context_outside_training(chunk_size, left_context_frames, fixed):
    config = ZipformerConfig(**SIZES, causal=True, chunk_size=chunk_size, left_context_frames=left_context_frames)
    assert config.fixed_context == fixed
    chunk, left = fixed
    expected = (chunk, -1 if left < 0 else left // chunk) if chunk > 0 else (-1, -1)
    encoder = Zipformer2(config).eval()
    assert {encoder.chunk_and_left_context() for _ in range(20)} == {expected}


def test_eval_mode_never_draws(monkeypatch):
    model = causal_model()

    def draw(values):
        raise AssertionError("drawn")

    monkeypatch.setattr(random, "choice", draw)
    before = random.getstate()
    first, second = encode(model), encode(model)
    assert torch.equal(first, second) and random.getstate() == before
    with pytest.raises(AssertionError, match="drawn"):
        encode(model.train())


def test_training_still_draws_from_all():
    random.seed(0)
    encoder = Zipformer2(ZipformerConfig(**SIZES, causal=True)).train()
    assert {encoder.chunk_and_left_context() for _ in range(500)} == {
        (-1, -1),
        (16, 4), (16, 8), (16, 16), (16, -1),
        (32, 2), (32, 4), (32, 8), (32, -1),
        (64, 1), (64, 2), (64, 4), (64, -1),
    }  # fmt: skip


def test_full_context_is_that_of_one_chunk_without_end():
    whole = encode(causal_model())
    torch.testing.assert_close(encode(causal_model(chunk_size=(-1,))), whole, atol=0, rtol=0)
    torch.testing.assert_close(
        encode(causal_model(chunk_size=(512,), left_context_frames=(-1,))), whole, atol=1e-5, rtol=0
    )
    assert (encode(causal_model(chunk_size=(16,), left_context_frames=(64,))) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [16, 32, 64])
def test_nothing_behind_a_chunk_is_seen(chunk):
    """Output frames (25 a second) up to a chunk's end stay when features (100 a second) change behind it."""
    model = causal_model(chunk_size=(chunk,), left_context_frames=(-1,))
    plain, full = encode(model), encode(causal_model())
    # The front end looks 13 feature frames ahead of a chunk.
    changed = {"begin": 2 * chunk + 13, "end": 300}
    assert torch.equal(encode(model, **changed)[: chunk // 2], plain[: chunk // 2])
    assert not torch.equal(encode(model, **changed)[chunk // 2 :], plain[chunk // 2 :])
    assert not torch.equal(encode(causal_model(), **changed)[: chunk // 2], full[: chunk // 2])


def test_left_context_bounds_attention_but_not_all_that_is_before():
    """Two layers reach back by at most two left contexts and their convolutions."""
    short = causal_model(chunk_size=(16,), left_context_frames=(16,))
    unbounded = causal_model(chunk_size=(16,), left_context_frames=(-1,))
    changed = {"begin": 0, "end": 20}
    last = slice(-10, None)
    assert torch.equal(encode(short, 400)[last], encode(short, 400, **changed)[last])
    assert not torch.equal(encode(unbounded, 400)[last], encode(unbounded, 400, **changed)[last])


@pytest.mark.parametrize(("chunk", "left"), [(2, 1), (3, 0), (2, -1)])
def test_masks_by_hand(chunk, left):
    mask = chunk_mask(7, chunk, left, torch.device("cpu"))
    for target in range(7):
        for source in range(7):
            later = source // chunk > target // chunk
            early = left >= 0 and source // chunk < target // chunk - left
            assert mask[target, source] == (later or early)


class TestWithContext:
    def test_one_chunk_and_left_context(self):
        config = ZipformerConfig(causal=True)
        assert config.with_context().fixed_context == (-1, -1)
        assert config.with_context(32, 128).fixed_context == (32, 128)
        assert config.with_context(32).fixed_context == (32, -1)
        assert config.with_context(-1).fixed_context == (-1, -1)
        once = config.with_context(16, 64)
        assert once.with_context().fixed_context == (16, 64)
        assert once.with_context(None, 128).fixed_context == (16, 128)
        assert once.with_context(32).fixed_context == (32, -1)

    @pytest.mark.parametrize(
        ("causal", "asked", "words"),
        [
            (False, (16, 64), ["--chunk-size", "-1", "not trained for streaming"]),
            (True, (None, 64), ["--left-context-frames", "--chunk-size"]),
            (True, (-1, 64), ["--left-context-frames"]),
            (True, (7, None), ["--chunk-size", "multiples"]),
            (True, (0, None), ["--chunk-size", "but is 0"]),
            (True, (-2, None), ["--chunk-size", "but is -2"]),
            (True, (16, -2), ["--left-context-frames", "but is -2"]),
            (True, (8, 8), ["--left-context-frames", "reach of the convolutions"]),
        ],
    )
    def test_what_cannot_be_is_refused(self, causal, asked, words):
        with pytest.raises(UserError) as caught:
            ZipformerConfig(causal=causal).with_context(*asked)
        assert all(word in str(caught.value) for word in words)

    def test_an_encoder_that_is_not_causal_has_full_context(self):
        assert ZipformerConfig(chunk_size=(16,), left_context_frames=(64,)).fixed_context == (-1, -1)
        assert ZipformerConfig().with_context(-1).fixed_context == (-1, -1)


@pytest.mark.parametrize(
    "preset", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(PRESETS)]
)
def test_every_preset_as_a_causal_one_says_the_same_twice(preset):
    model = build_model(dataclasses.replace(PRESETS[preset], causal=True), HEADS).eval().requires_grad_(False)
    first = encode(model, 120)
    assert all(torch.equal(encode(model, 120), first) for _ in range(2))
    once = dataclasses.replace(PRESETS[preset], causal=True).with_context(16, 64)
    model.encoder.config = once
    chunked = encode(model, 120)
    assert torch.equal(encode(model, 120), chunked) and not torch.equal(chunked, first)
