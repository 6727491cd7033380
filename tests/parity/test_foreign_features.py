"""Features of FunASR and of Whisper, as they came out of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.audio import load_audio
from couloir.features.front_end import make_front_end, numpy_front_end
from couloir.features.funasr import lfr_numpy
from couloir.features.kaldi import fbank_numpy
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig

DATA = Path(__file__).parent / "data"


def of_funasr() -> np.ndarray:
    """A second of two tones and a chirp that fades in."""
    n = np.arange(16000)
    tones = 0.3 * np.sin(2 * np.pi * 440 * n / 16000) + 0.2 * np.sin(2 * np.pi * 1230 * n / 16000 + 0.5)
    wave = (tones + 0.05 * np.sin(0.01 * n.astype(np.float64) ** 2 / 50)).astype(np.float32)
    wave[:3000] *= np.linspace(0, 1, 3000).astype(np.float32)
    return wave


def forms(config, wave):
    module = make_front_end(config).eval()
    yield numpy_front_end(config)(wave)
    for form in (module, module.exportable().eval()):
        yield form(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0].numpy()


def test_funasrs_filterbank_and_low_frame_rate():
    """FunASR 1.4.16 with kaldi-native-fbank, whose filters are float32: 5e-4 of a bin, 4 decimals are given."""
    feats = fbank_numpy(of_funasr(), LfrConfig())
    assert feats.shape == (98, 80)
    assert feats.sum(dtype=np.float64) == pytest.approx(115252.324, abs=0.2)
    np.testing.assert_allclose(feats[0, :5], [9.5434, 9.657, 8.6765, 10.5006, 10.8769], atol=1e-3)
    np.testing.assert_allclose(feats[50, :5], [12.4064, 12.3861, 13.3914, 13.5822, 13.44], atol=1e-3)
    np.testing.assert_allclose(feats[97, -5:], [11.2459, 11.2637, 11.2402, 11.2711, 11.298], atol=1e-3)
    for frames in forms(LfrConfig(), of_funasr()):
        assert frames.shape == (17, 560)
        assert frames.sum(dtype=np.float64) == pytest.approx(138808.8845, abs=0.3)


def test_sherpa_makes_them_of_the_metadata(tmp_path):
    """A Paraformer whose tokens are a product with its features: what sherpa-onnx 2.0.1 reads off our entries gives it
    the same, in every frame, at the ends too."""
    sherpa, onnx = pytest.importorskip("sherpa_onnx"), pytest.importorskip("onnx")
    rng, size = np.random.default_rng(0), 40
    means, scales = rng.normal(-12, 1, 80).tolist(), rng.uniform(0.2, 0.5, 80).tolist()
    config = LfrConfig(neg_mean=tuple(means), inv_stddev=tuple(scales))
    product = (rng.normal(size=(config.feature_dim, size)) / 20).astype(np.float32)
    bias = np.where(np.arange(size) < 3, -1000, 0).astype(np.float32)
    write_paraformer(tmp_path, product, bias, {**config.as_metadata(), "vocab_size": str(size)}, onnx)
    recognizer = sherpa.OfflineRecognizer.from_paraformer(
        paraformer=str(tmp_path / "model.onnx"), tokens=str(tmp_path / "tokens.txt"), num_threads=1
    )
    for path in sorted((DATA.parents[1] / "data").glob("ru_*.flac")):
        for length in (None, 16000, 5000, 33000):
            wave = load_audio(path)[:length]
            stream = recognizer.create_stream()
            stream.accept_waveform(16000, wave)
            recognizer.decode_stream(stream)
            found = [ord(token) - FIRST_SYMBOL + 3 for token in stream.result.tokens]
            assert found == (lfr_numpy(wave, config) @ product + bias).argmax(1).tolist()


FIRST_SYMBOL = 0x4E00


def write_paraformer(folder, product, bias, metadata, onnx):
    """speech, speech_lengths -> logits, token_num: a product, and the number of frames."""
    helper, (width, size) = onnx.helper, product.shape
    nodes = [
        helper.make_node("MatMul", ["speech", "product"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Identity", ["speech_lengths"], ["token_num"]),
    ]
    shapes = {"speech": ["N", "T", width], "speech_lengths": ["N"], "logits": ["N", "T", size], "token_num": ["N"]}
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.INT32 if len(shape) == 1 else 1, shape)
        for name, shape in shapes.items()
    }
    arrays = [onnx.numpy_helper.from_array(product, "product"), onnx.numpy_helper.from_array(bias, "bias")]
    ends = [values["speech"], values["speech_lengths"]], [values["logits"], values["token_num"]]
    graph = helper.make_graph(nodes, "g", *ends, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {**metadata, "model_type": "paraformer"})
    onnx.save(model, folder / "model.onnx")
    symbols = ["<blank>", "<s>", "</s>", *(chr(FIRST_SYMBOL + i) for i in range(size - 3))]
    (folder / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols)), encoding="utf-8")


def noise(name: str, size: int) -> np.ndarray:
    """Numbers in [-1, 1) that a hash of their places gives."""
    h = (np.arange(size, dtype=np.uint64) * 2654435761 + zlib.crc32(name.encode())) % 2**32
    for _ in range(2):
        h = (h ^ (h >> 16)) * 0x45D9F3B % 2**32
    return 2 * ((h ^ (h >> 16)) / 2**32) - 1


def of_ichigo() -> np.ndarray:
    """Two seconds of a tone, a chirp and noise."""
    t = np.arange(32000) / 16000
    tones = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * (300 * t + 400 * t**2))
    return (tones + 0.1 * noise("wav", 32000)).astype(np.float32)


def test_whispers_log_mel():
    """openai-whisper 20240930: float32 sums in another order, 1e-5 of a range of 2."""
    wave = of_ichigo()
    np.testing.assert_allclose(wave[:4], [-0.026602, 0.005521, 0.108969, 0.108864], atol=1e-6)
    expected = np.load(DATA / "whisper_mel.npz")["mel"].T
    assert expected.shape == (200, 80) and expected.mean() == pytest.approx(0.563935, abs=1e-6)
    for feats in forms(LogMelConfig(), wave):
        assert np.abs(feats - expected).max() < 1e-5
