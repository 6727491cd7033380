"""Recordings in, transcripts out: reading, windows, batches and order are its business."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from couloir.audio import SAMPLE_RATE, AudioError, Source, load_audio
from couloir.decoding.hypothesis import Hypothesis
from couloir.errors import UserError, must_be
from couloir.inference.backend import Backend
from couloir.inference.flags import SETTINGS
from couloir.inference.inventory import restriction_to
from couloir.inference.methods import MethodSearch, SearchConfig, is_greedy, kind_of, search_config
from couloir.inference.restriction import Restriction
from couloir.inference.search import token_bias
from couloir.inference.transcript import Transcript, transcript_of
from couloir.inference.windows import Window, cut, join
from couloir.machine import usable_cores

# What is in memory at a time: enough batches to sort recordings by length, but no more than an hour of audio. A file's
# length is known once it is read; large ones are therefore not read together.
_POOL_BATCHES = 8
_POOL_SAMPLES = 3600 * SAMPLE_RATE
_BYTES_TOGETHER = 50_000_000


@dataclass
class _Recording:
    index: int
    name: str
    samples: np.ndarray
    windows: list[Window]
    parts: list[np.ndarray]


class Recognizer:
    """A model that transcribes recordings of any length.

    Args:
        backend: the model. restriction: phones that may be emitted; None for all (see `inventory.restriction_to`).
        blank_penalty: taken from the score of blank in every frame: above 0, fewer symbols are missed and more are made
            up. What is best for a model is found on a development set.
        passes: a CTC model's log-probabilities are the mean over that many passes, each later by one output frame than
            the one before: as many times the work, and fewer errors, since the model groups other frames each time.
        max_sym_per_frame: symbols that a transducer may emit in a frame. 1 is the search of icefall and of ZIPA's
            published numbers; 3 is that of the example client that comes with ZIPA's ONNX files.
        window_s: recordings that are longer are cut; overlap_s: what two windows share at least. Both in s.
        batch_size: windows that are encoded at a time; None leaves it to the backend.
        search: a method of decode.py or ctc_decode.py with its settings (see `methods.search_config`); None is greedy.
        result: see `MethodSearch`.
    """

    def __init__(
        self,
        backend: Backend,
        restriction: Restriction | None = None,
        *,
        blank_penalty: float = 0.0,
        passes: int = 1,
        max_sym_per_frame: int = 1,
        window_s: float = 30.0,
        overlap_s: float = 4.0,
        batch_size: int | None = None,
        search: SearchConfig | None = None,
        result: str = "",
    ) -> None:
        if search is not None:
            blank_penalty = blank_penalty or search.blank_penalty
            max_sym_per_frame = max(max_sym_per_frame, getattr(search, "max_sym_per_frame", 1))
        if not 0 < overlap_s <= window_s / 2:
            raise must_be("overlap_s", f"above 0 and at most half of window_s ({window_s})", overlap_s)
        if backend and window_s * SAMPLE_RATE < backend.times.step_samples:
            least = f"at least {backend.times.step_samples / SAMPLE_RATE:g}, at multiples of which this model is cut"
            raise must_be("window_s", least, window_s)
        if batch_size is not None and batch_size < 1:
            raise must_be("--batch-size", "at least 1", batch_size)
        if passes < 1 or (passes > 1 and backend.kind != "ctc"):
            raise must_be("--passes", "at least 1, and 1 for a transducer", passes)
        _check_symbols(max_sym_per_frame, backend, restriction)
        self.backend, self.passes, self.restriction = backend, passes, restriction
        self.max_sym_per_frame = max_sym_per_frame
        # What makes results other than those of the model alone, and is not left at its default.
        self.choices: dict[str, float] = dict(backend.choices) if backend else {}
        self.choices |= {"blank_penalty": blank_penalty} if blank_penalty else {}
        self.choices |= {"passes": passes} if passes > 1 else {}
        self.choices |= {"max_sym_per_frame": max_sym_per_frame} if max_sym_per_frame > 1 else {}
        allowed = restriction.allowed if restriction else None
        self.bias = token_bias(len(backend.vocabulary), allowed, blank_penalty) if backend else None
        self.window_s, self.overlap_s = window_s, overlap_s
        self.method: MethodSearch | None = None
        if search is not None and not is_greedy(search):
            self._use(replace(search, blank_penalty=blank_penalty), result)
        elif result:
            raise must_be("--result", "left out of a greedy search, which has one", result)
        self.batch_size = batch_size or backend.batch_size

    def _use(self, search: SearchConfig, result: str) -> None:
        """Search by a method in place of the backend's greedy search. Raises `UserError` as `MethodSearch`."""
        self.method = MethodSearch(search, self.backend, self.restriction, result)
        self.choices |= self.method.choices
        if self.passes > 1 and self.method.whole_only:
            raise must_be("--passes", f"1 with --decoding-method {search.decoding_method}", self.passes)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        inventory: str | Path | None = None,
        batch_size: int | None = None,
        blank_penalty: float = 0.0,
        passes: int = 1,
        max_sym_per_frame: int = 1,
        window_s: float = 30.0,
        overlap_s: float = 4.0,
        result: str = "",
        **options: Any,
    ) -> Recognizer:
        """Open a model.

        Args:
            source: a run directory, a checkpoint file, a folder of checkpoints or of exported ONNX files, or a hub id
                such as ``anyspeech/zipa-small-crctc-300k``, with ``@REVISION`` where a certain one is wanted.
            inventory: phones that may be emitted: a file, or a language's code (see `inventory.restriction_to`).
            batch_size, blank_penalty, passes, max_sym_per_frame, window_s, overlap_s, result: as of the class.
            options: as of `pretrained.open_model`, chunk_size and left_context_frames among them; and those of
                decode.py and ctc_decode.py that say how to search: decoding_method, beam_size, context_file, ...

        Raises:
            UserError: there is no model, or it does not fit its tokens or the method.
        """
        from couloir.inference.pretrained import open_model

        settings = {name: options.pop(name) for name in SETTINGS & options.keys()}
        method = str(settings.get("decoding_method", ""))
        backend = _open_for(method, source, options) if kind_of(method) else open_model(source, **options)
        restriction = restriction_to(inventory, backend.vocabulary) if inventory else None
        search = search_config(backend.kind, settings, backend.origin) if settings else None
        return cls(
            backend,
            restriction,
            search=search,
            result=result,
            batch_size=batch_size,
            blank_penalty=blank_penalty,
            passes=passes,
            max_sym_per_frame=max_sym_per_frame,
            window_s=window_s,
            overlap_s=overlap_s,
        )

    def transcribe(self, items: Sequence[Source], log_probs: bool = False) -> list[Transcript]:
        """Transcribe recordings.

        Args:
            items: a list of recordings of any length: paths, encoded bytes, files open for reading, samples at 16 kHz,
                or (samples, rate in Hz), as of `couloir.audio.load_audio`. A single one is a list of one.
            log_probs: keep the model's log-probabilities, which a CTC model has.

        Returns:
            One transcript for each item, in their order. None depends on the others.

        Raises:
            AudioError: an item cannot be used.
            UserError: ``items`` is one recording, not a list, or log-probabilities are asked of a transducer.
        """
        transcripts: list[Transcript] = []
        for _, result in sorted(self.results(items, log_probs), key=lambda pair: pair[0]):
            if isinstance(result, AudioError):
                raise result
            transcripts.append(result)
        return transcripts

    def results(
        self, items: Iterable[Source], log_probs: bool = False
    ) -> Iterator[tuple[int, Transcript | AudioError]]:
        """As `transcribe`, but one at a time, each with the item's index, and an error in the place of a bad item."""
        _refuse_one(items)
        if log_probs and self.method and self.method.whole_only:
            raise must_be("log_probs", "False with an attention decoder", True)
        if log_probs and self.backend.kind != "ctc":
            raise must_be("log_probs", "False", f"True, and {self.backend.origin} is a transducer, which has none")
        return self._results(items, log_probs)

    def _results(self, items: Iterable[Source], log_probs: bool) -> Iterator[tuple[int, Transcript | AudioError]]:
        pool: list[_Recording] = []
        cores = usable_cores()
        with ThreadPoolExecutor(cores) as readers:
            for batch in _read_together(items, cores):
                for index, read in zip((index for index, _ in batch), readers.map(self._try_to_read, batch)):
                    if isinstance(read, AudioError):
                        yield index, read
                    else:
                        pool.append(read)
                full = len(pool) >= self.batch_size * _POOL_BATCHES
                if full or sum(len(recording.samples) for recording in pool) >= _POOL_SAMPLES:
                    yield from self._transcribed(pool, log_probs)
                    pool = []
        yield from self._transcribed(pool, log_probs)

    def _transcribed(self, pool: list[_Recording], log_probs: bool) -> Iterator[tuple[int, Transcript]]:
        self._encode(pool)
        for first in range(0, len(pool), self.batch_size):
            yield from self._decode(pool[first : first + self.batch_size], log_probs)

    def _try_to_read(self, numbered: tuple[int, Source]) -> _Recording | AudioError:
        index, item = numbered
        name = os.fspath(item) if isinstance(item, (str, os.PathLike)) else ""
        try:
            # A path that comes here was named by a person: a shell's <(...) is one as well.
            samples = load_audio(item, name=name or f"item {index}", pipes=True)
        except AudioError as error:
            return error
        except Exception as error:  # whatever a decoder makes of one bad file, the others go on
            return AudioError(f"{name or f'item {index}'} cannot be read ({type(error).__name__}: {error})")
        longest, overlap = int(self.window_s * SAMPLE_RATE), int(self.overlap_s * SAMPLE_RATE)
        windows = cut(len(samples), longest, overlap, self.backend.times.step_samples)
        if len(windows) > 1 and self.method and self.method.whole_only:
            why = f"is longer than {self.window_s:g} s, over which an attention decoder does not rescore; cut it"
            return AudioError(f"{name or f'item {index}'} {why}")
        return _Recording(index, name, samples, windows, [])

    def _encode(self, recordings: list[_Recording]) -> None:
        """Fill in the output frames of every recording's windows, in batches of similar length."""
        jobs = [(recording, i) for recording in recordings for i in range(len(recording.windows))]
        jobs.sort(key=lambda job: job[0].windows[job[1]].stop - job[0].windows[job[1]].start)
        for recording in recordings:
            recording.parts = [np.zeros(0)] * len(recording.windows)
        for first in range(0, len(jobs), self.batch_size):
            batch = jobs[first : first + self.batch_size]
            frames = self._frames([_wave(recording, i, self.backend.times.min_samples) for recording, i in batch])
            for (recording, i), part in zip(batch, frames):
                recording.parts[i] = part

    def _frames(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """The output frames of waves: of one pass, or the mean of several."""
        frames = self.method.encode(waves) if self.method else self.backend.encode(waves)
        if self.passes == 1:
            return frames
        step = round(self.backend.frame_shift * SAMPLE_RATE)
        total = [np.exp(rows) for rows in frames]
        for late in range(1, self.passes):
            moved = self.backend.encode([np.pad(wave, (late * step, 0)) for wave in waves])
            total = [rows + np.exp(other[late : late + len(rows)]) for rows, other in zip(total, moved)]
        return [np.log(np.maximum(rows / self.passes, np.finfo(np.float32).tiny)) for rows in total]

    def _decode(self, recordings: list[_Recording], log_probs: bool) -> Iterator[tuple[int, Transcript]]:
        shift = self.backend.frame_shift
        scored = self.backend.kind == "ctc" and not (self.method and self.method.whole_only)
        joined = [
            join(r.parts, [round(w.start / SAMPLE_RATE / shift) for w in r.windows], shift, scored) for r in recordings
        ]
        for recording, frames, found in zip(recordings, joined, self._found(joined)):
            transcript = transcript_of(
                recording.name,
                found,
                self.backend.vocabulary,
                self.backend.times,
                len(recording.samples) / SAMPLE_RATE,
                self.method.words(found) if self.method else None,
            )
            if scored:
                silence = float(np.exp(frames[:, 0]).mean())
                transcript = replace(transcript, log_probs=frames if log_probs else None)
                transcript = transcript if found.tokens else replace(transcript, confidence=round(silence, 4))
            yield recording.index, transcript

    def _found(self, joined: list[np.ndarray]) -> list[Hypothesis]:
        """What the method finds in the frames of recordings."""
        if self.method:
            return self.method(joined)
        beyond_mask = self.restriction if self.restriction and not self.restriction.is_mask else None
        return self.backend.search(joined, self.bias, beyond_mask, self.max_sym_per_frame)


def _open_for(method: str, source: str | Path, options: dict[str, Any]) -> Backend:
    """The model, of a kind that a method is for where nobody said another. Raises `UserError`, naming the method."""
    from couloir.inference.pretrained import open_model

    if options.get("model_type"):
        return open_model(source, **options)
    kind = kind_of(method)
    try:
        return open_model(source, **{**options, "model_type": kind})
    except UserError as error:
        raise UserError(f"`--decoding-method {method}` needs a {kind} model: {error}") from None


def _check_symbols(most: int, backend: Backend, restriction: Restriction | None) -> None:
    """Refuse a number of symbols per frame that a model's search does not have."""
    if most < 1 or (most > 1 and backend.kind != "transducer"):
        raise must_be("--max-sym-per-frame", "at least 1, and 1 for a CTC model", most)
    if most > 1 and restriction and not restriction.is_mask:
        raise must_be("--max-sym-per-frame", "1 with an inventory whose phones are spelt with several pieces", most)


def _read_together(items: Iterable[Source], most: int) -> Iterator[list[tuple[int, Source]]]:
    """Numbered items, as many at a time as ``most`` and `_BYTES_TOGETHER` allow, but one at least."""
    batch: list[tuple[int, Source]] = []
    total = 0
    for index, item in enumerate(items):
        size = _size(item)
        if batch and (len(batch) == most or total + size > _BYTES_TOGETHER):
            yield batch
            batch, total = [], 0
        batch.append((index, item))
        total += size
    if batch:
        yield batch


def _size(item: Source) -> int:
    if isinstance(item, (bytes, bytearray, memoryview)):
        return memoryview(item).nbytes
    try:
        return os.stat(item).st_size if isinstance(item, (str, os.PathLike)) else 0
    except (OSError, ValueError):
        return 0  # reading it says what is wrong


def _refuse_one(items: Any) -> None:
    """Raise `UserError` for one recording where a list of them is expected."""
    kinds = (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray, dict)
    is_samples = hasattr(items, "detach") or hasattr(items, "read")
    is_pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], (int, float, np.number))
    if isinstance(items, kinds) or is_samples or is_pair or not isinstance(items, Iterable):
        found = f"one {type(items).__name__}"
        raise must_be("items", "a list of recordings", found, "write [item] for a single one")


def _wave(recording: _Recording, window: int, fewest: int) -> np.ndarray:
    part = recording.windows[window]
    samples = recording.samples[part.start : part.stop]
    return samples if len(samples) >= fewest else np.pad(samples, (0, fewest - len(samples)))
