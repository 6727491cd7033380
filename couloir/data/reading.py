"""The audio of one utterance, from a tar at its offset or from a file."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from pathlib import Path

import numpy as np

from couloir.audio import SAMPLE_RATE, AudioError, load_audio
from couloir.data.folder import Corpus
from couloir.data.index import Utterance
from couloir.data.shard_files import ShardError

_OPEN_TARS = 64
_DURATION_TOLERANCE_S = 0.1


class AudioReader:
    """Reads utterances' audio; keeps the most recently used tars open. One per process: it pickles empty."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._handles: OrderedDict[Path, int] = OrderedDict()

    def read(self, number: int) -> tuple[Utterance, np.ndarray | AudioError]:
        """An utterance with its (N,) float32 samples at 16 kHz, or with what is wrong with them."""
        shard, row = self.corpus.locate(number)
        try:
            utterance, entry = shard.utterance(row), shard.rows[row]
        except ShardError as error:
            return Utterance(f"utterance {row} of {shard.files.cuts}"), AudioError(str(error))
        name = utterance.id
        try:
            if entry["size"] >= 0:
                assert shard.files.tar is not None
                content = self._bytes(shard.files.tar, int(entry["offset"]), int(entry["size"]))
                samples = _span(load_audio(content, name=name), float(entry["start"]), utterance.duration)
            else:
                samples = _read_file(utterance, float(entry["start"]), int(entry["channel"]))
            found = len(samples) / SAMPLE_RATE
            if abs(found - utterance.duration) > _DURATION_TOLERANCE_S:
                raise AudioError(f"{name} holds {found:.2f} s, its manifest says {utterance.duration:.2f} s")
        except AudioError as error:
            return utterance, error
        return utterance, samples

    def _bytes(self, path: Path, offset: int, size: int) -> bytes:
        handle = self._handles.pop(path, None)
        try:
            if handle is None:
                handle = os.open(path, os.O_RDONLY)
            self._handles[path] = handle
            if len(self._handles) > _OPEN_TARS:
                os.close(self._handles.popitem(last=False)[1])
            # pread leaves no position behind, so a forked process may share the handle.
            return os.pread(handle, size, offset)
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Close the tars."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return {"corpus": self.corpus, "_handles": OrderedDict()}


def _span(samples: np.ndarray, start: float, duration: float) -> np.ndarray:
    """The part of a recording that a cut names; the whole when they agree to within half a sample."""
    first = round(start * SAMPLE_RATE)
    last = first + round(duration * SAMPLE_RATE)
    return samples[first:last] if first or last < len(samples) else samples


def _read_file(utterance: Utterance, start: float, channel: int) -> np.ndarray:
    """A cut of a recording that is a file of its own; only the cut's part is decoded."""
    import soundfile

    _check_regular(utterance.path)
    try:
        with soundfile.SoundFile(utterance.path) as file:
            if start == 0 and file.channels == 1 and abs(file.frames / file.samplerate - utterance.duration) < 0.01:
                return load_audio(utterance.path)
            file.seek(round(start * file.samplerate))
            samples = file.read(round(utterance.duration * file.samplerate), dtype="float32", always_2d=True)
            picked = samples[:, channel] if 0 <= channel < file.channels else samples.mean(axis=1)
            return load_audio((picked, file.samplerate), name=utterance.path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{utterance.path} cannot be read ({error.error_string.strip()})") from None


def _check_regular(path: str) -> None:
    """Refuse a pipe, which would be waited for, a device, which may never end, and a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path} is no regular file")
