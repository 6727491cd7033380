"""Writing Shar folders: ``cuts.NNNNNN.jsonl.gz`` beside ``recording.NNNNNN.tar``, FLAC at 16 kHz.

The layout is lhotse's (and IPAPack++'s), so a folder written here is read by ``CutSet.from_shar`` and the other way
round. Equal input gives equal bytes, whatever the number of processes.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader
from couloir.errors import UserError, must_be

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
    _refuse_foreign_files(out_dir)
    temporary = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        summary = SharSummary()
        for part in _write_shards(_chunks(utterances, shard_size), temporary, num_jobs):
            summary.add(part)
        _replace_folder(temporary, out_dir)
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


def _refuse_foreign_files(folder: Path) -> None:
    """Keep `write_shar` from replacing a folder that somebody keeps other things in."""
    if not folder.exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith((".", "cuts.", "recording.")):
            raise UserError(f"{folder} holds {path.name}, which is no Shar file; name an empty or new folder")


def _replace_folder(new: Path, final: Path) -> None:
    """Move ``new`` to ``final``; an older ``final`` goes only once the new one is whole."""
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _chunks(utterances: Iterable[SharUtterance], size: int) -> Iterator[list[SharUtterance]]:
    iterator = iter(utterances)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _write_shards(chunks: Iterator[list[SharUtterance]], folder: Path, num_jobs: int) -> Iterator[SharSummary]:
    """Write one shard per chunk. The shard's number is the chunk's: no number of processes changes a byte."""
    if num_jobs <= 1:
        for number, chunk in enumerate(chunks):
            yield _write_shard(chunk, folder, number)
        return
    # Spawned, not forked: a parent that has used torch or soundfile may hold locks that a fork would copy.
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("spawn")) as pool:
        pending: list[Future[SharSummary]] = []
        for number, chunk in enumerate(chunks):
            pending.append(pool.submit(_write_shard, chunk, folder, number))
            if len(pending) >= 2 * num_jobs:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _write_shard(utterances: Sequence[SharUtterance], folder: Path, number: int) -> SharSummary:
    # lhotse imports torch, which programs that only name these classes should not wait for.
    from lhotse.shar.writers.tar import TarWriter

    summary = SharSummary(num_shards=1)
    cuts_path, tar_path = folder / f"cuts.{number:06d}.jsonl.gz", folder / f"recording.{number:06d}.tar"
    # No file name and no time in the gzip header: equal cuts are equal bytes.
    with (
        open(cuts_path, "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as cuts,
        TarWriter(str(tar_path), shard_size=None) as tar,
    ):
        for utterance in utterances:
            try:
                samples = load_audio(
                    utterance.audio, name=utterance.id if isinstance(utterance.audio, np.ndarray) else ""
                )
            except UserError as error:
                summary.skipped.append((utterance.id, str(error)))
                continue
            cut = make_cut(utterance, len(samples))
            tar.write(f"{cut.id}.flac", encode_flac(samples))
            tar.write(f"{cut.id}.json", io.BytesIO(_json_line(cut.recording.to_dict())), count=False)
            cuts.write(_json_line(cut.to_dict()))
            summary.num_utterances += 1
            summary.duration_s += len(samples) / SAMPLE_RATE
    if not summary.num_utterances:
        cuts_path.unlink()
        tar_path.unlink(missing_ok=True)
        summary.num_shards = 0
    return summary


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
