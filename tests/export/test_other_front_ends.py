"""A model of any front end: its files take features or samples, say which, and give what PyTorch gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from couloir.audio import load_audio
from couloir.export.config import CtcOnnxConfig
from couloir.export.onnx import export_offline
from couloir.export.parts import OfflinePart
from couloir.export.selfcheck import check_waves
from couloir.features.config import FbankConfig
from couloir.features.front_end import make_front_end
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.models.geometry import FrameGeometry

pytest.importorskip("onnxruntime")
SPEECH = load_audio(Path(__file__).parents[1] / "data" / "ru_0274.flac")
SYMBOLS = ["<blk>", *"abcd"]
EACH_FRAME = FrameGeometry(embedding_factor=1, embedding_margin=0, output_factor=1, window_step=2)


class Linear(nn.Module):
    """Scores of each frame: (B, T, F), (B,) -> (B, T, V), (B,)."""

    def __init__(self, feature_dim):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(feature_dim, len(SYMBOLS)).requires_grad_(False)
        self.eval()

    def forward(self, x, x_lens):
        return self.layer(x).log_softmax(-1), x_lens + 0


@pytest.mark.parametrize("with_frontend", [False, True])
@pytest.mark.parametrize(
    "config",
    [LfrConfig(neg_mean=(-9.0,) * 80, inv_stddev=(0.2,) * 80), LogMelConfig(), FbankConfig(feature_dim=40)],
    ids=lambda config: config.name,
)
def test_files_and_their_readers(tmp_path, config, with_frontend):
    model, front_end = Linear(config.feature_dim), make_front_end(config).eval()
    scores = {"output": "log_probs", "output_lens": "log_probs_len", "scores": True}
    part = OfflinePart("model", model, model, config.feature_dim, EACH_FRAME, **scores)
    flags = CtcOnnxConfig(with_frontend=with_frontend, fp16=True)
    export_offline([part], config, flags, tmp_path, check_waves(""))
    (tmp_path / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(SYMBOLS)))
    backend = OnnxBackend(tmp_path, threads=1)
    assert backend.config == config and backend.frame_shift == pytest.approx(config.frame_step_s)
    assert backend.times.first == pytest.approx(config.first_frame_s)
    expected, _ = model(*front_end(torch.from_numpy(SPEECH)[None], torch.tensor([len(SPEECH)])))
    (found,) = backend.encode([SPEECH])
    assert found.shape == expected[0].shape == (config.num_frames(len(SPEECH)), len(SYMBOLS))
    assert np.abs(found - expected[0].numpy()).max() < 1e-3
    transcript = Recognizer(backend).transcribe([SPEECH])[0]
    assert transcript.frame_shift == pytest.approx(config.frame_step_s)
    assert all(0 <= token.start < token.end <= len(SPEECH) / 16000 + 1e-3 for token in transcript.tokens)
