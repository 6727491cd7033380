"""Manifests say how long recordings are, whatever their heads claim; what is cut short is left out by name."""

import io

import numpy as np
import pytest
import soundfile
from test_times import prepared

from couloir.audio import audio_seconds, load_audio

SECONDS = 2.0
SOUND = np.random.default_rng(0).normal(scale=0.1, size=32000).astype(np.float32)
QUIET = np.concatenate([SOUND[:16000], np.zeros(16000, np.float32)])


def encoded(samples, kind, **more):
    out = io.BytesIO()
    soundfile.write(out, samples, 16000, format=kind, **more)
    return out.getvalue()


def with_bytes(content, at, new):
    return content[:at] + new + content[at + len(new) :]


def files():
    """Name -> bytes of a recording of two seconds."""
    wav, flac, half = encoded(QUIET, "WAV"), encoded(QUIET, "FLAC"), encoded(QUIET[:16000], "FLAC")
    vbr = encoded(QUIET, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    parts = [encoded(part, "MP3") for part in (QUIET[:8000], QUIET[8000:20000], QUIET[20000:])]
    return {
        "vbr.mp3": vbr.replace(b"Xing", b"\0\0\0\0"),
        "joined.mp3": b"".join(parts),
        "unknown.flac": with_bytes(with_bytes(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4)), 26, bytes(16)),
        "joined.flac": half + encoded(QUIET[16000:], "FLAC"),
        "joined.ogg": encoded(QUIET[:16000], "OGG") + encoded(QUIET[16000:], "OGG"),
        "pipe.wav": with_bytes(wav, 40, b"\xff\xff\xff\xff"),
        "stopped.wav": with_bytes(wav, 40, bytes(4)),
        "joined.wav": encoded(QUIET[:16000], "WAV") + encoded(QUIET[16000:], "WAV"),
        "called.mp3": wav,
        "gsm.wav": encoded(QUIET, "WAV", subtype="GSM610"),
        "plain.wav": wav,
        "plain.aiff": encoded(QUIET, "AIFF"),
        "plain.sph": encoded(QUIET, "NIST"),
    }


def test_lengths_in_the_manifest_are_those_of_the_samples(tmp_path):
    for name, content in files().items():
        path = tmp_path / "speech" / name.replace(".", "-") / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.with_suffix(".ipa").write_text("pata")
        assert audio_seconds(path) == pytest.approx(len(load_audio(path)) / 16000, abs=1e-3), name
    kept, dropped = prepared(tmp_path, tmp_path / "speech")
    assert len(kept) == len(files()) and not dropped
    for name, utterance in kept.items():
        assert utterance.duration == pytest.approx(SECONDS, abs=0.1), name  # of an MP3 without a count: delays too


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "MP3", "OGG"])
def test_half_a_recording_is_left_out_by_name(kind, tmp_path):
    whole = encoded(SOUND, kind)
    for name, content in (("half", whole[: len(whole) // 2]), ("whole", whole), ("whole2", whole)):
        (tmp_path / "speech").mkdir(exist_ok=True)
        (tmp_path / "speech" / f"{name}.wav").write_bytes(content)
        (tmp_path / "speech" / f"{name}.ipa").write_text("pata")
    kept, dropped = prepared(tmp_path, tmp_path / "speech")
    assert sorted(kept) == ["whole", "whole2"] and list(dropped) == ["half"]
    assert "is truncated" in dropped["half"].detail
