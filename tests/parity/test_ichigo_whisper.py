"""Whisper's encoder against openai-whisper 20240930 (data/README.md)."""

import numpy as np
import pytest
import torch
from ichigo_golden import arrays, features, golden_whisper, wave

# What a float32 implementation should meet; ours is 3e-6 from them.
ATOL = 1.0e-5


@pytest.fixture(scope="module")
def encoded():
    feats, lens = features(wave())
    with torch.no_grad():
        out, out_lens = golden_whisper().encode(feats, lens)
    return feats, out, out_lens


def test_log_mel(encoded):
    np.testing.assert_allclose(encoded[0].numpy(), arrays()["mel"].transpose(0, 2, 1), atol=ATOL)


def test_encoder(encoded):
    """All the stored frames; of the whole window its mean, spread and corner numbers, given to 6 decimals."""
    _, out, lens = encoded
    assert (out.shape, lens.tolist()) == ((1, 1500, 128), [100])
    np.testing.assert_allclose(out[0, :100].numpy(), arrays()["embs_0_99"], atol=ATOL)
    assert out.mean().item() == pytest.approx(-0.009305, abs=2e-6)
    assert out.std().item() == pytest.approx(0.996419, abs=2e-6)
    np.testing.assert_allclose(out[0, 0, :4], [0.082425, -0.254430, -0.003168, -1.891793], atol=ATOL)
    np.testing.assert_allclose(out[0, -1, -4:], [-0.220012, 0.895237, 0.277467, 1.303251], atol=ATOL)
