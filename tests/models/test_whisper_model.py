"""Whisper: batches, order, padding and the cache change nothing."""

import pytest
import torch

from couloir.models.whisper.config import WhisperConfig
from couloir.models.whisper.model import FEATURE_PADDING, build_model

CONFIG = WhisperConfig(
    feature_dim=8,
    audio_context=40,
    encoder_dim=32,
    encoder_num_heads=2,
    num_encoder_layers=2,
    vocab_size=30,
    text_context=12,
    decoder_dim=32,
    decoder_num_heads=4,
    num_decoder_layers=2,
)
LENS = [61, 80, 2, 33]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    found = build_model(CONFIG).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return found


def batch():
    torch.manual_seed(2)
    feats = torch.randn(4, 80, 8)
    for row, length in zip(feats, LENS):
        row[length:] = FEATURE_PADDING
    return feats, torch.tensor(LENS)


@pytest.mark.parametrize(("whole_window", "margin"), [(True, 0), (False, 0), (False, 6), (False, 50)])
def test_batch_padding_and_order_change_nothing(whole_window, margin, model):
    feats, lens = batch()
    with torch.no_grad():
        out, out_lens = model.encode(feats, lens, whole_window, margin)
        assert out_lens.tolist() == [31, 40, 1, 17]
        assert out.shape == (4, 40, 32)
        order = [2, 0, 3, 1]
        other, _ = model.encode(feats[order], lens[order], whole_window, margin)
        torch.testing.assert_close(other, out[order], atol=2e-5, rtol=1e-5)
        for i, length in enumerate(LENS):
            alone, own = model.encode(feats[i : i + 1, :length], lens[i : i + 1], whole_window, margin)
            assert own.tolist() == [(length + 1) // 2]
            frames = 40 if whole_window else min(int(own[0]) + margin, 40)
            assert alone.shape[1] == frames
            torch.testing.assert_close(alone[0], out[i, :frames], atol=2e-5, rtol=1e-5)


def test_whole_windows_differ_from_short_ones_but_for_full_recordings(model):
    feats, lens = batch()
    with torch.no_grad():
        whole, short = model.encode(feats, lens)[0], model.encode(feats, lens, whole_window=False, margin=0)[0]
    assert (whole[0, :31] - short[0, :31]).abs().max() > 1e-3
    torch.testing.assert_close(whole[1, :39], short[1, :39], atol=0.2, rtol=0)


def test_short_recordings_by_a_plain_computation(model):
    """One recording, its frames and a margin of three through the layers as they are."""
    feats, _ = batch()
    with torch.no_grad():
        padded = torch.full((1, 70, 8), FEATURE_PADDING)
        padded[:, :33] = feats[3:, :33]
        encoder = model.encoder
        x = torch.nn.functional.gelu(encoder.conv1(padded.mT))
        x = torch.nn.functional.gelu(encoder.conv2(x)).mT[:, :20] + encoder.positional_embedding[:20]
        for block in encoder.blocks:
            x = block(x)
        found, _ = model.encode(feats[3:], torch.tensor([33]), whole_window=False, margin=3)
    torch.testing.assert_close(found, encoder.ln_post(x), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("whole_window", [True, False])
def test_an_empty_recording_is_finite(whole_window, model):
    out, lens = model.encode(torch.zeros(1, 0, 8), torch.tensor([0]), whole_window)
    assert lens.tolist() == [0]
    assert out.isfinite().all()


def test_more_than_a_window_is_refused(model):
    with pytest.raises(ValueError, match="81 feature frames are more than a window's 80"):
        model.encode(torch.zeros(1, 81, 8), torch.tensor([81]))


def test_attention_is_what_it_says(model):
    """Against softmax(q k / root of the head width) v, head by head, in float64."""
    block = model.encoder.blocks[0].attn
    x = torch.randn(1, 5, 32)
    q, k, v = (x.double() @ p.weight.double().T for p in (block.query, block.key, block.value))
    q, v = q + block.query.bias, v + block.value.bias
    heads = [slice(0, 16), slice(16, 32)]
    mixed = [torch.softmax(q[0, :, h] @ k[0, :, h].T / 4.0, dim=-1) @ v[0, :, h] for h in heads]
    expected = torch.cat(mixed, dim=-1) @ block.out.weight.double().T + block.out.bias
    torch.testing.assert_close(block(x, block.pair(x))[0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 1, 3], [9], [3, 6]])
def test_the_cache_changes_nothing(pieces, model):
    feats, lens = batch()
    tokens = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded, _ = model.encode(feats, lens)
        whole = model.decoder(tokens, encoded)
        state = model.decoder.start(encoded)
        found = torch.cat([model.decoder.step(piece, state) for piece in tokens.split(pieces, dim=1)], dim=1)
    assert state.length == 9
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-5)
    assert torch.equal(whole, model(feats, lens, tokens))


def test_a_token_sees_none_after_it(model):
    encoded = torch.randn(1, 40, 32)
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5] = 20
    with torch.no_grad():
        one, other = model.decoder(tokens, encoded), model.decoder(changed, encoded)
    torch.testing.assert_close(one[:, :5], other[:, :5])
    assert (one[:, 5:] - other[:, 5:]).abs().amax(dim=-1).min() > 1e-4


def test_selected_rows_go_on(model):
    feats, lens = batch()
    tokens = torch.randint(30, (4, 5), generator=torch.Generator().manual_seed(0))
    rows, last = torch.tensor([3, 1, 1]), torch.tensor([[7], [8], [9]])
    with torch.no_grad():
        encoded, _ = model.encode(feats, lens)
        state = model.decoder.start(encoded)
        model.decoder.step(tokens, state)
        state.select(rows)
        found = model.decoder.step(last, state)
        whole = model.decoder(torch.cat([tokens[rows], last], dim=1), encoded[rows])
    torch.testing.assert_close(found[:, 0], whole[:, -1], atol=1e-4, rtol=1e-5)


def test_a_full_context_is_refused(model):
    state = model.decoder.start(torch.randn(1, 40, 32))
    model.decoder.step(torch.zeros(1, 12, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="13 tokens are more than the context of 12"):
        model.decoder.step(torch.zeros(1, 1, dtype=torch.int64), state)


def test_gradients_reach_the_encoders_output_through_a_frozen_decoder(model):
    """As finite differences in float64 have them."""
    torch.manual_seed(3)
    decoder = build_model(CONFIG).double().eval().requires_grad_(False).decoder
    encoded = torch.randn(1, 3, 32, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.autograd.gradcheck(lambda x: decoder(tokens, x).log_softmax(-1)[0, :, ::7], (encoded,))
