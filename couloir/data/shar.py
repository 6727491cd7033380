"""Writing Shar folders: ``cuts.NNNNNN.jsonl.gz`` beside ``recording.NNNNNN.tar``, FLAC at 16 kHz.

The layout is lhotse's (and IPAPack++'s), so a folder written here is read by ``CutSet.from_shar`` and the other way
round. Equal input gives equal bytes, whatever the number of processes.
"""
# Shapes: N samples.

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.data.cuts import LeftOut, parse_cut
from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader
from couloir.errors import UserError, must_be
from couloir.files import atomic_path

if TYPE_CHECKING:
    from lhotse.cut import MonoCut


@dataclass(frozen=True)
class SharUtterance:
    """One utterance on its way into (or out of) a Shar folder.

    Attributes:
        id: unique within the corpus; becomes the name of the tar member.
        audio: mono float32 samples in [-1, 1] at 16 kHz, or a file that `couloir.audio.load_audio` reads.
        text: the transcript (IPA for phone recognition); language: its tag; speaker: its name.
        alignment: (symbol, start in s, duration in s) of each phone, or None.
        custom: further JSON-able values, kept in the supervision.
    """

    id: str
    audio: np.ndarray | Path | str
    text: str
    language: str = ""
    speaker: str = ""
    alignment: Sequence[tuple[str, float, float]] | None = None
    custom: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class SharSummary:
    """What `write_shar` wrote: counts, seconds of audio, and the utterances left out as (id, reason)."""

    num_utterances: int = 0
    num_shards: int = 0
    duration_s: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: SharSummary) -> None:
        """Add the counts of another part."""
        self.num_utterances += other.num_utterances
        self.num_shards += other.num_shards
        self.duration_s += other.duration_s
        self.skipped += other.skipped


