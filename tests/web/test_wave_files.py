"""The page reads waves and joins channels as Python does, also where the header is wrong or says nothing."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from node import ask

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audio"))

from sounds import chunk, encoded, fmt, pcm16, riff, tone
from test_channels import CASES
from test_waves import WHOLE, WIDTHS

from couloir.audio import AudioError, load_audio

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs node")

NOT_BY_THE_PAGE = ("RIFX", "ID3 before it")  # left to the browser


def by_node(tmp_path, contents):
    """Name -> what the page's reader makes of a content."""
    for i, content in enumerate(contents.values()):
        (tmp_path / f"{i}.wav").write_bytes(content)
    return dict(zip(contents, ask(*(("wav", str(tmp_path / f"{i}.wav")) for i in range(len(contents))))))


def test_sizes_that_are_right_wrong_or_say_nothing(tmp_path):
    for name, answer in by_node(tmp_path, WHOLE).items():
        if name in NOT_BY_THE_PAGE:
            assert answer["value"] is None
        else:
            found = np.array(answer["value"]["samples"], np.float32)
            np.testing.assert_array_equal(found, load_audio(WHOLE[name]), name)


def test_bits_in_wider_bytes(tmp_path):
    contents = {name: riff(head, chunk(b"data", data)) for name, (head, data, _) in WIDTHS.items()}
    for name, answer in by_node(tmp_path, contents).items():
        np.testing.assert_array_equal(
            np.array(answer["value"]["samples"], np.float32), load_audio(contents[name]), name
        )


def test_channels_become_one_alike(tmp_path):
    contents = {name: encoded(np.stack(case[0], 1), subtype="FLOAT") for name, case in CASES.items()}
    for name, answer in by_node(tmp_path, contents).items():
        found = np.array(answer["value"]["samples"], np.float32)
        np.testing.assert_allclose(found, load_audio(contents[name]), atol=1e-7, err_msg=name)


def test_joined_and_truncated_waves(tmp_path):
    one = encoded(tone(0.5))
    half = one[: len(one) // 2]
    contents = {
        "joined": one + one,
        "joined behind a list": WHOLE["LIST behind the samples"] + one,
        "other rate": one + encoded(tone(0.5, 8000), 8000),
        "half": half,
        "half of the second": one + half,
        "3 GB promised": riff(fmt(), chunk(b"data", pcm16(tone(0.5)), 3 * 2**30)),
    }
    found = by_node(tmp_path, contents)
    np.testing.assert_array_equal(np.array(found["joined"]["value"]["samples"], np.float32), load_audio(one + one))
    behind = np.array(found["joined behind a list"]["value"]["samples"], np.float32)
    np.testing.assert_array_equal(behind, load_audio(contents["joined behind a list"]))
    assert len(behind) == 16000
    assert found["other rate"]["error"] == "holds recordings of 16000 and 8000 Hz"
    for name in ("half", "3 GB promised", "half of the second"):
        assert "error" in found[name], name
        assert found[name]["error"].startswith("is truncated: it holds 0.2" if "half" in name else "is truncated")
        with pytest.raises(AudioError, match="truncated"):
            load_audio(contents[name])
