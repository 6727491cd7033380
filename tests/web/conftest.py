import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from chromium import Chromium
from pages import exported, load, served
from tiny_models import tiny_model, write_onnx_of_audio
from trained_model import unpack

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with a random model that takes samples, and its int8 version."""
    from couloir.export.quantize import write_int8

    folder = write_onnx_of_audio(tmp_path_factory.mktemp("page-model"), tiny_model())
    write_int8(folder / "audio-model.onnx", folder / "audio-model.int8.onnx")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The int8 file of a model that was trained on speech."""
    run = unpack(tmp_path_factory.mktemp("trained") / "run")
    return exported(run, run.parent / "onnx", "--epoch", "1", "--avg", "1", "--use-averaged-model", "False")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Real speech as a wave file, and 33 s of it, which are cut into windows."""
    folder = tmp_path_factory.mktemp("recordings")
    speech = [soundfile.read(path, dtype="int16")[0] for path in sorted((TESTS / "data").glob("ru_*.flac"))]
    soundfile.write(folder / "short.wav", speech[0], 16000)
    whole = np.concatenate(speech)
    soundfile.write(folder / "long.wav", np.resize(whole, 33 * 16000), 16000)
    return folder


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def address(model):
    with served(model / "audio-model.onnx") as address:
        yield address


@pytest.fixture
def page(chromium, address):
    """The page with its model loaded; in the end, with nothing to complain about."""
    chromium.events.clear()
    load(chromium, address)
    yield chromium
    # What is not there is asked for all the same: the full model's smaller brother.
    assert [line for line in chromium.complaints() if "404" not in line] == []
