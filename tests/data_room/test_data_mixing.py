"""Noise and rooms in training utterances: levels computed by hand, and the law of randomness."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from shar_tools import module

from couloir.audio import AudioError
from couloir.data.config import DataConfig
from couloir.data.mixing import Mixer, Recordings, make_mixer, mixed, reverberated, simulated_room
from couloir.errors import UserError


def sine(frequency, seconds, rate=16000, level=0.3):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def noise_dir(tmp_path):
    folder = tmp_path / "musan"
    (folder / "noise/free-sound").mkdir(parents=True)
    (folder / "music").mkdir()
    soundfile.write(folder / "noise/free-sound/a.wav", sine(500, 3), 16000)
    soundfile.write(folder / "music/b.FLAC", sine(900, 25, 8000), 8000, format="FLAC")
    (folder / "LICENSE").write_text("not a sound")
    (folder / "noise/._a.wav").write_bytes(b"of a Mac")
    return folder


def power(x):
    return float(np.mean(np.square(x, dtype=np.float64)))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 20.0])
def test_the_ratio_of_powers_is_the_one_asked_for(snr):
    speech, noise = sine(200, 1), sine(3000, 1, level=0.01)
    added = mixed(speech, noise, snr) - speech
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(snr, abs=0.01)
    assert np.corrcoef(added, noise)[0, 1] == pytest.approx(1, abs=1e-4)


def test_silence_is_left_as_it_is():
    speech, silence = sine(200, 0.1), np.zeros(1600, np.float32)
    assert mixed(speech, silence, 10) is speech and mixed(silence, speech, 10) is silence
    assert np.array_equal(reverberated(silence, np.ones(3)), silence)


def test_a_room_is_a_convolution_with_the_direct_sound_in_its_place():
    rng = np.random.default_rng(1)
    speech = rng.standard_normal(700).astype(np.float32)
    response = np.array([0.0, 0.1, -2.0, 1.0, 0.5])  # the direct sound is 2 samples late
    wet = np.convolve(speech, response)[2 : 2 + 700]
    expected = wet * np.sqrt(power(speech) / power(wet))
    np.testing.assert_allclose(reverberated(speech, response), expected, atol=1e-5)


def test_a_simulated_room_decays_by_60_db_in_its_time():
    for seed in range(5):
        response = simulated_room(np.random.default_rng(seed))
        rt60, direct_db = np.random.default_rng(seed).uniform(0.1, 0.8), 0.0
        assert len(response) == round(rt60 * 16000) and response[0] == 1 == np.abs(response).max()
        tail, part = response[1:], len(response) // 5
        ends = [10 * np.log10(power(tail[:part])), 10 * np.log10(power(tail[-part:]))]
        # The middles of the first and the last fifth are 0.8 of the reverberation time apart.
        assert ends[0] - ends[1] == pytest.approx(48, abs=4)
        direct_db = 10 * np.log10(1 / np.sum(np.square(tail)))
        assert -3.1 < direct_db < 15.1


def test_pieces_come_from_every_recording_as_its_length_asks(noise_dir):
    bank = Recordings(noise_dir, "noise", "--noise-dir")
    assert [path.name for path in bank.paths] == ["b.FLAC", "a.wav"] and bank.ends.tolist() == [25.0, 28.0]
    rng, lengths = np.random.default_rng(0), []
    for _ in range(300):
        piece = bank.piece(rng)
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece))))
        lengths.append((round(spectrum.argmax() * 16000 / len(piece) / 100) * 100, len(piece)))
    assert set(lengths) == {(900, 160000), (500, 48000)}
    assert 300 * 3 / 28 - 20 < lengths.count((500, 48000)) < 300 * 3 / 28 + 20


def mixer(noise_dir, **flags):
    values = {"enable_musan": True, "noise_dir": str(noise_dir), "noise_prob": 1.0, **flags}
    found = make_mixer(DataConfig(**values), seed=3)
    assert found is not None
    return found


def test_an_utterance_gets_the_same_in_one_epoch_and_another_in_the_next(noise_dir):
    speech, mix = sine(200, 12), mixer(noise_dir)
    once = mix(speech, "a")
    assert np.array_equal(once, mix(speech, "a")) and len(once) == len(speech) and once.dtype == np.float32
    assert not np.array_equal(once, mix(speech, "b"))
    other_epoch = Mixer(mix.config, mix.noise, mix.room, mix.seed, epoch=2)
    assert not np.array_equal(once, other_epoch(speech, "a"))
    snr = 10 * np.log10(power(speech) / power(once - speech))
    assert 10 <= snr <= 20


def test_probabilities_are_kept(noise_dir):
    speech = sine(200, 0.2)
    half = mixer(noise_dir, noise_prob=0.5)
    changed = sum(half(speech, str(i)) is not speech for i in range(200))
    assert 70 < changed < 130
    assert all(mixer(noise_dir, noise_prob=0.0)(speech, str(i)) is speech for i in range(20))
    rooms = make_mixer(DataConfig(enable_rir=True, rir_prob=1.0), seed=1)
    assert rooms is not None and rooms.noise is None
    wet = rooms(speech, "a")
    assert len(wet) == len(speech) and power(wet) == pytest.approx(power(speech), rel=1e-4)
    assert not np.allclose(wet, speech)


def test_recorded_rooms(tmp_path, noise_dir):
    response = np.zeros(800, np.float32)
    response[100], response[500] = 0.9, -0.3
    (tmp_path / "rirs").mkdir()
    soundfile.write(tmp_path / "rirs/r.wav", response, 16000, subtype="FLOAT")
    speech = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    rooms = make_mixer(DataConfig(enable_rir=True, rir_dir=str(tmp_path / "rirs"), rir_prob=1.0), seed=1)
    assert rooms is not None
    dry = 0.9 * speech
    dry[400:] -= 0.3 * speech[:-400]
    np.testing.assert_allclose(rooms(speech, "a"), dry * np.sqrt(power(speech) / power(dry)), atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_gets_it_validation_and_tests_do_not_whatever_the_processes(flat_folder, noise_dir, workers):
    flags = {"enable_musan": True, "noise_dir": str(noise_dir), "noise_prob": 1.0}
    plain, noisy = module(flat_folder), module(flat_folder, num_workers=workers, **flags)
    dry = {id: (row[:n]) for b in plain.train_loader(2) for id, row, n in zip(b.ids, b.audio, b.audio_lens)}
    ranks = [noisy.train_loader(2, rank, 2) for rank in (0, 1)]
    wet = {id: (row[:n]) for loader in ranks for b in loader for id, row, n in zip(b.ids, b.audio, b.audio_lens)}
    alone = {id: (row[:n]) for b in noisy.train_loader(2) for id, row, n in zip(b.ids, b.audio, b.audio_lens)}
    assert wet.keys() == dry.keys() and all(torch.equal(wet[id], alone[id]) for id in wet)
    assert not any(torch.equal(wet[id], dry[id]) for id in wet)
    for one, other in zip(plain.valid_loader(), noisy.valid_loader(), strict=True):
        assert torch.equal(one.audio, other.audio)


def test_a_noise_that_went_missing_costs_utterances_by_name_and_not_the_run(noise_dir):
    mix = mixer(noise_dir)
    shutil.rmtree(noise_dir / "noise")
    found = list[str]()
    for i in range(60):
        try:
            mix(sine(200, 0.1), str(i))
        except AudioError as error:
            found.append(str(error))
    assert 0 < len(found) < 30 and all("a.wav" in message for message in found)


def test_a_noise_that_became_shorter_is_named_and_nothing_waits_for_it(tmp_path):
    # Read whole, as a span of an mp3 cannot be: the stretch that was drawn is no longer there.
    soundfile.write(tmp_path / "a.mp3", sine(500, 30), 16000)
    bank = Recordings(tmp_path, "noise", "--noise-dir")
    soundfile.write(tmp_path / "a.mp3", sine(500, 0.2), 16000)
    rng, found = np.random.default_rng(0), list[str]()
    for _ in range(20):
        try:
            assert len(bank.piece(rng))
        except AudioError as error:
            found.append(str(error))
    assert len(found) > 15 and all("a.mp3 is shorter than it was" in message for message in found)


def test_what_is_asked_for_wrongly_is_one_line(tmp_path, noise_dir, caplog):
    (noise_dir / "noise/broken.wav").write_bytes(b"RIFF....WAVE")
    mixer(noise_dir)
    assert "1 of 3 recordings of noise cannot be read, the first: " in caplog.text and "broken.wav" in caplog.text
    for folder in (tmp_path / "none", Path(__file__).parent / "conftest.py"):
        with pytest.raises(UserError, match="`--noise-dir` must be a folder of recordings, but .* holds none"):
            mixer(folder)
    cases = [
        ({"enable_musan": True}, "`--enable-musan True` needs `--noise-dir`"),
        ({"noise_prob": 1.5}, "`--noise-prob` must be between 0 and 1"),
        ({"rir_prob": -1.0}, "`--rir-prob` must be between 0 and 1"),
        ({"noise_snr": (20.0, 10.0)}, "`--noise-snr` must be two ratios in dB"),
        ({"noise_snr": (20.0,)}, "`--noise-snr` must be two ratios in dB"),
    ]
    for values, message in cases:
        with pytest.raises(UserError, match=message):
            DataConfig(**values)
