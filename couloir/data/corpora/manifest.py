"""The files between stages: utterances, what was dropped, and stamps that tell whether a stage is done."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from couloir.config import as_plain
from couloir.data.corpora.base import Dropped, Utterance
from couloir.errors import UserError
from couloir.files import atomic_write
from couloir.texts import iterate_lines, read_lines


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write utterances as gzipped JSON lines, equal ones as equal bytes; the file appears whole or not at all."""
    with atomic_write(path) as raw, gzip.GzipFile("", "wb", 5, raw, mtime=0) as out:
        for utterance in utterances:
            out.write(json.dumps(utterance.to_dict(), ensure_ascii=False).encode() + b"\n")


def read_manifest(path: Path) -> Iterator[Utterance]:
    """The utterances of a manifest. Raises `UserError` when it is missing or damaged."""
    try:
        for line in iterate_lines(path):
            yield Utterance.from_dict(json.loads(line))
    except FileNotFoundError:
        raise UserError(f"manifest {path} does not exist; run the earlier stages of prepare.sh first") from None
    except (UserError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"manifest {path} is damaged ({error}); remove it and run its stage again") from None


def dropped_path(data_dir: Path, stage: str, name: str) -> Path:
    """Where a stage lists what it left out of a corpus or split."""
    return data_dir / "dropped" / f"{stage}-{name}.jsonl"


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write the list, also when it is empty."""
    with atomic_write(path, "w", "backslashreplace") as out:
        out.writelines(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in dropped)


def read_dropped(path: Path) -> list[Dropped]:
    """The list of one stage and corpus; empty when there is none."""
    if not path.exists():
        return []
    try:
        return [Dropped(**json.loads(line)) for line in read_lines(path)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run its stage again") from None


def fingerprint(*values: Any, files: Iterable[Path] = ()) -> str:
    """A digest of options, of the size and time of files, and of the code that prepares data."""
    digest = hashlib.sha256(_code_digest().encode())
    digest.update(json.dumps(as_plain(values), ensure_ascii=False, sort_keys=True).encode())
    for path in files:
        if path.exists():
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@cache
def _code_digest() -> str:
    """Changes when a program of data preparation does, so that a new mapping is never taken for an old one."""
    digest = hashlib.sha256()
    text = Path(__file__).parents[2] / "text"
    texts = (*(text / f"{name}.py" for name in ("g2p", "languages", "spelling", "units")), *sorted(text.glob("ipa*")))
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *texts]:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_done(output: Path, inputs: str) -> bool:
    """Whether ``output`` (a file or folder) was completed from inputs with this fingerprint."""
    stamp = _stamp(output)
    return output.exists() and stamp.is_file() and stamp.read_text().strip() == inputs


def mark_done(output: Path, inputs: str) -> None:
    """Record that ``output`` is complete."""
    with atomic_write(_stamp(output), "w") as out:
        out.write(inputs + "\n")


def _stamp(output: Path) -> Path:
    return output.with_name(f".{output.name}.done")
