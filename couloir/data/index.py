"""The index of one shard: where each utterance's audio lies and what is said in it, for reading at any position.

A shard is a lhotse manifest (``cuts.NNNNNN.jsonl.gz``) beside the tar with its audio (``recording.NNNNNN.tar``), or a
manifest whose recordings are files. One pass makes a small file of fixed-size rows and a blob of texts, which loader
processes map into memory: 8 million utterances cost no Python object until they are read.

The file is a line of JSON, the rows, the blob. It is believed when the line names this shard as it is now, the sum of
all bytes is the one that the line has, and every row lies within the blob and the tar.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from couloir import limits
from couloir.data.cuts import InNoTar, LeftOut, parse_cut, parse_line
from couloir.data.shard_files import ShardError, ShardFiles, manifest_lines, open_regular, tar_members, tar_name
from couloir.files import atomic_write

FORMAT = 2
ROW = np.dtype(
    [
        ("duration", "<f4"),  # s
        ("start", "<f8"),  # s, within the recording
        ("channel", "<i2"),  # of a recording that is a file; -1: the mean of all
        ("num_chars", "<i4"),  # of the text
        ("offset", "<i8"),  # of the audio within the tar
        ("size", "<i8"),  # bytes of it; -1: a file, named in the blob
        ("blob_offset", "<i8"),
        ("blob_size", "<i4"),
        ("hash", "<u8"),  # of the id
    ]
)
_NAMED_CUTS = 3
_NAMED_REASONS = 20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Utterance:
    """What is known of an utterance without its audio.

    Attributes:
        id, text, language, speaker: as in the manifest ("" where it says nothing).
        duration: s. alignment: (symbol, start in s, duration in s) of each phone, or None.
        custom: further values of the supervision and the cut. path: the audio file, "" when the audio is in a tar.
    """

    id: str
    text: str = ""
    language: str = ""
    speaker: str = ""
    duration: float = 0.0
    alignment: list[tuple[str, float, float]] | None = None
    custom: dict[str, Any] = field(default_factory=dict)
    path: str = ""


@dataclass
class LeftOutCuts:
    """The cuts of a shard that are not in its index.

    Attributes:
        total: their number. reasons: reason -> how many, of the first few reasons. named: reason -> the first lines.
    """

    total: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.total > 0

    def add(self, reason: str, line: int, cut_id: object) -> str:
        """Count one cut; returns the line that names it."""
        name = f"line {line}" + (f", {shown_id}" if (shown_id := _shown_id(cut_id)) else "")
        self.total += 1
        if reason not in self.reasons and len(self.reasons) >= _NAMED_REASONS:
            reason = "other reasons"
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        named = self.named.setdefault(reason, [])
        if len(named) < _NAMED_CUTS:
            named.append(name)
        return name

    def lines(self) -> list[str]:
        """One line for each reason: how many, why, and which lines of the manifest are the first."""
        found = []
        for reason, count in self.reasons.items():
            more = "; ..." if count > len(self.named[reason]) else ""
            found.append(f"{count} x {reason} ({'; '.join(self.named[reason])}{more})")
        return found


@dataclass
class ShardIndex:
    """The mapped index of a shard. Pickles as its paths, so that it is cheap to hand to loader processes."""

    files: ShardFiles
    path: Path

    @cached_property
    def header(self) -> dict[str, Any]:
        """``format``, ``cuts``, ``stamp``, ``rows``, ``blob`` (bytes), ``left_out`` (of `LeftOutCuts`), ``sum``."""
        with open_regular(self.path) as file:
            return json.loads(file.readline(limits.MAX_INDEX_HEADER_BYTES))

    @cached_property
    def rows(self) -> np.ndarray:
        """(utterances,) of dtype `ROW`, in the manifest's order."""
        count = self.header["rows"]
        if not count:
            return np.empty(0, ROW)
        return np.memmap(self.path, ROW, "r", offset=self._data_start, shape=(count,))

    @property
    def left_out(self) -> LeftOutCuts:
        """The cuts that are not in the index."""
        return LeftOutCuts(**self.header["left_out"])

    @property
    def left_out_path(self) -> Path:
        """A text beside the index that names each of those cuts; not there when there are none."""
        return self.path.with_suffix(".left_out.txt")

    @cached_property
    def _blob(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r", offset=self._data_start + ROW.itemsize * self.header["rows"])

    @cached_property
    def _data_start(self) -> int:
        with open_regular(self.path) as file:
            return len(file.readline(limits.MAX_INDEX_HEADER_BYTES))

    def utterance(self, row: int) -> Utterance:
        """The texts of one utterance. Raises `ShardError` when the index does not hold what was written."""
        entry = self.rows[row]
        start = int(entry["blob_offset"])
        try:
            values = json.loads(self._blob[start : start + int(entry["blob_size"])].tobytes())
            if values.get("alignment"):
                values["alignment"] = [(str(s), float(t), float(d)) for s, t, d in values["alignment"]]
            found = Utterance(duration=float(entry["duration"]), **values)
            sound = all(isinstance(text, str) for text in (found.id, found.text, found.language, found.speaker))
            sound = sound and isinstance(found.path, str) and isinstance(found.custom, dict) and bool(found.id)
        except (ValueError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise ShardError(f"{self.path} is damaged; remove it, and it is made again")
        return found

    def is_fresh(self) -> bool:
        """Whether the index exists, is whole and was made from the files as they are now."""
        try:
            self._clear_cache()
            fresh = self._is_sound()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ShardError):
            fresh = False
        if not fresh:
            self._clear_cache()
        return fresh

    def _is_sound(self) -> bool:
        header, stamp = self.header, self.files.stamp()
        expected = {"format": FORMAT, "cuts": self.files.cuts.name, "stamp": stamp}
        if any(header[name] != value for name, value in expected.items()):
            return False
        sizes = [header["rows"], header["blob"], header["left_out"]["total"]]
        if not all(type(size) is int and size >= 0 for size in sizes) or not header["blob"]:
            return False
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != self._data_start + ROW.itemsize * header["rows"] + header["blob"]:
                return False
            file.seek(self._data_start)
            if header["sum"] != _sum(header, iter(lambda: file.read(_CHUNK_BYTES), b"")):
                return False
        self.left_out.lines()
        return self._rows_are_sound(stamp)

    def _rows_are_sound(self, stamp: list[list[int]]) -> bool:
        """Whether every row is within its bounds, and within the blob and the tar."""
        rows = self.rows
        duration, start, offset, size = (rows[name] for name in ("duration", "start", "offset", "size"))
        blob_offset, blob_size = rows["blob_offset"], rows["blob_size"].astype(np.int64)
        tar_size = stamp[1][0] if self.files.tar else 0
        in_tar = (size >= 0) & (size <= limits.MAX_MEMBER_BYTES) & (offset >= 0) & (offset <= tar_size - size)
        bounds = [
            (duration >= 0) & (duration <= limits.MAX_CUT_SECONDS) & (start >= 0) & (start <= limits.MAX_CUT_SECONDS),
            (rows["channel"] >= -1) & (rows["channel"] < limits.MAX_AUDIO_CHANNELS) & (rows["num_chars"] >= 0),
            (blob_offset >= 0) & (blob_size > 0) & (blob_offset <= self.header["blob"] - blob_size),
            in_tar if self.files.tar else size == -1,
        ]
        return all(bool(bound.all()) for bound in bounds)

    def _clear_cache(self) -> None:
        for name in ("header", "rows", "_blob", "_data_start"):
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "path": self.path}


