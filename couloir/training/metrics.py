"""What a run says about itself: loss sums, log lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couloir.training.config import TrainerConfig
from couloir.training.run_dir import METRICS, append_line, drop_lines_after

# The running total forgets batches at this rate per batch.
RESET_INTERVAL = 200
COUNTS = ("frames", "utterances")
HostSums = dict[str, float]


def decayed(total: HostSums, new: Mapping[str, float]) -> HostSums:
    """The running total after a batch: total * (1 - 1/200) + new."""
    keep = 1.0 - 1.0 / RESET_INTERVAL
    return {name: total.get(name, 0.0) * keep + new.get(name, 0.0) for name in {**total, **new}}


def per_frame(sums: Mapping[str, float]) -> HostSums:
    """Every sum over the number of frames, in the order given; counts left out."""
    frames = max(sums.get("frames", 0.0), 1.0)
    return {name: value / frames for name, value in sums.items() if name not in COUNTS}


def describe(sums: Mapping[str, float]) -> str:
    """icefall's form: ``loss=0.52, ctc_loss=0.41, over 1234.00 frames. ``."""
    values = ", ".join(f"{name}={value:.4g}" for name, value in per_frame(sums).items())
    return f"{values}, over {sums.get('frames', 0.0):.2f} frames. "


class MetricsLog:
    """Appends to metrics.jsonl and, where wanted and installed, to TensorBoard and Weights & Biases.

    A disk that is full costs a warning and the metrics, never the run.

    Args:
        exp_dir: the run directory. config: which of them are wanted. step: batches that the run has seen; what an
            interrupted run wrote beyond is dropped.

    Raises:
        OSError: they cannot be begun.
    """

    def __init__(self, exp_dir: Path, config: TrainerConfig, step: int) -> None:
        self.path = exp_dir / METRICS
        drop_lines_after(self.path, step)
        self._board = _tensorboard(exp_dir / "tensorboard", step) if config.tensorboard else None
        self._wandb = _wandb(exp_dir, config) if config.wandb else None
        self._warned = False
        self._excepthook = threading.excepthook
        if self._board is not None:
            threading.excepthook = self._thread_failed

    def write(self, step: int, values: Mapping[str, Any], prefix: str = "train") -> None:
        """Record ``values`` of step ``step`` under names that begin with ``prefix``."""
        numbers = {f"{prefix}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        try:
            append_line(self.path, {"step": step, "kind": prefix, **values})
            if self._board is not None:
                for name, value in numbers.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            self._warn(error)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Finish writing."""
        if self._board is not None:
            try:
                self._board.close()
            except OSError as error:
                self._warn(error)
        threading.excepthook = self._excepthook
        if self._wandb is not None:
            self._wandb.finish()

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in its own thread, whose error the next `write` gets.
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logging.warning("metrics cannot be written (%s); the run goes on without", error.strerror or error)
        self._warned = True


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logging.warning("`--tensorboard True`, but tensorboard is not installed: metrics.jsonl alone is written")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _wandb(exp_dir: Path, config: TrainerConfig) -> Any:
    try:
        import wandb
    except ImportError:
        logging.warning("`--wandb True`, but wandb is not installed: metrics.jsonl and TensorBoard are written")
        return None
    return wandb.init(project=config.wandb_project, name=config.wandb_run or exp_dir.name, dir=str(exp_dir))