def write_shar(
    utterances: Iterable[SharUtterance], out_dir: str | Path, shard_size: int = 2000, num_jobs: int = 1
) -> SharSummary:
    """Write utterances as a Shar folder, which appears whole or not at all and replaces an older one.

    Args:
        utterances: read once, in order; at most ``2 * num_jobs`` shards of them are held in memory.
        shard_size: utterances per shard; num_jobs: processes that decode and encode.

    An utterance whose audio cannot be read, is empty or has samples that are not finite is left out and listed in
    the summary. Raises `UserError` when ``out_dir`` holds files that are no Shar files.
    """
    if shard_size < 1:
        raise must_be("shard_size", "at least 1", shard_size)
    out_dir = Path(out_dir)
    refuse_foreign_files(out_dir)
    temporary = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        summary = SharSummary()
        for _, part in write_shards(utterances, temporary, shard_size, itertools.count(), num_jobs):
            summary.add(part)
        with moved_aside(out_dir):
            temporary.rename(out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def iterate_shar(folder: str | Path, with_audio: bool = True) -> Iterator[SharUtterance]:
    """The utterances below a folder, in the order of its shards, with their texts and alignments.

    With ``with_audio`` an utterance whose audio cannot be read raises `UserError`; without, ``audio`` is an empty
    array and ``custom["duration"]`` has the manifest's seconds. Damaged shards are named on the log and left out.
    """
    corpus = folder_corpus([folder])
    reader = AudioReader(corpus)
    for number in range(len(corpus)):
        found, samples = reader.read(number) if with_audio else (corpus.utterance(number), np.empty(0, np.float32))
        if isinstance(samples, UserError):
            raise samples
        custom = {"duration": found.duration, **found.custom}
        yield SharUtterance(found.id, samples, found.text, found.language, found.speaker, found.alignment, custom)
    reader.close()


def refuse_foreign_files(folder: Path) -> None:
    """Raise `UserError` for a folder that somebody keeps other things in than Shar files: it must not be replaced."""
    if not folder.exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", "cuts.", "recording.")):
            raise UserError(f"{folder} holds {path.name}, which is no Shar file; name an empty or new folder")


@contextmanager
def moved_aside(folder: Path) -> Iterator[None]:
    """Make room for a new ``folder``: an older one goes only once the new one is in its place."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    yield
    shutil.rmtree(old, ignore_errors=True)


def _chunks(utterances: Iterable[SharUtterance], size: int) -> Iterator[list[SharUtterance]]:
    iterator = iter(utterances)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def write_shards(
    utterances: Iterable[SharUtterance], folder: Path, shard_size: int, numbers: Iterable[int], num_jobs: int
) -> Iterator[tuple[int, SharSummary]]:
    """Write some shards of a folder, each whole or not at all, and yield the number and summary of each.

    Args:
        utterances: those of these shards, in order; at most ``2 * num_jobs`` shards of them are held in memory.
        folder: is there already. shard_size: utterances per shard. numbers: of the shards.
        num_jobs: processes that decode and encode; their number changes no byte.
    """
    chunks = zip(numbers, _chunks(utterances, shard_size))
    if num_jobs <= 1:
        for number, chunk in chunks:
            yield number, _write_shard(chunk, folder, number)
        return
    # Spawned, not forked: a parent that has used torch or soundfile may hold locks that a fork would copy.
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("spawn")) as pool:
        pending: list[tuple[int, Future[SharSummary]]] = []
        for number, chunk in chunks:
            pending.append((number, pool.submit(_write_shard, chunk, folder, number)))
            if len(pending) >= 2 * num_jobs:
                first, future = pending.pop(0)
                yield first, future.result()
        for number, future in pending:
            yield number, future.result()


def _write_shard(utterances: Sequence[SharUtterance], folder: Path, number: int) -> SharSummary:
    """Write one shard; where no utterance of it can be decoded it has no files."""
    cuts_path, tar_path = folder / f"cuts.{number:06d}.jsonl.gz", folder / f"recording.{number:06d}.tar"
    with atomic_path(cuts_path) as new_cuts, atomic_path(tar_path) as new_tar:
        summary = _write_files(utterances, new_cuts, new_tar)
    if not summary.num_utterances:
        cuts_path.unlink(missing_ok=True)
        tar_path.unlink(missing_ok=True)
        summary.num_shards = 0
    return summary


def _write_files(utterances: Sequence[SharUtterance], cuts_path: Path, tar_path: Path) -> SharSummary:
    # lhotse imports torch, which programs that only name these classes should not wait for.
    from lhotse.shar.writers.tar import TarWriter

    summary = SharSummary(num_shards=1)
    tar_path.touch()  # the writer makes no file for no utterance
    # No file name and no time in the gzip header: equal cuts are equal bytes.
    with (
        open(cuts_path, "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as cuts,
        TarWriter(str(tar_path), shard_size=None) as tar,
    ):
        written: set[str] = set()
        for utterance in utterances:
            try:
                samples = load_audio(
                    utterance.audio, name=utterance.id if isinstance(utterance.audio, np.ndarray) else ""
                )
                cut = make_cut(utterance, len(samples))
                _check_readable(cut, written)
            except (UserError, LeftOut) as error:
                summary.skipped.append((utterance.id, str(error)))
                continue
            written.add(cut.id)
            tar.write(f"{cut.id}.flac", encode_flac(samples))
            tar.write(f"{cut.id}.json", io.BytesIO(_json_line(cut.recording.to_dict())), count=False)
            cuts.write(_json_line(cut.to_dict()))
            summary.num_utterances += 1
            summary.duration_s += len(samples) / SAMPLE_RATE
    return summary


def _check_readable(cut: MonoCut, written: set[str]) -> None:
    """Raise `LeftOut` for a cut that would be left out when the shard is read."""
    if cut.id in written:
        raise LeftOut("its id is that of an utterance before")
    parse_cut(cut.to_dict(), True).blob()


def encode_flac(samples: np.ndarray) -> io.BytesIO:
    """Mono samples (N,) at 16 kHz as a 16-bit FLAC file in memory; values beyond [-1, 1] are clipped."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return stream


def make_cut(utterance: SharUtterance, num_samples: int) -> MonoCut:
    """The lhotse cut of an utterance, with the placeholder recording that Shar folders keep."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    duration = num_samples / SAMPLE_RATE
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="shar", channels=[0], source="")],
        sampling_rate=SAMPLE_RATE,
        num_samples=num_samples,
        duration=duration,
    )
    alignment = None
    if utterance.alignment is not None:
        alignment = {"phone": [AlignmentItem(symbol, start, length) for symbol, start, length in utterance.alignment]}
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        text=utterance.text,
        language=utterance.language or None,
        speaker=utterance.speaker or None,
        custom=dict(utterance.custom) or None,
        alignment=alignment,
    )
    return MonoCut(utterance.id, 0.0, duration, channel=0, supervisions=[supervision], recording=recording)


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
