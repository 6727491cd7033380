"""Averages of a model's weights: the running one of training, and those over checkpoints for decoding.

Every ``average_period`` batches the running average takes in a snapshot, so that ``model_avg`` of a checkpoint is the
mean of all snapshots since the run began. Two checkpoints then give the mean of the snapshots between them, of which
none was kept: with b the number of batches, avg_end * b_end/(b_end - b_start) - avg_start * b_start/(b_end - b_start).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from couloir.checkpoint import CheckpointReader, Weights, model_weights, number
from couloir.errors import UserError, must_be
from couloir.training.config import AveragingConfig
from couloir.training.run_dir import batch_path, epoch_path, numbered, single_file


class RunningAverage:
    """The mean of the snapshots of a model, kept in float64 on the CPU.

    Args:
        weights: the state dict at the start; it has no weight once a snapshot was taken.
        period: batches between snapshots.
    """

    def __init__(self, weights: Mapping[str, Tensor], period: int) -> None:
        self.period = period
        self.load(weights)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        self._mean = {name: _wide(tensor.detach().cpu().clone()) for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], batches_seen: int) -> None:
        """Take in a snapshot after ``batches_seen`` batches (a multiple of the period)."""
        share = self.period / batches_seen
        for name, mean in self._mean.items():
            new = weights[name].detach().cpu()
            if mean.is_floating_point():
                mean.mul_(1.0 - share).add_(new, alpha=share)
            else:
                mean.copy_(new)

    def as_float32(self) -> Weights:
        """The average for a checkpoint. What is kept is rounded too, so that a resumed run goes on with the same."""
        narrow = {name: _narrow(mean) for name, mean in self._mean.items()}
        self._mean = {name: _wide(tensor) for name, tensor in narrow.items()}
        return narrow


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def mean_of_files(paths: Sequence[Path], reader: CheckpointReader) -> Weights:
    """The plain mean of the ``model`` of checkpoints. Raises `UserError` when one is unreadable or of another shape."""
    total: Weights = {}
    for path in paths:
        weights = model_weights(reader.read(path), str(path))
        if not total:
            total = {name: _wide(tensor.clone()) for name, tensor in weights.items()}
            continue
        _check_same(total, weights, path)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total[name] += tensor
    return {name: (t / len(paths)).float() if t.is_floating_point() else t for name, t in total.items()}


def _check_same(first: Weights, second: Weights, path: Path) -> None:
    for name, tensor in first.items():
        if name not in second or second[name].shape != tensor.shape:
            raise UserError(f"{path} cannot be averaged with the others: its `{name}` is missing or has another shape")


def mean_between(start: Path, end: Path, reader: CheckpointReader) -> Weights:
    """The mean of the snapshots after ``start`` up to ``end``.

    Raises:
        UserError: a file has no ``model_avg``, or the two are the same number of batches apart from the start.
    """
    first, last = reader.read(start), reader.read(end)
    batches = _averaged_batches((start, first), (end, last))
    if batches[1] <= batches[0]:
        raise UserError(f"no average was taken between {start.name} and {end.name}; give a larger `--avg`")
    weight_end = batches[1] / (batches[1] - batches[0])
    ends = model_weights(last, str(end), "model_avg")
    starts = model_weights(first, str(start), "model_avg")
    _check_same(ends, starts, start)
    result = {}
    for name, tensor in ends.items():
        mixed = tensor.double() * weight_end + starts[name].double() * (1.0 - weight_end)
        result[name] = mixed.float() if tensor.is_floating_point() else tensor
    return result


def _averaged_batches(*checkpoints: tuple[Path, Mapping[str, Any]]) -> list[int]:
    """Batches of the last snapshot that each checkpoint's running average has seen."""
    period = max(1, int(number(checkpoints[0][1], "average_period", checkpoints[0][0], 1)))
    return [int(number(content, "batch_idx_train", path)) // period * period for path, content in checkpoints]


# Without --avg: the part of the run that is averaged. A run whose learning rate falls to zero at its end is averaged
# over the second half of the fall: weights from before it are worse (festvox-ru: PER 13.2 against 13.6 %).
AUTOMATIC_PART = 0.25


@dataclass(frozen=True)
class _Span:
    """Checkpoints to average, newest first, and the one before them, if there is one."""

    paths: list[Path]
    start: Path | None
    suffix: str


@dataclass(frozen=True)
class Averaged:
    """Weights of a folder of checkpoints or of a file.

    Attributes:
        weights: the state dict. suffix: for file names, such as ``epoch-30-avg-9-use-averaged-model``.
        files: the checkpoints that they come from.
    """

    weights: Weights
    suffix: str
    files: list[Path]


def load_averaged(exp_dir: Path, config: AveragingConfig) -> tuple[Weights, str]:
    """The weights and the suffix of `averaged`."""
    found = averaged(exp_dir, config, CheckpointReader())
    return found.weights, found.suffix


def averaged(exp_dir: Path, config: AveragingConfig, reader: CheckpointReader) -> Averaged:
    """The weights that ``--epoch/--iter/--avg/--use-averaged-model`` ask for.

    Args:
        exp_dir: a run directory, a folder with one published model, or a file.
        config: which checkpoints. Without --epoch and --iter, the newest.
        reader: of the program's checkpoints.

    Raises:
        UserError: there is no checkpoint, or fewer than ``--avg``.
    """
    exp_dir = Path(exp_dir)
    if exp_dir.is_file():
        return _alone(exp_dir, config, reader)
    if not exp_dir.is_dir():
        raise UserError(f"`--exp-dir` must be a run directory, but {exp_dir} does not exist")
    kind, end = _kind_and_end(exp_dir, config, reader)
    if kind == "single":
        return _alone(single_file(exp_dir), config, reader)
    span = _span(exp_dir, kind, end, config.avg, reader)
    files = [path for path in (*span.paths, span.start) if path and path.is_file()]
    if config.use_averaged_model:
        if _can_subtract(span, reader) and (config.avg or _holds_a_snapshot(span, reader)):
            assert span.start is not None
            logging.info("mean of the weights over (%s, %s]", span.start.name, span.paths[0].name)
            weights = mean_between(span.start, span.paths[0], reader)
            return Averaged(weights, span.suffix + "-use-averaged-model", files)
        if len(span.paths) > 1 or config.avg:
            logging.warning(
                "`--use-averaged-model` needs `model_avg` in %d checkpoints (those averaged and the one before them), "
                "which are not all there: falling back to the plain mean of %d",
                len(span.paths) + 1,
                len(span.paths),
            )
    for path in span.paths:
        if not path.is_file():
            raise UserError(f"{path} does not exist; give a smaller `--avg`")
    logging.info("plain mean of %s", ", ".join(path.name for path in span.paths))
    return Averaged(mean_of_files(span.paths, reader), span.suffix, files)


def newest_weights(exp_dir: Path, reader: CheckpointReader) -> Averaged:
    """Of what `averaged` gives without further flags the newest checkpoint alone: for names and shapes.

    The values are mapped and not looked at; the suffix is that of the average. Raises `UserError` as `averaged`.
    """
    config = AveragingConfig()
    kind, end = _kind_and_end(exp_dir, config, reader) if exp_dir.is_dir() else ("single", 0)
    if kind == "single":
        path = single_file(exp_dir) if exp_dir.is_dir() else exp_dir
        return Averaged(model_weights(reader.look(path), str(path)), path.stem, [path])
    span = _span(exp_dir, kind, end, config.avg, reader)
    subtracts = config.use_averaged_model and _can_subtract(span, reader) and _holds_a_snapshot(span, reader)
    suffix = span.suffix + "-use-averaged-model" * subtracts
    return Averaged(model_weights(reader.look(span.paths[0]), str(span.paths[0])), suffix, span.paths[:1])


def _alone(path: Path, config: AveragingConfig, reader: CheckpointReader) -> Averaged:
    given = [f"`--{name} {getattr(config, name)}`" for name in ("epoch", "iter") if getattr(config, name)]
    given += [f"`--avg {config.avg}`"] if config.avg > 1 else []
    if given:
        logging.warning("%s: no effect, %s is the only checkpoint", ", ".join(given), path)
    return Averaged(model_weights(reader.read(path), str(path)), path.stem, [path])


def _can_subtract(span: _Span, reader: CheckpointReader) -> bool:
    ends = (span.start, span.paths[0])
    return all(path is not None and path.is_file() and _has_average(path, reader) for path in ends)


def _holds_a_snapshot(span: _Span, reader: CheckpointReader) -> bool:
    assert span.start is not None
    seen = _averaged_batches(*((path, reader.look(path)) for path in (span.start, span.paths[0])))
    return seen[1] > seen[0]


def _has_average(path: Path, reader: CheckpointReader) -> bool:
    average = reader.look(path).get("model_avg")
    return isinstance(average, Mapping) and len(average) > 0


def _kind_and_end(exp_dir: Path, config: AveragingConfig, reader: CheckpointReader) -> tuple[str, int]:
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


def _automatic_start(exp_dir: Path, kind: str, numbers: Sequence[int], reader: CheckpointReader) -> int:
    """Position in ``numbers``, newest first, of the checkpoint after which an average begins that nobody has sized."""
    newest = (epoch_path if kind == "epoch" else batch_path)(exp_dir, numbers[0])
    run = reader.look(newest)
    decays = run.get("max_steps") or run.get("time_budget_minutes")
    part = number(run, "final_decay", newest, 0.0) / 2 if decays else 0.0
    wanted = (1.0 - (part or AUTOMATIC_PART)) * numbers[0]
    return min(range(len(numbers)), key=lambda i: abs(numbers[i] - wanted))


def _span(exp_dir: Path, kind: str, end: int, avg: int, reader: CheckpointReader) -> _Span:
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
        return _Span(paths, epoch_path(exp_dir, start) if start > 0 else None, f"epoch-{end}-avg-{avg}")
    avg = avg or max(1, nearest)
    if avg > len(numbers):
        raise must_be("--avg", f"at most {len(numbers)} (the checkpoints up to {end})", avg)
    paths = [batch_path(exp_dir, n) for n in numbers[:avg]]
    return _Span(paths, batch_path(exp_dir, numbers[avg]) if len(numbers) > avg else None, f"iter-{end}-avg-{avg}")
