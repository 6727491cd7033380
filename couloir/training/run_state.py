"""Where a run is, and writing and reading all of it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from couloir.checkpoint import load_checkpoint, load_weights, model_weights, reading, save_checkpoint
from couloir.checkpoint_headers import number
from couloir.config import as_plain
from couloir.errors import UserError
from couloir.files import remedy
from couloir.locks import Lock
from couloir.models.common.state import get_training_state, set_training_state
from couloir.training.averaging import RunningAverage
from couloir.training.distributed import Group
from couloir.training.metrics import HostSums
from couloir.training.precision import Precision
from couloir.training.random_state import get_random_state, set_random_state
from couloir.training.recovery import Recovery
from couloir.training.status import RUNNING, report_status

# Entries that icefall's programs look for in a checkpoint and that no flag gives.
ICEFALL_ENTRIES = {
    "reset_interval": 200,
    "subsampling_factor": 4,
    "ignore_id": -1,
    "label_smoothing": 0.1,
    "warm_step": 2000,
    "blank_id": 0,
}
BEST = ("best_train_loss", "best_valid_loss", "best_train_epoch", "best_valid_epoch")


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        step: batches seen. epoch: the current one, from 1. batch: batches of it that are done.
        elapsed_s: time spent, earlier parts of a resumed run included.
        total: decayed sums of this rank's losses (`metrics.decayed`).
    """

    step: int = 0
    epoch: int = 1
    batch: int = 0
    elapsed_s: float = 0.0
    total: HostSums = field(default_factory=dict)
    best_train_loss: float = float("inf")
    best_valid_loss: float = float("inf")
    best_train_epoch: int = -1
    best_valid_epoch: int = -1

    @property
    def train_loss(self) -> float:
        """The decayed loss per frame."""
        return self.total.get("loss", 0.0) / max(1.0, self.total.get("frames", 0.0))


