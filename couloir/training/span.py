"""Which checkpoints of a folder are averaged. Needs no torch: of files no values are read.

A reader is a `couloir.checkpoint.CheckpointReader`, or a `couloir.checkpoint_headers.HeaderReader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from couloir.checkpoint_headers import number
from couloir.errors import UserError, must_be
from couloir.training.config import AveragingConfig
from couloir.weight_files import batch_path, epoch_path, numbered, single_file

# Without --avg: the part of the run that is averaged. A run whose learning rate falls to zero at its end is averaged
# over the second half of the fall: weights from before it are worse (festvox-ru: PER 13.2 against 13.6 %).
AUTOMATIC_PART = 0.25
AVERAGED_SUFFIX = "-use-averaged-model"


class Reader(Protocol):
    """Looks into checkpoints."""

    def look(self, path: Path) -> dict[str, Any]:
        """What a checkpoint holds."""
        ...

    def weights(self, path: Path) -> Mapping[str, Any]:
        """Names and shapes of its state dict."""
        ...


@dataclass(frozen=True)
class Span:
    """Checkpoints to average, newest first, and the one before them, if there is one.

    Attributes:
        paths, start: see above. suffix: for file names, such as ``epoch-30-avg-9``.
        is_single: of a folder or a file without numbered checkpoints.
    """

    paths: list[Path]
    start: Path | None
    suffix: str
    is_single: bool = False

    @property
    def files(self) -> list[Path]:
        """Those that are there."""
        return [path for path in (*self.paths, self.start) if path and path.is_file()]


def find_span(exp_dir: Path, config: AveragingConfig, reader: Reader) -> Span:
    """The checkpoints that ``--epoch/--iter/--avg`` ask for; without --epoch and --iter the newest.

    Args:
        exp_dir: a run directory, a folder with one published model, or a file. config: which. reader: of checkpoints.

    Raises:
        UserError: there is none, or fewer than ``--avg``.
    """
    if exp_dir.is_file():
        return Span([exp_dir], None, exp_dir.stem, is_single=True)
    if not exp_dir.is_dir():
        raise UserError(f"`--exp-dir` must be a run directory, but {exp_dir} does not exist")
    kind, end = _kind_and_end(exp_dir, config, reader)
    if kind == "single":
        path = single_file(exp_dir)
        return Span([path], None, path.stem, is_single=True)
    return _numbered_span(exp_dir, kind, end, config.avg, reader)


def subtracts(span: Span, config: AveragingConfig, reader: Reader) -> bool:
    """Whether a span's mean is that of the snapshots between its ends, which running averages give."""
    return config.use_averaged_model and _has_ends(span, reader) and bool(config.avg or _holds_a_snapshot(span, reader))


def look_at_newest(exp_dir: Path, reader: Reader) -> tuple[Mapping[str, Any], str]:
    """Names and shapes of the weights where nothing else is asked for, and the suffix of their average.

    Raises `UserError` as `find_span`.
    """
    config = AveragingConfig()
    span = find_span(exp_dir, config, reader)
    between = not span.is_single and subtracts(span, config, reader)
    return reader.weights(span.paths[0]), span.suffix + AVERAGED_SUFFIX * between


def averaged_batches(*checkpoints: tuple[Path, Mapping[str, Any]]) -> list[int]:
    """Batches of the last snapshot that each checkpoint's running average has seen."""
    period = max(1, int(number(checkpoints[0][1], "average_period", checkpoints[0][0], 1)))
    return [int(number(content, "batch_idx_train", path)) // period * period for path, content in checkpoints]


def _has_ends(span: Span, reader: Reader) -> bool:
    ends = (span.start, span.paths[0])
    return all(path is not None and path.is_file() and _has_average(path, reader) for path in ends)


def _holds_a_snapshot(span: Span, reader: Reader) -> bool:
    assert span.start is not None
    seen = averaged_batches(*((path, reader.look(path)) for path in (span.start, span.paths[0])))
    return seen[1] > seen[0]


def _has_average(path: Path, reader: Reader) -> bool:
    average = reader.look(path).get("model_avg")
    return isinstance(average, Mapping) and len(average) > 0


def _kind_and_end(exp_dir: Path, config: AveragingConfig, reader: Reader) -> tuple[str, int]:
    if config.epoch > 0:
        return "epoch", config.epoch
    batches, epochs = numbered(exp_dir, "checkpoint"), numbered(exp_dir, "epoch")
    if config.iter > 0:
        return "iter", config.iter
    if not batches and not epochs:
        return "single", 0
    if batches and epochs:
        # The name of an epoch's file does not tell how far it is.
        newest = epoch_path(exp_dir, epochs[0])
        seen = number(reader.look(newest), "batch_idx_train", newest, 0)
        return ("epoch", epochs[0]) if seen >= batches[0] else ("iter", batches[0])
    return ("epoch", epochs[0]) if epochs else ("iter", batches[0])


def _automatic_start(exp_dir: Path, kind: str, numbers: Sequence[int], reader: Reader) -> int:
    """Position in ``numbers``, newest first, of the checkpoint after which an average begins that nobody has sized."""
    newest = (epoch_path if kind == "epoch" else batch_path)(exp_dir, numbers[0])
    run = reader.look(newest)
    decays = run.get("max_steps") or run.get("time_budget_minutes")
    part = number(run, "final_decay", newest, 0.0) / 2 if decays else 0.0
    wanted = (1.0 - (part or AUTOMATIC_PART)) * numbers[0]
    return min(range(len(numbers)), key=lambda i: abs(numbers[i] - wanted))


def _numbered_span(exp_dir: Path, kind: str, end: int, avg: int, reader: Reader) -> Span:
    existing = numbered(exp_dir, "epoch" if kind == "epoch" else "checkpoint")
    numbers = [n for n in existing if n <= end]
    if not numbers or (kind == "epoch" and numbers[0] != end):
        have = ", ".join(map(str, reversed(existing))) or "none"
        raise UserError(f"{exp_dir} holds no checkpoint for `--{kind} {end}`; there are: {have}")
    nearest = 0 if avg else _automatic_start(exp_dir, kind, numbers, reader)
    if kind == "epoch":
        avg = avg or max(1, end - numbers[nearest])
        wanted, start = range(end, max(0, end - avg), -1), end - avg
        paths = [epoch_path(exp_dir, n) for n in wanted]
        return Span(paths, epoch_path(exp_dir, start) if start > 0 else None, f"epoch-{end}-avg-{avg}")
    avg = avg or max(1, nearest)
    if avg > len(numbers):
        raise must_be("--avg", f"at most {len(numbers)} (the checkpoints up to {end})", avg)
    paths = [batch_path(exp_dir, n) for n in numbers[:avg]]
    return Span(paths, batch_path(exp_dir, numbers[avg]) if len(numbers) > avg else None, f"iter-{end}-avg-{avg}")
