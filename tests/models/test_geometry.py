"""Where output frames lie: counted with convolutions of torch and frames of Kaldi's rule, not with the formulas."""

import dataclasses

import numpy as np
import pytest
import torch

from couloir.errors import UserError
from couloir.features.config import FbankConfig
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.inference.frame_times import USUAL, frame_times
from couloir.models.geometry import FrameGeometry
from couloir.models.zipformer.config import PRESETS, ZipformerConfig
from couloir.models.zipformer.frontend import Conv2dSubsampling

GEOMETRIES = [
    FrameGeometry(),
    FrameGeometry(4, 0, 1),
    FrameGeometry(2, 1, 1),
    FrameGeometry(1, 0, 1),
    FrameGeometry(3, 5, 4),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_frames_are_those_of_a_convolution_and_a_mean(geometry):
    """A kernel of margin + factor frames at a stride of the factor; then groups, the last of which may be smaller."""
    kernel = geometry.embedding_margin + geometry.embedding_factor
    for frames in range(kernel, kernel + 60):
        stepped = torch.nn.functional.conv1d(
            torch.zeros(1, 1, frames), torch.zeros(1, 1, kernel), stride=geometry.embedding_factor
        )
        embedded = stepped.shape[2]
        assert geometry.embedded(frames) == embedded
        groups = len(range(0, embedded, geometry.output_factor))
        assert geometry.output_frames(frames) == groups
        assert geometry.output_frames(torch.tensor([frames])).tolist() == [groups]
        assert geometry.output_frames(np.array([frames])).tolist() == [groups]
    assert geometry.shortest == kernel and geometry.embedded(kernel - 1) < 1
    assert geometry.embedded(geometry.frames_of(7)) == 7


def test_zipformers_embedding_has_that_geometry():
    embed, geometry = Conv2dSubsampling(80, 16, (8, 8, 8)).eval(), ZipformerConfig().geometry
    with torch.no_grad():
        for frames in (9, 10, 57, 58):
            assert embed(torch.zeros(1, frames, 80)).shape[1] == geometry.embedded(frames)


@pytest.mark.parametrize("name", PRESETS)
def test_geometry_of_the_published_sizes(name):
    config = PRESETS[name]
    assert config.geometry.factor == {1: 2, 2: 4}[config.output_downsampling_factor]
    assert config.geometry.window_step == 16
    assert config.geometry.as_metadata() == {}  # files are what they were, and what icefall's are


@pytest.mark.parametrize(("factors", "step"), [((1, 2), 16), ((1, 16), 32), ((3, 4), 48), ((6, 8), 48)])
def test_windows_begin_where_every_stack_begins_a_frame(factors, step):
    config = ZipformerConfig(num_encoder_layers=(1,), downsampling_factor=factors, feedforward_dim=(8,), num_heads=(1,),
                             encoder_dim=(16,), encoder_unmasked_dim=(16,), cnn_module_kernel=(3,))  # fmt: skip
    assert config.geometry.window_step == step
    assert all(step % (2 * factor) == 0 for factor in factors)


def test_the_usual_times():
    """35 ms: feature frames 0 to 8 have their middle at 45 ms, and 20 ms around it are the frame's."""
    assert (USUAL.shift, USUAL.first, USUAL.min_samples, USUAL.step_samples) == (0.04, 0.035, 1360, 2560)
    at_50 = frame_times(dataclasses.replace(FrameGeometry(), output_factor=1), FbankConfig())
    assert (at_50.shift, at_50.first) == (0.02, 0.035)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shift", [10.0, 12.5, 5.0])
def test_the_fewest_samples_are_enough_and_one_less_is_not(geometry, shift):
    """Whatever the features' shift is: of 12.5 ms nine frames are 1,700 samples, not 1,360."""
    features = FbankConfig(frame_shift_ms=shift)
    times = frame_times(geometry, features)
    enough = next(n for n in range(100_000) if geometry.output_frames(features.num_frames(n)) >= 1)
    assert times.min_samples == enough
    assert times.step_samples == geometry.window_step * shift * 16
    assert times.first == pytest.approx(geometry.embedding_margin / 2 * shift / 1000)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_metadata_give_back_what_was_written(geometry):
    found = FrameGeometry.from_metadata({"T": "45", **geometry.as_metadata()}, "m")
    assert dataclasses.replace(found, output_factor=geometry.output_factor) == geometry


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"geometry_embedding_factor": "0"}, "geometry_embedding_factor.*from 1"),
        ({"geometry_embedding_factor": "two"}, "embedding-factor"),
        ({"geometry_embedding_margin": "-1"}, "geometry_embedding_margin.*from 0"),
        ({"geometry_window_step": "1000000"}, "geometry_window_step.*to 1000"),
        ({"geometry_window_steps": "16"}, "the metadata of m: `window_steps`; did you mean `window_step`"),
        ({"geometry_look_ahead": "3"}, "the metadata of m"),
    ],
)
def test_geometry_that_says_nothing_sensible(metadata, reason):
    with pytest.raises(UserError, match=reason):
        FrameGeometry.from_metadata(metadata, "m")


@pytest.mark.parametrize(
    ("features", "middle", "step"),
    [
        (FbankConfig(), 0.005, 0.01),  # windows of 25 ms around the middles of 10 ms
        (LogMelConfig(), 0.0, 0.01),  # windows around every 160th sample
        (LfrConfig(), 0.0125, 0.06),  # the first of seven joined windows stands in their middle, and is 0 to 25 ms
        (LfrConfig(lfr_m=1, lfr_n=1), 0.0125, 0.01),
    ],
)
def test_frames_lie_around_the_middle_of_what_they_see(features, middle, step):
    """A model that looks at one feature frame at a time begins half a step before that one's middle."""
    times = frame_times(FrameGeometry(1, 0, 1), features)
    assert (times.first, times.shift) == pytest.approx((middle - step / 2, step))
    nine = frame_times(FrameGeometry(), features)
    assert nine.first == pytest.approx(middle + 4 * step - step)  # frames 0 to 8, and two of them