def build_index(index: ShardIndex) -> None:
    """Read a shard once and write its index.

    A cut that cannot be used, that has no audio or an id that came before is left out, counted in the header and named
    in a text beside the index. Raises `ShardError` naming the file when the manifest or the tar as a whole is damaged.
    """
    stamp = index.files.stamp()
    rows, blobs, left_out, report = _read_shard(index.files)
    blob = b"".join(blobs) or b" "
    content = np.array(rows, ROW).tobytes() + blob
    header: dict[str, Any] = {"format": FORMAT, "cuts": index.files.cuts.name, "stamp": stamp}
    header |= {"rows": len(rows), "blob": len(blob), "left_out": asdict(left_out)}
    header["sum"] = _sum(header, [content])
    if report:
        with atomic_write(index.left_out_path, "w") as out:
            out.writelines(report)
    else:
        index.left_out_path.unlink(missing_ok=True)
    with atomic_write(index.path) as out:
        out.write(json.dumps(header).encode() + b"\n" + content)
    index._clear_cache()


def hash_id(utterance_id: str) -> int:
    """64 bits that depend on the id alone, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "little")


def _read_shard(files: ShardFiles) -> tuple[list[tuple], list[bytes], LeftOutCuts, list[str]]:
    """The rows and blobs of a shard's cuts; what is left out, and a line that names each of that."""
    members = tar_members(files.tar) if files.tar else None
    rows, blobs, report = list[tuple](), list[bytes](), list[str]()
    left_out, without_tar = LeftOutCuts(), 0
    first_line: dict[str, int] = {}
    position = 0
    for number, line in manifest_lines(files.cuts):
        values: dict[str, Any] = {}
        try:
            if line is None:
                raise LeftOut(f"the line is longer than {limits.MAX_MANIFEST_LINE_BYTES} bytes")
            values = parse_line(line)
            utterance_id, row, blob = _entry(values, members, first_line)
        except LeftOut as error:
            without_tar += isinstance(error, InNoTar)
            report.append(f"{left_out.add(error.reason, number, values.get('id'))}: {error.reason}\n")
            if left_out.total > limits.MAX_LINES_LEFT_OUT:
                text = f"{files.cuts} is no manifest of cuts: more than {limits.MAX_LINES_LEFT_OUT} lines are left out"
                raise ShardError(f"{text}, the first as {report[0].strip()}") from None
            continue
        first_line[utterance_id] = number
        rows.append((*row, position, len(blob), hash_id(utterance_id)))
        blobs.append(blob)
        position += len(blob)
    if not rows and without_tar:
        raise ShardError(f"{files.cuts} has no {tar_name(files.cuts)} beside it")
    if not rows and not report:
        raise ShardError(f"{files.cuts} holds no cuts; fetch it again")
    return rows, blobs, left_out, report


