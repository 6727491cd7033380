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

import torch
from torch import Tensor

from couloir.checkpoint import CheckpointReader, Weights, model_weights
from couloir.errors import UserError
from couloir.training.config import AveragingConfig
from couloir.training.span import AVERAGED_SUFFIX, averaged_batches, find_span, subtracts


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
    batches = averaged_batches((start, first), (end, last))
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
    span = find_span(Path(exp_dir), config, reader)
    if span.is_single:
        return _alone(span.paths[0], config, reader)
    if subtracts(span, config, reader):
        assert span.start is not None
        logging.info("mean of the weights over (%s, %s]", span.start.name, span.paths[0].name)
        return Averaged(mean_between(span.start, span.paths[0], reader), span.suffix + AVERAGED_SUFFIX, span.files)
    if config.use_averaged_model and (len(span.paths) > 1 or config.avg):
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
    return Averaged(mean_of_files(span.paths, reader), span.suffix, span.files)


def _alone(path: Path, config: AveragingConfig, reader: CheckpointReader) -> Averaged:
    given = [f"`--{name} {getattr(config, name)}`" for name in ("epoch", "iter") if getattr(config, name)]
    given += [f"`--avg {config.avg}`"] if config.avg > 1 else []
    if given:
        logging.warning("%s: no effect, %s is the only checkpoint", ", ".join(given), path)
    return Averaged(model_weights(reader.read(path), str(path)), path.stem, [path])
