"""The index of one shard: where each utterance's audio lies and what is said in it, for reading at any position.

A shard is a lhotse manifest (``cuts.NNNNNN.jsonl.gz``) beside the tar with its audio (``recording.NNNNNN.tar``), or a
manifest whose recordings are files. One pass makes a small file of fixed-size rows and a blob of texts, which loader
processes map into memory: 8 million utterances cost no Python object until they are read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from couloir.errors import UserError
from couloir.files import atomic_write

FORMAT = 1
ROW = np.dtype(
    [
        ("duration", "<f4"),  # s
        ("start", "<f4"),  # s, within the recording
        ("channel", "<i2"),  # of a recording that is a file; -1: the mean of all
        ("num_chars", "<i4"),  # of the text
        ("offset", "<i8"),  # of the audio within the tar
        ("size", "<i8"),  # bytes of it; -1: a file, named in the blob
        ("blob_offset", "<i8"),
        ("blob_size", "<i4"),
        ("hash", "<u8"),  # of the id
    ]
)


class ShardError(UserError):
    """A shard that cannot be used. The message names it."""


class _NoTar(Exception):
    """The manifest's audio is in a tar that is not there."""


class _LeftOut(Exception):
    """One utterance that cannot be indexed; the argument says why, in words that can be counted."""


@dataclass(frozen=True)
class ShardFiles:
    """One shard: its manifest, and its tar unless the recordings are files of their own."""

    cuts: Path
    tar: Path | None

    def stamp(self) -> list[list[int]]:
        """Size and time of change of each file: an index with another stamp is out of date."""
        stats = [path.stat() for path in (self.cuts, self.tar) if path is not None]
        return [[s.st_size, s.st_mtime_ns] for s in stats]


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
class ShardIndex:
    """The mapped index of a shard. Pickles as its paths, so that it is cheap to hand to loader processes."""

    files: ShardFiles
    path: Path

    @cached_property
    def header(self) -> dict[str, Any]:
        """``format``, ``stamp``, ``rows``, ``left_out`` (reason -> count)."""
        with open(self.path, "rb") as file:
            return json.loads(file.readline())

    @cached_property
    def rows(self) -> np.ndarray:
        """(utterances,) of dtype `ROW`, in the manifest's order."""
        count = self.header["rows"]
        if not count:
            return np.empty(0, ROW)
        return np.memmap(self.path, ROW, "r", offset=self._data_start, shape=(count,))

    @cached_property
    def _blob(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r", offset=self._data_start + ROW.itemsize * self.header["rows"])

    @cached_property
    def _data_start(self) -> int:
        with open(self.path, "rb") as file:
            return len(file.readline())

    def utterance(self, row: int) -> Utterance:
        """The texts of one utterance."""
        entry = self.rows[row]
        start = int(entry["blob_offset"])
        values = json.loads(self._blob[start : start + int(entry["blob_size"])].tobytes())
        if values.get("alignment"):
            values["alignment"] = [tuple(item) for item in values["alignment"]]
        return Utterance(duration=float(entry["duration"]), **values)

    def is_fresh(self) -> bool:
        """Whether the index exists, is whole and was made from the files as they are now."""
        try:
            header = self.header
            return header["format"] == FORMAT and header["stamp"] == self.files.stamp()
        except (OSError, ValueError, KeyError):
            self.__dict__.pop("header", None)
            return False

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "path": self.path}


def build_index(index: ShardIndex) -> None:
    """Read a shard once and write its index.

    Raises `ShardError` naming the file when the manifest or the tar is damaged, or the manifest has no tar. An
    utterance without audio, or of a kind that is not read here, is left out and counted in the header.
    """
    files = index.files
    members = _tar_members(files.tar) if files.tar else None
    rows: list[tuple] = []
    blobs: list[bytes] = []
    left_out: Counter[str] = Counter()
    position = 0
    for number, cut in _read_manifest(files.cuts):
        try:
            row, blob = _entry(cut, members)
        except _LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        except _NoTar:
            raise ShardError(f"{files.cuts} has no {tar_name(files.cuts)} beside it") from None
        except (KeyError, TypeError, AttributeError, IndexError, ValueError):
            raise ShardError(f"{files.cuts} is no manifest of cuts: line {number} lacks what a cut has") from None
        rows.append((*row, position, len(blob), hash_id(cut["id"])))
        blobs.append(blob)
        position += len(blob)
    if not rows and not left_out:
        raise ShardError(f"{files.cuts} holds no cuts; fetch it again")
    header = {"format": FORMAT, "stamp": files.stamp(), "rows": len(rows), "left_out": dict(left_out)}
    with atomic_write(index.path) as out:
        out.write(json.dumps(header).encode() + b"\n")
        out.write(np.array(rows, ROW).tobytes())
        out.write(b"".join(blobs) or b" ")
    index.__dict__.pop("header", None)


