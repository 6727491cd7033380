"""The Shar stage shared among processes of several machines: whose a shard is, and which are there.

Shards are made in ``shar/.parts/INPUTS/SPLIT``, where no reader looks. Each is marked once it is whole, so a process
that was killed makes only the rest; a split is moved to its place by one process, when all its shards are there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from couloir.data.corpora.manifest import is_done, mark_done
from couloir.data.shar import SharSummary, moved_aside
from couloir.errors import UserError, must_be
from couloir.files import atomic_write


@dataclass(frozen=True)
class Part:
    """One of ``count`` processes, from 0 on: its shards are those whose number is ``index`` modulo ``count``."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_part(text: str, environment: Mapping[str, str]) -> Part | None:
    """The part that ``--part`` names: ``K/N``, or ``auto`` for what SLURM or torchrun say; None for "".

    Raises `UserError` for anything else, and for a job array that does not number its tasks from 0 on.
    """
    if not text:
        return None
    index, _, count = (_from_environment(environment) if text == "auto" else text).partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise must_be("--part", "K/N with K from 0 to N-1, or auto in a SLURM array, under srun or torchrun", text)
    return Part(int(index), int(count))


def _from_environment(environment: Mapping[str, str]) -> str:
    """``K/N`` of a SLURM array's task, a rank of torchrun or of srun; "" outside of them."""
    if task := environment.get("SLURM_ARRAY_TASK_ID"):
        first, last, count = (environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "MAX", "COUNT"))
        # To repeat a task alone, sbatch is given an array of that task, which says no more how many there were.
        if (first, last) != ("0", str(int(count or 0) - 1)):
            raise must_be("--array", "0-N for `--part auto`", f"{first}-{last}", f"give --part {task}/N instead")
        return f"{task}/{count}"
    for index, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if index in environment and count in environment:
            return f"{environment[index]}/{environment[count]}"
    return ""


@dataclass(frozen=True)
class PendingSplit:
    """A split whose shards are being made.

    Attributes:
        final: the folder to be; inputs: fingerprint of what it is made from; count: its shards.
    """

    final: Path
    inputs: str
    count: int

    @property
    def folder(self) -> Path:
        """Where its shards are until all are there."""
        return _pending_folder(self.final.parent, self.inputs) / self.final.name

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be made."""
        if is_done(self.final, self.inputs):
            return []
        there = {path.name for path in self._mark(0).parent.glob("*.json")}
        return [number for number in range(self.count) if self._mark(number).name not in there]

    def mark(self, number: int, summary: SharSummary) -> None:
        """Record that a shard is whole, and what is in it."""
        with atomic_write(self._mark(number), "w") as out:
            json.dump(asdict(summary), out)

    def summary(self) -> SharSummary:
        """The sum over all its shards, in their order."""
        total = SharSummary()
        for number in range(self.count):
            total.add(SharSummary(**json.loads(self._mark(number).read_text(encoding="utf-8"))))
        return total

    def move_in(self) -> None:
        """Put the folder into its place, where it counts as done from that moment on."""
        for leftover in self.folder.glob(".*"):  # of a process that was killed
            leftover.unlink()
        with moved_aside(self.final):
            mark_done(self.final, self.inputs)
            self.folder.rename(self.final)

    def _mark(self, number: int) -> Path:
        return self.folder.with_suffix(".marks") / f"{number:06d}.json"


def announce(root: Path, inputs: str, part: Part) -> None:
    """Record that parts share the folders below ``root``, and how many."""
    folder = _pending_folder(root, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"of-{part.count}").touch()


def refuse_other_parts(root: Path, inputs: str) -> None:
    """Raise `UserError` where parts made shards from other inputs: one of them was given other flags."""
    for record in root.glob(".parts/*/of-*"):
        if record.parent != _pending_folder(root, inputs):
            raise UserError(
                f"{record.parent} was made by parts with other flags or data; give all the same, or remove it first"
            )


def refuse_missing_parts(root: Path, inputs: str, splits: Iterable[PendingSplit]) -> None:
    """Raise `UserError` naming the parts that have not made all their shards, where parts were at work."""
    records = sorted(_pending_folder(root, inputs).glob("of-*"), key=lambda path: path.stat().st_mtime_ns)
    missing = [number for split in splits for number in split.missing()]
    if not records or not missing:
        return
    count = int(records[-1].name.removeprefix("of-"))
    parts = ", ".join(f"{index}/{count}" for index in sorted({number % count for number in missing}))
    raise UserError(
        f"{len(missing)} shards are missing, of part {parts}; run prepare.sh --stage 3 --stop-stage 3 --part K/{count}"
        " for each (what is there is kept), or --part 0/1 for all of them"
    )


def forget_parts(root: Path) -> None:
    """Remove what is left below ``root`` once all is in its place."""
    shutil.rmtree(root / ".parts", ignore_errors=True)


def _pending_folder(root: Path, inputs: str) -> Path:
    return root / ".parts" / inputs[:16]
