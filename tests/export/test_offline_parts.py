"""A family with another front end and other frames is exported, and read again by what the file says of itself."""

import dataclasses

import onnx
import pytest
import torch
from small_models import PIECES, SPEECH
from torch import nn

from couloir.audio import load_audio
from couloir.errors import UserError
from couloir.export.config import CtcOnnxConfig
from couloir.export.onnx import export_offline
from couloir.export.parts import OfflinePart
from couloir.export.torchscript import export_trace
from couloir.features.front_end import make_front_end
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.models.geometry import FrameGeometry

FP32 = {"enable_int8_quantization": False}


class Toy(nn.Module):
    """Scores of every frame, or of every other one."""

    def __init__(self, width, pairs):
        super().__init__()
        torch.manual_seed(0)
        self.pairs = pairs
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, len(PIECES))
        self.linear.weight.data.mul_(30.0)
        self.eval().requires_grad_(False)

    def forward(self, x, lens):
        x = self.norm(x)
        if self.pairs:
            x = x[:, ::2]
            lens = (lens + 1) // 2
        return self.linear(x).log_softmax(-1), lens


# Front end and geometry: FunASR's frames of 60 ms, one by one; Whisper's of 10 ms around each 160th sample, in pairs.
CASES = {
    "lfr": (LfrConfig(), FrameGeometry(1, 0, 1, window_step=1)),
    "log_mel": (LogMelConfig(), FrameGeometry(1, 0, 2, window_step=2)),
}


def part_of(name):
    config, geometry = CASES[name]
    toy = Toy(config.feature_dim, geometry.output_factor == 2)
    metadata = {"model_type": "toy"}
    return OfflinePart(
        "model", toy, toy, config.feature_dim, geometry, "log_probs", "log_probs_len", scores=True, metadata=metadata
    )


def test_the_recognizer_knows_pairs_of_frames_by_the_file(folder, waves):
    config, _ = CASES["log_mel"]
    (file,) = export_offline([part_of("log_mel")], config, CtcOnnxConfig(**FP32), folder, waves)
    metadata = {entry.key: entry.value for entry in onnx.load(folder / file).metadata_props}
    assert metadata == {
        "model_type": "toy",
        "front_end": "log_mel",
        "geometry_embedding_factor": "1",
        "geometry_embedding_margin": "0",
        "geometry_window_step": "2",
    }
    backend = OnnxBackend(folder, threads=1)
    times = backend.times
    assert (times.shift, times.first, times.min_samples, times.step_samples) == pytest.approx((0.02, -0.005, 160, 320))
    wave = load_audio(SPEECH)
    (transcript,) = Recognizer(backend).transcribe([wave], log_probs=True)
    assert len(transcript.log_probs) == -(-(len(wave) // 160) // 2)
    assert Recognizer(backend).transcribe([wave[:7]])[0].duration == 0.0  # padded to one frame


def test_a_trace_of_one_part_is_called_so(tmp_path, waves):
    assert list(export_trace([part_of("lfr")], LfrConfig(), tmp_path, waves)) == ["jit_trace.pt"]
    config = LfrConfig()
    feats, lens = make_front_end(config)(waves[0][None], torch.tensor([len(waves[0])]))
    expected = part_of("lfr").module(feats, lens)
    found = torch.jit.load(tmp_path / "jit_trace.pt")(feats, lens)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_length_that_is_too_short_for_a_model_is_refused(folder, waves):
    """Though it would do for others: its own geometry counts."""
    long = dataclasses.replace(part_of("lfr"), geometry=FrameGeometry(4, 20, 1))
    with pytest.raises(UserError, match="`--max-len` must be -1, or at least 24, but is 12"):
        export_offline([long], LfrConfig(), CtcOnnxConfig(max_len=12, **FP32), folder, waves)
    assert [path.name for path in folder.iterdir()] == ["tokens.txt"]
