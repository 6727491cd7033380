"""Folders of shards: which files belong together, which split each is, and their indexes as one corpus."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

import numpy as np

from couloir.data.index import ShardIndex, Utterance, build_index
from couloir.data.shard_files import ShardError, ShardFiles, tar_name
from couloir.data.split_names import DEV, TEST, innermost, kind_of, own_name
from couloir.errors import UserError, must_be
from couloir.files import ANY_NAME
from couloir.progress import track

log = logging.getLogger(__name__)

FEWEST_TO_JUDGE = 10
"""Fewer unusable things than this say nothing of the others."""
_NAMED_PROBLEMS = 50

INDEX_FOLDER = "cuts.index"
"""Beside the shards. lhotse takes any other name in a Shar folder for a field that each shard must have."""

_SHAR_CUTS = re.compile(r"cuts(\.\d+)?\.jsonl(\.gz)?")
_FILE_CUTS = re.compile(r".*cuts[_-](?P<split>.+)\.jsonl(\.gz)?", re.IGNORECASE)


@dataclass
class Corpus:
    """Utterances of many shards, numbered from 0 in the shards' order.

    Attributes:
        shards: their indexes; starts: (shards + 1,) number of each one's first utterance;
        problems: one line for each shard that was left out, and for utterances left out of the others.
    """

    shards: list[ShardIndex]
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.starts = np.cumsum([0] + [len(shard.rows) for shard in self.shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> np.ndarray:
        """(utterances,) one field of `couloir.data.index.ROW` over all shards."""
        parts = [np.asarray(shard.rows[name]) for shard in self.shards]
        return np.concatenate(parts) if parts else np.empty(0)

    def shard_numbers(self) -> np.ndarray:
        """(utterances,) int32: the shard that each utterance lies in."""
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), np.diff(self.starts))

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """The shard of an utterance and its row there."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[shard], int(number - self.starts[shard])

    def utterance(self, number: int) -> Utterance:
        """The texts of an utterance."""
        shard, row = self.locate(number)
        return shard.utterance(row)


def find_splits(folders: Sequence[Path], flag: str = "--manifest-dir") -> dict[str, list[ShardFiles]]:
    """Split name ("train", "dev", "dev-clean", "test-heldout") -> shards.

    Folders are searched at any depth, hidden ones aside. The innermost folder whose name says a split decides
    (`split_names.kind_of`); shards in other folders are for training, which is logged where it was not the only folder,
    unless there is a train folder. A manifest whose recordings are files takes its split from its own name first, as in
    ``librispeech_cuts_dev-clean.jsonl.gz``. Of several ``folders`` the name of each says a split too.
    Raises `UserError` for a folder that is missing or empty, naming the ``flag`` that gave it.
    """
    splits: dict[str, list[ShardFiles]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise must_be(flag, "a folder with cuts.*.jsonl.gz and recording.*.tar", f"{folder}, not there")
        outer = (Path(os.path.abspath(folder)).name,) if len(folders) > 1 else ()
        found = list(_find_shards(folder, outer))
        if not found:
            raise UserError(f"{folder} holds no cuts.*.jsonl.gz; name a folder of Shar shards by {flag}")
        has_train = any(split == "train" for split, _ in found)
        unnamed = [shard.cuts for split, shard in found if split is None]
        if unnamed and not has_train and (len(folders) > 1 or len(unnamed) < len(found)):
            log.warning(
                "%d shards are trained on, as no folder's name says train, dev or test; the first: %s",
                len(unnamed), unnamed[0],
            )  # fmt: skip
        for split, shard in found:
            if split is None and has_train:
                log.warning("%s is left out: it is in no train, dev or test folder, and there are such", shard.cuts)
            else:
                splits.setdefault(split or "train", []).append(shard)
    shuffled = [shard for shard in splits.get("train", []) if "train-all-shuf" in shard.cuts.name]
    if shuffled:  # icefall keeps the same cuts in train-clean-100 and the like
        splits["train"] = shuffled
    return splits


def _find_shards(folder: Path, outer: tuple[str, ...]) -> Iterator[tuple[str | None, ShardFiles]]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != INDEX_FOLDER)
        tars = {name for name in names if name.startswith("recording") and name.endswith(".tar")}
        of_folder = _split(innermost((*outer, *Path(root).relative_to(folder).parts)))
        for name in sorted(names):
            if _SHAR_CUTS.fullmatch(name):
                tar = tar_name(Path(name))
                yield of_folder, ShardFiles(Path(root, name), Path(root, tar) if tar in tars else None)
                tars.discard(tar)
            elif found := _FILE_CUTS.fullmatch(name):
                if split := _split(found["split"]) or of_folder:
                    yield split, ShardFiles(Path(root, name), None)
                else:
                    log.warning("%s is left out: its name says neither train, dev nor test", Path(root, name))
        for tar in sorted(tars):
            log.warning("%s is left out: it has no manifest of cuts beside it", Path(root, tar))