def tar_name(cuts: Path) -> str:
    """``cuts.000017.jsonl.gz`` -> ``recording.000017.tar``."""
    return "recording" + cuts.name.removeprefix("cuts").removesuffix(".gz").removesuffix(".jsonl") + ".tar"


def hash_id(utterance_id: str) -> int:
    """64 bits that depend on the id alone, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "little")


def _read_manifest(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number from 1 and cut of each line."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ShardError(f"{path} is truncated or damaged after line {number}; fetch it again") from None
    except ValueError:
        raise ShardError(f"{path} is damaged: line {number} is not JSON") from None
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from None


def _tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Utterance id -> (offset, size) of its audio, from the tar's headers."""
    members = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                stem, _, kind = member.name.rpartition(".")
                if kind not in ("json", "nodata", "nometa"):
                    members[stem] = (member.offset_data, member.size)
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
    except FileNotFoundError:
        raise ShardError(f"{path} does not exist") from None
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ShardError(f"{path} is truncated or damaged ({error}); fetch it again") from None
    return members


def _entry(cut: dict[str, Any], members: dict[str, tuple[int, int]] | None) -> tuple[tuple, bytes]:
    """One cut as the first fields of its row and its blob. Raises `_LeftOut`."""
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        raise _LeftOut(f"cuts of type {cut['type']} are not read here")
    recording = cut.get("recording") or {}
    path, offset, size = "", 0, -1
    if members is None:
        path = _recording_path(recording)
    elif cut["id"] in members:
        offset, size = members[cut["id"]]
    else:
        raise _LeftOut("no audio in the tar")
    supervisions = sorted(cut.get("supervisions") or [], key=lambda s: s["start"])
    text = " ".join(s["text"] for s in supervisions if s.get("text"))
    values = {"id": cut["id"], "text": text, "path": path, "custom": _custom(cut, supervisions)}
    for name in ("language", "speaker"):
        values[name] = next((str(s[name]) for s in supervisions if s.get(name)), "")
    values["alignment"] = _alignment(supervisions)
    blob = json.dumps({key: value for key, value in values.items() if value}, ensure_ascii=False).encode()
    channel = cut.get("channel", -1)
    row = (cut["duration"], cut["start"], channel if isinstance(channel, int) else -1, len(text), offset, size)
    return row, blob


def _recording_path(recording: dict[str, Any]) -> str:
    sources = recording.get("sources") or []
    kinds = {source["type"] for source in sources}
    if "shar" in kinds:
        raise _NoTar
    if recording.get("transforms"):
        raise _LeftOut("recordings with transforms (such as speed perturbation) are not read here")
    if len(sources) != 1 or kinds != {"file"}:
        raise _LeftOut("the recording is not one file")
    return str(sources[0]["source"])


def _custom(cut: dict[str, Any], supervisions: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain custom values; arrays and the like, which lhotse keeps as manifests, are not read."""
    merged = {**(cut.get("custom") or {})}
    for supervision in supervisions:
        merged.update(supervision.get("custom") or {})
    return {k: v for k, v in merged.items() if not isinstance(v, dict) and k not in ("shard_origin", "shar_epoch")}


def _alignment(supervisions: list[dict[str, Any]]) -> list[tuple[str, float, float]] | None:
    items = [item for s in supervisions for item in (s.get("alignment") or {}).get("phone", [])]
    return [(item[0], item[1], item[2]) for item in items] or None
