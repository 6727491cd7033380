"""Several channels become one, and no recording becomes silence on the way."""

from __future__ import annotations

import numpy as np
import pytest
from sounds import RATE, encoded, tone

from couloir.audio import AudioError, load_audio

VOICE = tone(3.0) * np.linspace(0.5, 1, 3 * RATE, dtype=np.float32)
OTHER = tone(3.0, hertz=1234)
HISS = np.random.default_rng(0).normal(scale=1e-3, size=3 * RATE).astype(np.float32)
ZERO = np.zeros_like(VOICE)
HALF = np.where(np.arange(len(VOICE)) < 2 * RATE, VOICE, -VOICE)
NAN = np.full_like(VOICE, np.nan)
PATCHY = np.where(np.arange(len(VOICE)) == 77, np.inf, VOICE).astype(np.float32)

CASES = {  # channels -> what they become, what the log says
    "alike": ([VOICE, VOICE], VOICE, ""),
    "two speakers": ([VOICE, OTHER], (VOICE + OTHER) / 2, ""),
    "partly opposite": ([VOICE, -0.5 * VOICE], 0.25 * VOICE, ""),
    "one loud, one hiss": ([VOICE, HISS], (VOICE + HISS) / 2, ""),
    "opposite": ([VOICE, -VOICE], VOICE, "channel 1 of 2 is taken"),
    "opposite, with hiss": ([HISS - VOICE, VOICE], HISS - VOICE, "channel 1 of 2 is taken"),
    "opposite, the second louder": ([VOICE, -1.1 * VOICE], -1.1 * VOICE, "channel 2 of 2 is taken"),
    "opposite, with an offset": ([VOICE + 0.2, 0.3 - VOICE], VOICE + 0.2, "is taken"),
    "opposite in the last third": ([VOICE, HALF], VOICE, "channel 1 of 2 is taken"),
    "two of three opposite": ([VOICE, ZERO, -VOICE], VOICE, "channel 1 of 3 is taken"),
    "one silent": ([VOICE, ZERO], VOICE, "the mean is of channels 1 of 2; the others hold nothing but one value"),
    "one with an offset alone": ([ZERO + 0.5, VOICE], VOICE, "the mean is of channels 2 of 2"),
    "one NaN": ([NAN, VOICE], VOICE, "the mean is of channels 2 of 2; the others hold NaN"),
    "one with one infinity": ([VOICE, PATCHY], VOICE, "the mean is of channels 1 of 2"),
    "one of six": ([ZERO] * 4 + [VOICE, ZERO], VOICE, "the mean is of channels 5 of 6"),
    "two of six": ([ZERO] * 4 + [VOICE, OTHER], (VOICE + OTHER) / 2, "the mean is of channels 5, 6 of 6"),
    "six alike": ([VOICE] * 6, VOICE, ""),
    "nothing": ([ZERO, ZERO], ZERO, ""),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("source", ["file", "array", "other orientation"])
def test_channels_become_one(case, source, caplog):
    channels, expected, said = CASES[case]
    samples = np.stack(channels, 1)
    given = {
        "file": lambda: encoded(samples, subtype="FLOAT"),
        "array": lambda: samples,
        "other orientation": lambda: samples.T,
    }
    loaded = load_audio(given[source](), name="talk.wav")
    assert np.abs(loaded - expected).max() < 1e-6
    assert said in caplog.text and bool(said) == ("talk.wav" in caplog.text)


@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("FLAC", None), ("OGG", None), ("AIFF", None)])
def test_opposite_channels_are_no_silence_in_any_container(kind, subtype):
    loaded = load_audio(encoded(np.stack([VOICE, -VOICE], 1), kind=kind, subtype=subtype))
    assert np.corrcoef(loaded, VOICE)[0, 1] ** 2 > 0.98 and loaded.std() == pytest.approx(VOICE.std(), rel=0.05)


def test_a_channel_that_is_asked_for():
    samples = np.stack([VOICE, OTHER], 1)
    assert np.array_equal(load_audio(samples, channel=1), OTHER)
    assert np.array_equal(load_audio(samples, channel=0), VOICE)
    assert np.allclose(load_audio(samples, channel=5), (VOICE + OTHER) / 2)


def test_channels_that_are_all_bad_are_refused():
    for channels in ([NAN, NAN], [PATCHY, NAN]):
        with pytest.raises(AudioError, match="NaN or infinite samples, the first at 0.000 s"):
            load_audio(np.stack(channels, 1))
    with pytest.raises(AudioError, match=r"holds 1 NaN or infinite samples, the first at 0\.005 s"):
        load_audio(np.stack([PATCHY, PATCHY], 1))


def test_short_recordings_and_other_rates():
    for rate in (8000, 44100):
        voice = tone(0.01, rate)
        loaded = load_audio((np.stack([voice, -voice], 1), rate))
        assert np.abs(loaded).max() > 0.2
