"""Recordings of any kind through the page: the samples and the text are Python's, and a bad one is one line."""

import base64
import json

import numpy as np
import pytest
import soundfile
import soxr
from pages import NEEDS_BROWSER, by_python, complaint, load, served, shown, transcribe

from couloir.audio import load_audio
from couloir.errors import UserError

pytestmark = NEEDS_BROWSER

AT_16_KHZ = {"exact.wav": {}, "a.flac": {}, "a.mp3": {}, "a.ogg": {}, "deep.wav": {"subtype": "PCM_24"}}
RESAMPLED = {
    "cd.wav": 44100, "stereo24.wav": 44100, "float.wav": 48000, "telephone.wav": 8000, "studio.wav": 192000,
    "cd.flac": 44100, "cd.mp3": 44100, "video.ogg": 48000, "half.mp3": 22050, "odd.wav": 44101,
}  # fmt: skip


@pytest.fixture(scope="module")
def kinds(recordings, tmp_path_factory):
    """The same speech in every kind of file."""
    folder = tmp_path_factory.mktemp("kinds")
    speech, _ = soundfile.read(recordings / "short.wav")
    for name, settings in AT_16_KHZ.items():
        soundfile.write(folder / name, speech, 16000, **settings)
    for name, rate in RESAMPLED.items():
        samples = soxr.resample(speech, 16000, rate)
        if name == "stereo24.wav":
            soundfile.write(folder / name, np.stack([samples, 0.4 * samples], 1), rate, subtype="PCM_24")
        else:
            soundfile.write(folder / name, samples, rate, subtype="FLOAT" if name == "float.wav" else None)
    soundfile.write(folder / "a.opus", speech, 16000, format="OGG", subtype="OPUS")
    return folder


@pytest.fixture(scope="module")
def heard(chromium, trained):
    """The page with a model that was trained on speech."""
    with served(trained) as address:
        load(chromium, address)
        yield chromium


def decoded(page, path):
    """The samples that the page makes of a file."""
    found = page.run(
        f"""(async () => {{
          const {{ decode }} = await import("/js/audio.js");
          const bytes = Uint8Array.from(atob("{base64.b64encode(path.read_bytes()).decode()}"), (c) => c.charCodeAt(0));
          const samples = await decode(bytes.buffer, {json.dumps(path.name)});
          const file = new FileReader();
          const read = new Promise((done) => (file.onload = done));
          file.readAsDataURL(new Blob([samples]));
          await read;
          return file.result.split(",")[1];
        }})()"""
    )
    return np.frombuffer(base64.b64decode(found), np.float32)


def noise_db(found, expected):
    """Power of the difference below that of the signal, away from the ends, where soxr's filter starts up."""
    assert len(found) == len(expected)
    inner = slice(200, -200)
    difference = (found - expected)[inner]
    return 10 * np.log10(np.square(difference).sum() / np.square(expected[inner]).sum() + 1e-20)


@pytest.mark.parametrize("name", [*AT_16_KHZ, *RESAMPLED])
def test_samples_and_text_are_pythons(heard, trained, kinds, tmp_path, name):
    noise = noise_db(decoded(heard, kinds / name), load_audio(kinds / name))
    # Uncompressed at 16 kHz: the very samples. FLAC: Chromium divides by 32767 where others divide by 32768, which is
    # 90 dB below. Resampled: soxr has other filters for other ratios, the same to -60 dB of white noise.
    assert noise <= (-200 if name in ("exact.wav", "deep.wav") else -85 if name in AT_16_KHZ else -55)
    expected, _ = by_python(trained, kinds / name, tmp_path)
    assert len(expected.tokens) > 25
    assert transcribe(heard, kinds / name)[0] == expected.text


def test_what_browsers_decode_otherwise_has_nearly_the_same_text(heard, trained, kinds, tmp_path):
    """Opus has no samples of its own: libsndfile decodes it at 16 kHz, browsers at 48 kHz. One phone may differ."""
    import kaldialign

    expected, _ = by_python(trained, kinds / "a.opus", tmp_path)
    found, _ = transcribe(heard, kinds / "a.opus")
    assert kaldialign.edit_distance(list(expected.text), list(found))["total"] <= 1


def test_bad_recordings_are_one_line_and_the_page_goes_on(heard, kinds, tmp_path):
    speech, _ = soundfile.read(kinds / "exact.wav")
    names = [f"{kind}.{suffix}" for kind in ("nan-16", "nan-44", "cut-16", "cut-44", "loud") for suffix in ("wav",)]
    paths = {name: tmp_path / name for name in [*names, "cut.flac", "empty.wav", "text.mp3", "text.wav", "nothing.wav"]}
    for name, rate in (("nan-16.wav", 16000), ("nan-44.wav", 44100)):
        broken = speech.copy()
        broken[rate // 4] = np.nan
        soundfile.write(paths[name], broken, rate, subtype="FLOAT")
    soundfile.write(paths["loud.wav"], 32768 * speech, 16000, subtype="FLOAT")
    for name, rate in (("cut-16.wav", 16000), ("cut-44.wav", 44100), ("cut.flac", 16000)):
        soundfile.write(paths[name], speech, rate)
        paths[name].write_bytes(paths[name].read_bytes()[: paths[name].stat().st_size // 2])
    paths["empty.wav"].touch()
    for name in ("text.mp3", "text.wav"):
        paths[name].write_text("no sound" * 100)
    soundfile.write(paths["nothing.wav"], speech[:0], 16000)
    for name, path in paths.items():
        line = complaint(heard, "#file", path)
        assert line.startswith(f"{name} ") and "\n" not in line and len(line) < 120, line
        with pytest.raises(UserError) as error:
            load_audio(path)
        kind = next(
            word for word in ("NaN", "truncated", "empty", "not audio", "no samples", "[-1, 1]") if word in line
        )
        assert kind in str(error.value), (line, error.value)
        if kind in ("NaN", "truncated") and name != "cut.flac":  # libFLAC does not say how much it read
            assert line.split(" s")[-2].split()[-1] in str(error.value), (line, error.value)
    assert transcribe(heard, kinds / "exact.wav")[0] and shown(heard, "#error") == ""