def _split(name: str) -> str | None:
    """``train``, ``dev``, or the name of a test set or of one of several development sets, when the name says so."""
    kind = kind_of(name)
    return name if kind == TEST or (kind == DEV and own_name(name)) else kind or None


def open_corpus(
    shards: Sequence[ShardFiles], index_dir: str = "", jobs: int = 1, max_skipped_share: float = 1.0
) -> Corpus:
    """Open the shards' indexes, making those that are missing, damaged or out of date.

    Args:
        index_dir: where indexes are kept; else beside the shards, or under the user's cache when that is read-only.
        jobs: processes that make them.
        max_skipped_share: largest share of the shards, and of the cuts in the others, that may be unusable.

    A damaged shard, and a cut that cannot be used, is left out, named on the log and in `Corpus.problems`. Raises
    `UserError` when none is usable, or fewer than that.
    """
    indexes = [ShardIndex(files, _index_path(files.cuts, index_dir)) for files in shards]
    failures = _build_all([index for index in indexes if not index.is_fresh()], jobs)
    usable = [index for index in indexes if index.path not in failures]
    problems = [failures[index.path] for index in indexes if index.path in failures]
    for index in usable:
        if left := index.left_out:
            found = f"{left.total} of {left.total + len(index.rows)} cuts, all named in {index.left_out_path}"
            problems.append(f"{index.files.cuts}: {found}: {'; '.join(left.lines())}")
    for problem in problems[:_NAMED_PROBLEMS]:
        log.warning("left out: %s", problem)
    if len(problems) > _NAMED_PROBLEMS:
        log.warning("left out: something of %d more shards", len(problems) - _NAMED_PROBLEMS)
    if not any(len(index.rows) for index in usable):
        raise UserError(problems[0] if problems else f"{shards[0].cuts} holds no utterances")
    left_out = sum(index.left_out.total for index in usable)
    _judge("shards", len(failures), len(indexes), max_skipped_share, problems)
    _judge("cuts", left_out, left_out + sum(len(index.rows) for index in usable), max_skipped_share, problems)
    return Corpus(usable, problems)


def _judge(what: str, bad: int, total: int, most: float, problems: list[str]) -> None:
    if bad >= FEWEST_TO_JUDGE and bad > most * total:
        raise UserError(
            f"{bad} of {total} {what} are unusable, more than --max-skipped-share {most}; the first: {problems[0]}"
        )


def _build_all(stale: list[ShardIndex], jobs: int) -> dict[Path, str]:
    """Build indexes; index path -> error of those that failed."""
    # Ranks that start together begin at different shards, and leave each other the rest.
    first = uuid4().int % max(1, len(stale))
    stale = stale[first:] + stale[:first]
    built: Iterable[tuple[ShardIndex, str]] = _built(stale, min(jobs, len(stale)))
    if stale:
        built = track(built, "indexing shards", len(stale))
    return {index.path: error for index, error in built if error}


def _built(stale: list[ShardIndex], jobs: int) -> Iterator[tuple[ShardIndex, str]]:
    if jobs <= 1 or len(stale) < 4:  # a few are done sooner than processes start
        yield from ((index, _try_build(index)) for index in stale)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_try_build, index): index for index in stale}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _try_build(index: ShardIndex) -> str:
    """Build one index unless another process has; return what was wrong."""
    try:
        if not index.is_fresh():
            build_index(index)
    except ShardError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{error.filename} does not exist"
    except OSError as error:
        raise UserError(f"{index.path} cannot be written: {error.strerror}; name a folder by --index-dir") from None
    return ""


def _index_path(cuts: Path, index_dir: str) -> Path:
    """Where the index of a manifest is, or is to be. A link that came with the data is not followed."""
    name = cuts.name.removesuffix(".gz").removesuffix(".jsonl") + ".index"
    beside = cuts.parent / INDEX_FOLDER
    if beside.is_symlink() or (beside.exists() and not beside.is_dir()):
        log.warning("%s is not used: indexes are kept in a folder there, not behind a link", beside)
    elif not index_dir:
        writable = os.access(beside if beside.exists() else cuts.parent, os.W_OK)
        if writable or (beside / name).exists():
            return beside / name
    base = Path(index_dir) if index_dir else _cache_folder()
    key = hashlib.blake2b(str(cuts.parent.resolve()).encode(errors=ANY_NAME), digest_size=8).hexdigest()
    if (base / key).is_symlink():
        raise UserError(f"{base / key} must be a folder, but is a link; remove it")
    return base / key / name


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "couloir" / "index"


def folder_corpus(folders: Iterable[str | Path], index_dir: str = "", jobs: int = 1) -> Corpus:
    """All shards below some folders as one corpus, whatever their split."""
    splits = find_splits([Path(folder) for folder in folders])
    return open_corpus([shard for shards in splits.values() for shard in shards], index_dir, jobs)
