"""Noise and rooms for utterances that are trained on: from folders of recordings, as each utterance is read.

What an utterance gets depends on (seed, epoch, its id) alone: not on its batch, nor on how many processes or ranks
there are, so that a run that goes on gets what it would have got. Speech is reverberated first, then mixed with noise,
as it happens in a room. Levels are icefall's for MUSAN: noise over the whole utterance, at an SNR drawn evenly.
Shapes: N samples, R samples of a room's response.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from couloir.audio import AUDIO_SUFFIXES, SAMPLE_RATE, AudioError, audio_seconds, load_audio, load_span
from couloir.data.config import DataConfig
from couloir.errors import UserError
from couloir.progress import track

log = logging.getLogger(__name__)

PIECE_S = 10.0
"""Noise is taken in pieces of at most this; icefall cuts MUSAN so."""
_SHORTEST_S = 0.1  # of noise: hundreds of clicks would be read for one utterance
_LONGEST_RESPONSE = SAMPLE_RATE
_NAMED = 10
# Of simulated rooms: reverberation time in s, direct sound over reverberation in dB.
_RT60_S = (0.1, 0.8)
_DIRECT_DB = (-3.0, 15.0)
_DECAY_60_DB = np.log(1000.0)


class Recordings:
    """The recordings below a folder, any stretch of which is as likely as another.

    Args:
        folder: searched through, links to files included. purpose: what they are, for messages; flag: that names it.
        shortest_s: shorter ones are left out.

    Raises:
        UserError: there is none that can be read.
    """

    def __init__(self, folder: Path, purpose: str, flag: str, shortest_s: float = 0.0) -> None:
        found = sorted(path for path in _files(folder) if path.suffix.lower() in AUDIO_SUFFIXES)
        kept, seconds, problems = list[Path](), list[float](), list[str]()
        for path in track(found, f"lengths of {purpose}"):
            try:
                length = audio_seconds(path)
            except AudioError as error:
                problems.append(str(error))
                continue
            if length >= shortest_s:
                kept.append(path)
                seconds.append(length)
        if problems:
            text = "%d of %d recordings of %s cannot be read, the first: %s"
            log.warning(text, len(problems), len(found), purpose, "; ".join(problems[:_NAMED]))
        if not kept:
            raise UserError(f"`{flag}` must be a folder of recordings, but {folder} holds none that can be read")
        self.paths, self.ends = kept, np.cumsum(seconds)
        log.info("%s: %d recordings, %.2f h, of %s", purpose, len(kept), self.ends[-1] / 3600, folder)

    def piece(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) samples of a stretch of at most `PIECE_S`. Raises `AudioError`."""
        at = rng.random() * self.ends[-1]
        number = int(np.searchsorted(self.ends, at, side="right"))
        length = self.ends[number] - (self.ends[number - 1] if number else 0.0)
        duration = min(PIECE_S, length)
        start = rng.random() * (length - duration)
        path = self.paths[number]
        samples = load_span(path, start, duration, 0)
        if samples is None:
            first = round(start * SAMPLE_RATE)
            samples = load_audio(path, channel=0)[first : first + round(duration * SAMPLE_RATE)]
        if not len(samples):
            raise AudioError(f"{path} is shorter than it was when the training began")
        return samples

    def whole(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) samples of one recording, any as likely as another. Raises `AudioError`."""
        return load_audio(self.paths[rng.integers(len(self.paths))], channel=0)


def _files(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names if not name.startswith(".")]


@dataclass(frozen=True)
class Mixer:
    """What is done to the samples of an utterance in one epoch.

    Attributes:
        config: probabilities and levels. noise: recordings to mix in; None for none. room: draws the response of a
            room; None for none. seed, epoch: of the run.
    """

    config: DataConfig
    noise: Recordings | None
    room: Callable[[np.random.Generator], np.ndarray] | None
    seed: int
    epoch: int = 1

    def __call__(self, samples: np.ndarray, id: str) -> np.ndarray:
        """(N,) float32 -> (N,) float32. Raises `AudioError` for a noise or a response that cannot be read."""
        digest = hashlib.blake2b(id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        rng = np.random.default_rng((self.seed, self.epoch, int.from_bytes(digest, "big")))
        if self.room and rng.random() < self.config.rir_prob:
            samples = reverberated(samples, self.room(rng))
        if self.noise and rng.random() < self.config.noise_prob:
            low, high = self.config.noise_snr
            samples = mixed(samples, self._enough(len(samples), rng), rng.uniform(low, high))
        return samples

    def _enough(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count,) samples of noise, piece after piece."""
        assert self.noise is not None
        pieces, there = list[np.ndarray](), 0
        while there < count:
            pieces.append(self.noise.piece(rng))
            there += len(pieces[-1])
        return np.concatenate(pieces)[:count]


def make_mixer(config: DataConfig, seed: int) -> Mixer | None:
    """What `DataConfig` asks for; None where it is nothing. Raises `UserError` for a folder without recordings."""
    if not (config.enable_musan or config.enable_rir):
        return None
    noise = Recordings(Path(config.noise_dir), "noise", "--noise-dir", _SHORTEST_S) if config.enable_musan else None
    room: Callable[[np.random.Generator], np.ndarray] | None = None
    if config.enable_rir:
        room = Recordings(Path(config.rir_dir), "rooms", "--rir-dir").whole if config.rir_dir else simulated_room
    return Mixer(config, noise, room, seed)


def mixed(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech (N,) with noise (N,) at a ratio of their mean powers; either being silent, the speech as it is."""
    power, of_noise = (float(np.mean(np.square(part, dtype=np.float64))) for part in (speech, noise))
    if not power or not of_noise:
        return speech
    gain = np.sqrt(power / of_noise) * 10 ** (-snr_db / 20)
    return (speech + gain * noise).astype(np.float32)


def reverberated(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Speech (N,) in a room of impulse response (R,): as long and as loud as before, the direct sound in its place."""
    direct = int(np.abs(response).argmax())
    response = response[: direct + _LONGEST_RESPONSE].astype(np.float64)
    size = 1 << (len(speech) + len(response) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size), size)[direct : direct + len(speech)]
    power = np.mean(np.square(wet))
    if not power > 0:
        return speech
    return (wet * np.sqrt(np.mean(np.square(speech, dtype=np.float64)) / power)).astype(np.float32)


def simulated_room(rng: np.random.Generator) -> np.ndarray:
    """(R,) a response: the direct sound, and behind it noise that decays exponentially (Polack 1988).

    Its reverberation time and the ratio of direct to reverberant energy are drawn evenly from those of small rooms.
    """
    rt60, direct_db = rng.uniform(*_RT60_S), rng.uniform(*_DIRECT_DB)
    time = np.arange(1, round(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * np.exp(-_DECAY_60_DB * time / rt60)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(np.square(tail)))
    # The direct sound stays the largest, by which its place is found.
    return np.concatenate([[1.0], np.clip(tail, -1.0, 1.0)])