def _entry(
    values: dict[str, Any], members: dict[str, tuple[int, int]] | None, first_line: dict[str, int]
) -> tuple[str, tuple, bytes]:
    """The id of a cut, the first fields of its row and its blob. Raises `LeftOut`."""
    cut = parse_cut(values, members is not None)
    if cut.id in first_line:
        raise LeftOut("its id is that of a line before")
    offset, size = 0, -1
    if members is not None:
        if cut.id not in members:
            raise LeftOut("no audio in the tar")
        offset, size = members[cut.id]
        if size > limits.MAX_MEMBER_BYTES:
            raise LeftOut(f"its audio in the tar is larger than {limits.MAX_MEMBER_BYTES} bytes")
    return cut.id, (cut.duration, cut.start, cut.channel, len(cut.text), offset, size), cut.blob()


def _sum(header: dict[str, Any], content: Iterable[bytes]) -> int:
    """Check sum of an index: of what its first line says, and of all that follows."""
    said = json.dumps({name: value for name, value in header.items() if name != "sum"})
    return functools.reduce(lambda value, part: zlib.crc32(part, value), content, zlib.crc32(said.encode()))


def _shown_id(cut_id: object) -> str:
    return repr(cut_id[:100]) if isinstance(cut_id, str) and cut_id else ""
