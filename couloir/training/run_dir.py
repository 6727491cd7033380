"""The run directory: names, listing and pruning of what a run writes.

epoch-N.pt  checkpoint-N.pt  last.pt  best-train-loss.pt  best-valid-loss.pt
.lock  config.yaml  metrics.jsonl  skipped.jsonl  log/  tensorboard/  bad-model*-R.pt  batch-*.pt  bad-*  aside-N-*
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from couloir.checkpoint import load_checkpoint, model_weights, verify_checkpoint
from couloir.checkpoint_headers import number
from couloir.config import read_yaml
from couloir.errors import UserError, must_be
from couloir.files import atomic_path, atomic_write
from couloir.locks import BEAT_S, SILENCE_S, Lock, holder, locked
from couloir.texts import split_lines
from couloir.weight_files import CONFIG_FILE, LAST, batch_path, epoch_path, numbered

METRICS = "metrics.jsonl"
LOCK = ".lock"
SHORT_WAIT_S = 3.0
"""For how long a killed run's processes may still be ending."""
BEFORE = "%s; trying the one before"


@contextmanager
def run_lock(exp_dir: Path) -> Iterator[Lock]:
    """Hold the folder of a training alone. A job of SLURM waits for one that ended with its node, see `couloir.locks`.

    Raises:
        UserError: another process trains there.
    """
    path, wait_s = exp_dir / LOCK, SHORT_WAIT_S
    if "SLURM_JOB_ID" in os.environ:
        wait_s = SILENCE_S + BEAT_S
        if path.exists() and (owner := holder(path)):
            logging.warning("%s is used by %s: waiting for its end, %.0f s at most", exp_dir, owner, wait_s)
    with locked(path, exp_dir, "wait until that has ended, or give another folder", wait_s) as lock:
        yield lock


def find_checkpoints(exp_dir: Path, iteration: int = 0) -> list[Path]:
    """checkpoint-N.pt files, newest first: those with N >= iteration, or N <= -iteration where it is negative."""
    numbers = numbered(exp_dir, "checkpoint")
    kept = [n for n in numbers if (n >= iteration if iteration >= 0 else n <= -iteration)]
    return [batch_path(exp_dir, n) for n in kept]


def prune(exp_dir: Path, keep_last_k: int) -> None:
    """Remove all but the newest ``keep_last_k`` checkpoint-N.pt files."""
    for path in find_checkpoints(exp_dir)[keep_last_k:]:
        path.unlink(missing_ok=True)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` (a hard link where the file system has them).

    Where that fails, on a full disk for one, it is logged and ``target`` is what it was.
    """
    try:
        with atomic_path(target) as temporary:
            try:
                os.link(source, temporary)
            except OSError:
                temporary.write_bytes(source.read_bytes())
    except OSError as error:
        logging.error("%s could not be copied to %s (%s)", source, target.name, error.strerror or error)


def holds_checkpoints(exp_dir: Path) -> bool:
    """Whether a run has saved something there, whole or not."""
    return (exp_dir / LAST).is_file() or bool(numbered(exp_dir, "epoch") or numbered(exp_dir, "checkpoint"))


def newest_first(exp_dir: Path) -> Iterator[Path]:
    """Whole checkpoints that a run can go on from, by the number of batches seen, newest first; damaged are named."""
    steps: list[tuple[int, float, Path]] = []
    for path in _checkpoints(exp_dir):
        step = _step_of(path)
        if step is not None:
            steps.append((step, path.stat().st_mtime, path))
    for _, _, path in sorted(steps, reverse=True):
        try:
            verify_checkpoint(path)
        except UserError as error:
            logging.warning(BEFORE, error)
            continue
        yield path


def _checkpoints(exp_dir: Path) -> list[Path]:
    candidates = [exp_dir / LAST, *(epoch_path(exp_dir, n) for n in numbered(exp_dir, "epoch"))]
    return [*find_checkpoints(exp_dir), *(path for path in candidates if path.is_file())]


def _step_of(path: Path) -> int | None:
    try:
        return int(number(load_checkpoint(path, mmap=True), "batch_idx_train", path))
    except UserError as error:
        logging.warning(BEFORE, error)
    return None


def last_good(exp_dir: Path) -> Path | None:
    """The newest checkpoint whose weights are all finite; newer ones are renamed ``bad-NAME``, out of the way."""
    for path in newest_first(exp_dir):
        weights = model_weights(load_checkpoint(path, mmap=True), str(path))
        if all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            return path
        logging.warning("%s holds weights that are not finite; it is now bad-%s", path, path.name)
        path.rename(path.with_name(f"bad-{path.name}"))
    return None


def was_begun_at(exp_dir: Path, start: Mapping[str, int]) -> bool:
    """Whether the run's own configuration says that it was last started with these flags of the trainer."""
    path = exp_dir / CONFIG_FILE
    saved = read_yaml(path).get("trainer") if path.is_file() else None
    return isinstance(saved, Mapping) and all(saved.get(name) == value for name, value in start.items())


def put_aside(exp_dir: Path, step: int) -> None:
    """Rename the checkpoints of more than ``step`` batches to ``aside-N-NAME``, and keep a copy of the metrics so.

    A run that begins again at an earlier checkpoint would go back to them, average with them and resume from them.
    """
    saved = [*_checkpoints(exp_dir), *exp_dir.glob("best-*-loss.pt")]
    later = [path for path in saved if (_step_of(path) or 0) > step]
    if not later:
        return
    prefix = next(f"aside-{n}-" for n in itertools.count(1) if not any(exp_dir.glob(f"aside-{n}-*")))
    for path in later:
        path.rename(path.with_name(prefix + path.name))
    if (exp_dir / METRICS).is_file():
        shutil.copyfile(exp_dir / METRICS, exp_dir / (prefix + METRICS))
    names = ", ".join(path.name for path in later)
    logging.warning("what %s holds beyond batch %d is now %s*: %s", exp_dir, step, prefix, names)


def check_recipe(exp_dir: Path, recipe: str) -> None:
    """Refuse a run directory of another recipe. Raises `UserError`."""
    path = exp_dir / CONFIG_FILE
    if not recipe or not path.is_file():
        return
    found = str(read_yaml(path).get("recipe", "")) or recipe
    if found != recipe:
        raise must_be("--exp-dir", f"a run of {recipe}", f"{exp_dir}, a run of {found}", "give another folder")


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append one JSON line."""
    with open(path, "a", encoding="utf-8") as out:
        out.write(json.dumps(values, ensure_ascii=False) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines whose ``step`` is beyond ``step``: a resumed run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in split_lines(path.read_bytes().decode("utf-8", "replace")):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            # The line that was being written when the run was killed.
            continue
    with atomic_write(path, "w") as out:
        out.writelines(line + "\n" for line in kept)