@dataclass
class Checkpointer:
    """Puts together what a checkpoint holds, and takes it apart again. Every rank takes part in both.

    Attributes:
        model, optimizer, scheduler, precision, recovery, average, state: the parts of the run. ``average`` is rank 0's.
        plan_of: an epoch's plan fingerprint (see `TrainingData.plan_fingerprint`); asked on rank 0 alone.
        run_config: the resolved configuration, any dataclass of sections, or None.
        unsaved: why the last save failed and what to do, in a line; empty when it did not.
        lock: rank 0's, of the run directory.
    """

    group: Group
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    precision: Precision
    recovery: Recovery
    average: RunningAverage | None
    state: RunState
    plan_of: Callable[[int], Mapping[str, Any]]
    run_config: Any = None
    unsaved: str = ""
    lock: Lock | None = None

    def save(self, path: Path) -> bool:
        """Write everything to ``path``; False where it could not be written, which is logged and changes nothing.

        Raises:
            UserError: another process has taken the run directory over, so nothing may be written there.
        """
        lost = self.lock is not None and not self.lock.is_ours()
        if self.group.from_main(lost):
            raise UserError(f"{path.parent} was taken over by another process while this one did not answer; it ends")
        ranks = self.group.gather(
            {"random": get_random_state(), "training": get_training_state(self.model), "total": self.state.total}
        )
        unsaved = ""
        if self.group.is_main:
            try:
                save_checkpoint(path, self._content(ranks))
                report_status(RUNNING, self.state.step)
            except OSError as error:
                unsaved = f"{path} could not be saved ({error.strerror or error}); {remedy(error)}"
                logging.error("%s; what was saved before is whole, the run goes on", unsaved)
        self.unsaved = self.group.from_main(unsaved)
        return not self.unsaved

    def _content(self, ranks: list[dict[str, Any]]) -> dict[str, Any]:
        assert self.average is not None
        state = self.state
        return {
            **ICEFALL_ENTRIES,
            **_flat(self.run_config),
            "model": self.model.state_dict(),
            "model_avg": self.average.as_float32(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "grad_scaler": self.precision.scaler.state_dict(),
            "sampler": self._place(),
            **{name: getattr(state, name) for name in BEST},
            "batch_idx_train": state.step,
            "cur_epoch": state.epoch if state.batch else max(1, state.epoch - 1),
            "train_loss": state.train_loss,
            "average_period": self.average.period,
            "elapsed_s": state.elapsed_s,
            "recovery": self.recovery.state_dict(),
            "ranks": ranks,
            "dtype": self.precision.dtype,
            "use_autocast": self.precision.dtype != torch.float32,
            "env_info": {"torch-version": str(torch.__version__), "python-version": platform.python_version()},
            "config": as_plain(self.run_config),
        }

    def _place(self) -> dict[str, Any]:
        """Where in the data the run is. Within an epoch that is a place in a plan, which is saved with it."""
        state = self.state
        place = {"epoch": state.epoch, "batch": state.batch, "world_size": self.group.world_size}
        return {**place, "plan": dict(self.plan_of(state.epoch))} if state.batch else place

    def restore(self, path: Path) -> None:
        """Put the run where the checkpoint left it.

        icefall's and ZIPA's files are taken too; what they do not hold (random states, the place in the epoch)
        begins again, at the start of their epoch.

        Raises:
            UserError: the file is damaged, or of another model.
        """
        content = load_checkpoint(path)
        load_weights(self.model, model_weights(content, str(path)), str(path))
        if self.average is not None:
            average = content.get("model_avg")
            entry = "model_avg" if isinstance(average, Mapping) and average else "model"
            self.average.load(model_weights(content, str(path), entry))
        with reading(path):
            self._restore_optimizer(content, path)
        self._restore_place(content, path)
        with reading(path):
            self._restore_ranks(content)
        logging.info("resumed from %s: epoch %d, batch %d", path, self.state.epoch, self.state.step)

    def _restore_optimizer(self, content: Mapping[str, Any], path: Path) -> None:
        if content.get("optimizer"):
            try:
                self.optimizer.load_state_dict(content["optimizer"])
            except Exception as error:
                raise UserError(f"{path}: its optimizer state does not fit this model ({error!s:.200})") from None
        else:
            logging.warning("%s holds no optimizer state: the optimizer begins again", path)
        if content.get("scheduler"):
            self.scheduler.load_state_dict(content["scheduler"])
        if content.get("grad_scaler") and self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(content["grad_scaler"])
            self.precision.scale = self.precision.scaler.get_scale()

    def _restore_place(self, content: Mapping[str, Any], path: Path) -> None:
        state = self.state
        with reading(path):
            place = self._read_place(content, path)
        now = self.plan_of(state.epoch) if self.group.is_main and state.batch else {}
        with reading(path):
            other = self._other_plan(place, now) if now else ""
        if other := self.group.from_main(other):
            text = "%s was saved within epoch %d, whose batches are others now (%s): the epoch begins again"
            logging.warning(text, path.name, state.epoch, other)
            state.batch = 0

    def _read_place(self, content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
        """Set all that says where the run is; returns the place in the data as the checkpoint has it."""
        state, place = self.state, content.get("sampler") or {}
        state.step = int(number(content, "batch_idx_train", path, 0))
        for name in BEST:
            setattr(state, name, content.get(name, getattr(RunState, name)))
        state.elapsed_s = number(content, "elapsed_s", path, 0)
        if {"epoch", "batch", "world_size"} <= place.keys():
            state.epoch, state.batch = int(place["epoch"]), int(place["batch"])
        else:
            ended = int(path.name.startswith("epoch-"))
            state.epoch, state.batch = int(content.get("cur_epoch", 1)) + ended, 0
        if "recovery" in content:
            self.recovery.load_state_dict(content["recovery"])
        return place

    def _other_plan(self, place: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        """What makes the batches of the saved epoch others than they are ``now``; empty where they are the same."""
        before = place.get("plan")
        if before is None:
            same = place["world_size"] == self.group.world_size
            return "" if same else f"--world-size {self.group.world_size} in place of {place['world_size']}"
        if before["plan"] == now["plan"]:
            return ""
        changed = [name for name, value in now.items() if name != "plan" and before.get(name) != value]
        found = (f"{name} {now[name]} in place of {before.get(name)}" if name[0] == "-" else name for name in changed)
        return ", ".join(found) or "the program's way to make them"

    def _restore_ranks(self, content: Mapping[str, Any]) -> None:
        ranks = content.get("ranks") or []
        if self.group.rank < len(ranks):
            mine = ranks[self.group.rank]
            set_random_state(mine["random"])
            set_training_state(self.model, mine["training"])
            self.state.total = dict(mine["total"])
        else:
            self.state.total = {}


def _flat(run_config: Any) -> dict[str, Any]:
    """Every flag at the top level, as icefall's checkpoints have it; lists as it writes them, ``2,2,3``."""
    plain = as_plain(run_config) if run_config is not None else {}
    flat: dict[str, Any] = {}
    for section in plain.values() if isinstance(plain, dict) else ():
        for name, value in section.items() if isinstance(section, dict) else ():
            flat[name] = ",".join(map(str, value)) if isinstance(value, list) else value
    return flat
