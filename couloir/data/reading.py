"""The audio of one utterance, from a tar at its offset or from a file."""
# Shapes: N samples.

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from couloir.audio import SAMPLE_RATE, AudioError, load_audio, load_span
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
        # The last recording that had to be decoded whole: its cuts usually follow one another.
        self._whole: tuple[tuple[str, int] | None, np.ndarray] = (None, np.zeros(0, np.float32))

    def read(self, number: int) -> tuple[Utterance, np.ndarray | AudioError]:
        """An utterance with its (N,) float32 samples at 16 kHz, or with what is wrong with them."""
        shard, row = self.corpus.locate(number)
        try:
            utterance, entry = shard.utterance(row), shard.rows[row]
        except ShardError as error:
            return Utterance(f"utterance {row} of {shard.files.cuts}"), AudioError(str(error))
        name = utterance.id
        try:
            start = float(entry["start"])
            if entry["size"] >= 0:
                assert shard.files.tar is not None
                content = self._bytes(shard.files.tar, int(entry["offset"]), int(entry["size"]))
                samples = _span(load_audio(content, name=name), start, utterance.duration)
            else:
                samples = self._read_file(utterance, start, int(entry["channel"]))
            found = len(samples) / SAMPLE_RATE
            if abs(found - utterance.duration) > _DURATION_TOLERANCE_S:
                raise AudioError(f"{name} holds {found:.2f} s, its manifest says {utterance.duration:.2f} s")
        except AudioError as error:
            return utterance, error
        except Exception as error:  # whatever a decoder makes of one bad file, the others go on
            return utterance, AudioError(f"{name} cannot be read ({type(error).__name__}: {error})")
        return utterance, samples

    def _read_file(self, utterance: Utterance, start: float, channel: int) -> np.ndarray:
        """A cut of a recording that is a separate file; only the cut's part is decoded where that can be."""
        samples = load_span(utterance.path, start, utterance.duration, channel)
        if samples is not None:
            return samples
        key = (utterance.path, channel)
        if key != self._whole[0]:
            self._whole = (key, load_audio(utterance.path, channel=channel))
        return _span(self._whole[1], start, utterance.duration)

    def _bytes(self, path: Path, offset: int, size: int) -> bytes:
        handle = self._handles.pop(path, None)
        try:
            if handle is None:
                handle = os.open(path, os.O_RDONLY)
            self._handles[path] = handle
            if len(self._handles) > _OPEN_TARS:
                os.close(self._handles.popitem(last=False)[1])
            # pread leaves no position behind, so a forked process may share the handle.
            content = os.pread(handle, size, offset) if size <= os.fstat(handle).st_size else b""
            if len(content) < size:
                raise AudioError(f"{path} is truncated: it ends before {offset + size} bytes")
            return content
        except OSError as error:
            raise AudioError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Close the tars."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return {"corpus": self.corpus, "_handles": OrderedDict(), "_whole": (None, np.zeros(0, np.float32))}


def _span(samples: np.ndarray, start: float, duration: float) -> np.ndarray:
    """The part of a recording that a cut names; the whole when they agree to within half a sample."""
    first = round(start * SAMPLE_RATE)
    last = first + round(duration * SAMPLE_RATE)
    if first < 0:
        raise AudioError(f"the cut begins {-start:g} s before its recording")
    return samples[first:last] if first or last < len(samples) else samples
