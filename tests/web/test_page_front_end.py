"""The page reads of a model's file what Python reads, and refuses a front end that it does not know."""

import shutil

import onnx
import pytest
from node import ask
from onnx import helper

from couloir.errors import UserError
from couloir.features.config import FbankConfig
from couloir.features.front_end import from_metadata
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.inference.frame_times import frame_times
from couloir.inference.onnx_backend import PROBE_EMBEDDED
from couloir.models.geometry import FrameGeometry

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs node")

CONFIGS = [
    FbankConfig(), FbankConfig(frame_shift_ms=12.5, feature_dim=40), LfrConfig(), LfrConfig(lfr_m=1, lfr_n=1),
    LfrConfig(frame_shift_ms=8.0, frame_length_ms=20.0, lfr_m=3, lfr_n=2), LogMelConfig(),
    LogMelConfig(feature_dim=128), LfrConfig(snip_edges=False, lfr_m=4, lfr_n=3),
    FbankConfig(frame_length_ms=20.0, frame_shift_ms=9.9375),
]  # fmt: skip


def test_metadata_of_a_file_is_what_onnx_reads(tmp_path):
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 13)])
    model.model_version, model.doc_string = 2**40, "of another kind"
    expected = {"front_end": "fbank", "comment": "tʰɔ̃ 你", "empty": "", "long": "x" * 70000, "twice": "2"}
    for key, value in {"twice": "1", **expected}.items():
        model.metadata_props.add(key=key, value=value)
    model.metadata_props.add(key="twice", value="2")
    onnx.save(model, tmp_path / "a.onnx")
    (tmp_path / "short.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:-3])
    whole, short = ask(("metadata", str(tmp_path / "a.onnx")), ("metadata", str(tmp_path / "short.onnx")))
    assert whole["value"] == expected and "longer than" in short["error"]


def test_geometry_is_pythons():
    given = [config.as_metadata() for config in CONFIGS]
    given += [{}, {"T": "45"}, {"lfr_window_size": "7", "lfr_window_shift": "6"}, {"sample_rate": "16000"}]
    for metadata, answer in zip(given, ask(*(("frontEnd", {"metadata": m, "frames": 57}) for m in given))):
        config = from_metadata(metadata, "m")
        assert answer["value"]["name"] == config.name and answer["value"]["count"] == config.num_samples(57)
        assert answer["value"]["stepS"] == pytest.approx(config.frame_step_s, abs=1e-12)


GEOMETRIES = [
    FrameGeometry(),
    FrameGeometry(4, 0, window_step=4),
    FrameGeometry(3, 5, window_step=48),
    FrameGeometry(1, 0),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_times_are_pythons(geometry):
    cases = [(config, {**config.as_metadata(), **geometry.as_metadata()}) for config in CONFIGS]
    for (config, _), answer in zip(cases, ask(*(("geometry", metadata) for _, metadata in cases))):
        times, found = frame_times(geometry, config), answer["value"]
        assert (found["minSamples"], found["stepSamples"]) == (times.min_samples, times.step_samples)
        assert found["first"] == pytest.approx(times.first, abs=1e-12)
        assert (found["factor"], found["probe"]) == (geometry.embedding_factor, geometry.frames_of(PROBE_EMBEDDED))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"geometry_embedding_factor": "0"}, "from 1 to 1000"),
        ({"geometry_embedding_margin": "-1"}, "from 0 to 1000"),
        ({"geometry_window_step": "1001"}, "geometry_window_step"),
        ({"geometry_window_step": "1.5"}, "whole number"),
        ({"geometry_window_step": ""}, "whole number"),
        ({"geometry_look_ahead": "3"}, "geometry_look_ahead, which is not known"),
        ({"geometry_toString": "3"}, "which is not known"),
    ],
)
def test_geometry_that_means_nothing_is_refused_by_name(metadata, words):
    (answer,) = ask(("geometry", metadata))
    assert words in answer["error"]
    with pytest.raises(UserError):
        FrameGeometry.from_metadata(metadata, "m")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"front_end": "mfcc"}, 'one of fbank, lfr, log_mel, but is "mfcc"'),
        ({"front_end": ""}, 'but is ""'),
        ({"front_end": "toString"}, "toString"),
        ({"front_end": "__proto__"}, "__proto__"),
        ({"front_end": "x" * 1000}, "x" * 60 + '"'),
        ({"sample_rate": "8000"}, "16000 Hz, but is for 8000 Hz"),
        ({"fbank_sample_rate": "8000"}, "8000 Hz"),
        (
            {"fbank_frame_shift_ms": "ten"},
            'must be a number above 0, but is "ten"',
        ),
        ({"fbank_frame_shift_ms": "-1"}, "-1"),
        ({"fbank_frame_shift_ms": "Infinity"}, "Infinity"),
        ({"front_end": "lfr", "lfr_window_shift": "0"}, "lfr_window_shift"),
    ],
)
def test_what_the_page_does_not_know_is_refused_by_name(metadata, words):
    (answer,) = ask(("frontEnd", {"metadata": metadata, "frames": 1}))
    assert words in answer["error"]
