"""The trainer of every recipe.

One batch at a time, in this order: forward, backward, schedule, the optimizer's step if all gradients on all ranks are
finite, then what falls due (average, validation, log line, checkpoint). A run that is killed at any point and started
again gives the same losses, bit for bit on one device.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from couloir.audio import SAMPLE_RATE
from couloir.config import write_yaml
from couloir.data.batch import Batch
from couloir.errors import UserError
from couloir.files import writing_to
from couloir.models.common.schedule import set_batch_count
from couloir.optim.config import OptimConfig
from couloir.optim.default import scaled_adam_under_eden
from couloir.training.averaging import RunningAverage
from couloir.training.config import TrainerConfig
from couloir.training.diagnostics import DIAGNOSTIC_BATCHES, Diagnostics, InfCheck
from couloir.training.distributed import Group, device_of_rank, ranks_from_environment
from couloir.training.failures import FailureReport
from couloir.training.memory_scan import scan
from couloir.training.metrics import MetricsLog, decayed, describe, per_frame
from couloir.training.objective import Objective, TrainingData
from couloir.training.pace import Pace
from couloir.training.precision import Precision
from couloir.training.progress import Reporter
from couloir.training.random_state import preserved_random_state, seed_everything
from couloir.training.recovery import Recovery, Verdict
from couloir.training.run_dir import (
    CONFIG_FILE,
    LAST,
    batch_path,
    check_recipe,
    copy_checkpoint,
    epoch_path,
    last_good,
    newest_first,
    prune,
    put_aside,
    run_lock,
    was_begun_at,
)
from couloir.training.run_length import RunLength
from couloir.training.run_state import Checkpointer, RunState
from couloir.training.signals import StopRequest
from couloir.training.status import COMPLETE, RUNNING, STOPPED, report_status
from couloir.training.step import Stepper, StepResult
from couloir.training.validation import validate

# Batches between pushes of the batch count to the schedules of dropouts and skips.
BATCH_COUNT_PERIOD = 10
# Added to the seed per rank, so that ranks draw different dropout masks.
RANK_SEED = 100_003


class Trainer:
    """Trains an objective on data, as the configuration says.

    Args:
        config, optim: the flags.
        objective: turns a batch into a loss (see `Objective`); its ``model`` is what is optimised and saved.
        data: batches (see `TrainingData`).
        run_config: the resolved configuration of the whole run, a dataclass of sections with a field ``recipe``;
            written to EXP_DIR/config.yaml and into every checkpoint.
        optimizer: from the model, when it is on its device, and ``optim``, the optimizer and its schedule.
        keep: writes what else belongs into the run directory; called once it is certain that the run goes on there.

    Raises:
        UserError: the run directory is another recipe's, or cannot be written, or a checkpoint does not fit.
    """

    def __init__(
        self,
        config: TrainerConfig,
        optim: OptimConfig,
        objective: Objective,
        data: TrainingData,
        run_config: Any = None,
        optimizer: Callable[[nn.Module, Any], tuple[torch.optim.Optimizer, Any]] = scaled_adam_under_eden,
        keep: Callable[[], None] | None = None,
    ) -> None:
        assert isinstance(objective, nn.Module)
        self.config, self.optim, self.data, self.run_config, self.keep = config, optim, data, run_config, keep
        self.exp_dir = Path(config.exp_dir)
        check_recipe(self.exp_dir, getattr(run_config, "recipe", ""))
        self.group = Group(_device(config))
        with writing_to(self.exp_dir):
            self.reporter = Reporter(self.exp_dir, self.group.rank, self.group.world_size)
        self.objective: Any = objective.to(self.group.device)
        self.model = objective.model
        self.optimizer, self.scheduler = optimizer(self.model, optim)
        self.precision = Precision(config, self.group.device)
        self.recovery = Recovery(config)
        self.length = RunLength(config)
        self.pace = Pace(config)
        self.state = RunState()
        average = RunningAverage(self.model.state_dict(), config.average_period) if self.group.is_main else None
        self.checkpoints = Checkpointer(
            self.group,
            self.model,
            self.optimizer,
            self.scheduler,
            self.precision,
            self.recovery,
            average,
            self.state,
            lambda epoch: data.plan_fingerprint(epoch, self.group.world_size),
            run_config,
        )
        self.failures = FailureReport(self.exp_dir, self.group)
        self.stop = StopRequest()
        self.diagnostics = Diagnostics(self.model) if config.print_diagnostics else None
        self.inf_check: InfCheck | None = None
        self.metrics: MetricsLog | None = None
        self._epoch_batches = self._looked_into = 0
        self._audio_s = self._rate = 0.0
        self._last_tick = time.monotonic()

    def fit(self) -> None:
        """Train until a bound is reached or a signal asks to stop.

        Raises:
            UserError: another process trains there; the run diverged for good, ran out of memory, or its data is
                unusable; or its end was not saved.
            KeyboardInterrupt: after a Ctrl-C, once the run is saved.
        """
        with self.stop, ExitStack() as held:
            try:
                self._claim(held)
                self._prepare()
                while not self._complete() and self._train_epoch():
                    pass
                if self.checkpoints.unsaved:
                    raise UserError(
                        f"{self.checkpoints.unsaved}; what was saved before in {self.exp_dir} is whole, "
                        "and a start there, or with a copy of it, goes on from that"
                    )
            except BaseException:
                logging.error("training stopped by an error; %s holds what was saved before", self.exp_dir)
                self._close(failed=True)
                raise
            self._close()
        if self.stop.received == signal.SIGINT:
            raise KeyboardInterrupt

    def _claim(self, held: ExitStack) -> None:
        """Rank 0 locks the run directory until ``held`` is left. Raises `UserError` on all where another has it."""
        refused = ""
        if self.group.is_main and not self.diagnostics:
            try:
                self.checkpoints.lock = held.enter_context(run_lock(self.exp_dir))
            except UserError as error:
                refused = str(error)
        if refused := self.group.from_main(refused):
            raise UserError(refused)

    def _prepare(self) -> None:
        """Everything before the first batch: trying the largest ones, resuming, opening the logs."""
        config = self.config
        logging.info("device %s, %d processes, exp-dir %s", self.group.device, self.group.world_size, self.exp_dir)
        on_gpu = self.group.device.type == "cuda"
        if config.scan_batches == "always" or (config.scan_batches == "auto" and on_gpu and not self.diagnostics):
            with preserved_random_state():
                scan(self.objective, self.data.hardest_batches(), self.precision, self.group.device)
        self._resume()
        self._tell(RUNNING)
        if config.inf_check:
            self.inf_check = InfCheck(self.model)
        self.stepper = Stepper(
            self.objective, self.optimizer, self.scheduler, self.precision, self.group, int(config.grad_accumulation)
        )
        self._clock = time.monotonic() - self.state.elapsed_s
        self._boundary = self._began_at = self.state.step
        self._last_saved_s = self.state.elapsed_s
        if self.group.is_main and not self.diagnostics:
            with writing_to(self.exp_dir):
                self._begin_files()
        if self.state.step == 0 and config.max_rollbacks > 0 and not self.diagnostics:
            # What a run that diverges before its first checkpoint goes back to.
            self.checkpoints.save(self.exp_dir / LAST)

    def _begin_files(self) -> None:
        """Write what a run directory has from its start on. Raises `OSError` as writing does."""
        self.metrics = MetricsLog(self.exp_dir, self.config, self.state.step)
        if self.run_config is not None:
            write_yaml(self.exp_dir / CONFIG_FILE, self.run_config)
        if self.keep is not None:
            self.keep()

    def _resume(self) -> None:
        config, named = self.config, None
        if config.start_batch > 0:
            named = batch_path(self.exp_dir, config.start_batch)
        elif config.start_epoch > 1:
            named = epoch_path(self.exp_dir, config.start_epoch - 1)
        path = self.group.from_main(self._checkpoint_to_begin_at(named) if self.group.is_main else None)
        if path is None:
            return
        if config.resume == "none":
            raise UserError(f"`--resume none`, but {self.exp_dir} holds {path.name}; give another --exp-dir")
        self.checkpoints.restore(path)
        if path == named and self.group.is_main and not self.diagnostics:
            with writing_to(self.exp_dir):
                put_aside(self.exp_dir, self.state.step)

    def _checkpoint_to_begin_at(self, named: Path | None) -> Path | None:
        """The newest checkpoint; or the ``named`` one, unless this run has begun there before and come further."""
        start = {"start_batch": self.config.start_batch, "start_epoch": self.config.start_epoch}
        if named is not None and not was_begun_at(self.exp_dir, start):
            return named
        newest = next(newest_first(self.exp_dir), None)
        if named is None or newest is None or newest == named:
            return newest or named
        text = "the run of %s that began at %s goes on from %s; to begin there again, move what is newer elsewhere"
        logging.warning(text, self.exp_dir, named.name, newest.name)
        return newest

    def _complete(self) -> bool:
        state = self.state
        done = state.epoch > self.config.num_epochs or self.length.finished(state.step, state.elapsed_s)
        if done:
            logging.info("the run is complete: %d epochs, %d batches, %.1f min", *self._position())
            self._tell(COMPLETE)
        return done

    def _tell(self, state: str) -> None:
        if self.group.is_main and not self.diagnostics:
            report_status(state, self.state.step)

    def _position(self) -> tuple[int, int, float]:
        state = self.state
        return state.epoch - (state.batch == 0), state.step, state.elapsed_s / 60

    def _train_epoch(self) -> bool:
        """Train from where the run is to the end of the epoch; False when the run stops before."""
        state, group = self.state, self.group
        if state.batch == 0:
            seed_everything(self.config.seed + state.epoch - 1 + RANK_SEED * group.rank)
            self.scheduler.step_epoch(state.epoch - 1)
        self._push_batch_count()
        self.objective.train()
        loader = self.data.train_loader(state.epoch, group.rank, group.world_size, state.batch)
        self._epoch_batches = state.batch + len(loader)
        for batch in self._fetched(loader):
            stop = self._agree_to_stop()
            # Gradients of a window that is not full yet are not saved, so a run is not left within one.
            if state.batch % int(self.config.grad_accumulation) == 0:
                if stop:
                    if self.checkpoints.save(self.exp_dir / LAST):
                        self._tell(STOPPED)
                    return False
                if self.length.finished(state.step, state.elapsed_s):
                    if self.diagnostics:
                        break
                    self._finish_early()
                    return False
            if self._train_batch(batch) is Verdict.GO_BACK:
                self._go_back()
                return True
            if self.diagnostics and state.step - self._began_at >= DIAGNOSTIC_BATCHES:
                break
        if self.diagnostics:
            logging.info("statistics of %d batches:\n%s", state.step - self._began_at, self.diagnostics.table())
            return False
        self._finish_epoch()
        return True

    def _fetched(self, loader: Any) -> Iterator[Batch]:
        """The loader's batches on this device; reading them leaves no trace in the random states of training."""
        with preserved_random_state():
            batches = iter(loader)
        while True:
            with preserved_random_state():
                batch = next(batches, None)
            if batch is None:
                return
            self._audio_s = float(batch.audio_lens.sum()) / SAMPLE_RATE * self.group.world_size
            yield batch.to(self.group.device)

    def _agree_to_stop(self) -> bool:
        """Whether a signal reached any rank; brings the elapsed time up to date, the same on every rank."""
        elapsed = time.monotonic() - self._clock
        stop, self.state.elapsed_s = self.group.largest([float(self.stop.requested), elapsed])
        return bool(stop)

    def _train_batch(self, batch: Batch) -> Verdict | None:
        state = self.state
        if state.step % BATCH_COUNT_PERIOD == 0:
            self._push_batch_count()
        self.scheduler.scale = self.recovery.lr_scale * self.length.decay(state.step, state.elapsed_s)
        accumulation = int(self.config.grad_accumulation)
        boundary = (state.batch + 1) % accumulation == 0 or state.batch + 1 == self._epoch_batches
        with self.failures.reporting(batch, state.step, self.model):
            result = self.stepper.run(batch, self.length.position(state.step + 1, state.elapsed_s), boundary)
        self.failures.note_skipped(state.epoch, batch)
        # Within a window nothing is decided: one scale holds for all its losses, and it is good or bad as a whole.
        if boundary:
            self._look_into(self.precision.adjust(state.batch // accumulation))
        state.step += 1
        state.batch += 1
        collapsed = boundary and self.precision.collapsed
        if result.bad or result.bad_here or collapsed:
            self.failures.note_bad(batch, state.step, result)
            return self.recovery.bad(collapsed) if boundary else None
        if boundary:
            self.recovery.good()
        if math.isfinite(result.sums.get("loss", 0.0)):
            state.total = decayed(state.total, result.sums)
        self._log(batch, result)
        if boundary and not self.diagnostics:
            self._duties()
        return None

    def _look_into(self, small: bool) -> None:
        """What icefall does about a small loss scale, once an epoch: keep the weights, and watch for the first inf.

        It watches until the scale has grown again, for it is slow.
        """
        if self.inf_check and not small and not self.config.inf_check:
            self.inf_check.close()
            self.inf_check = None
        if not small or self._looked_into == self.state.epoch:
            return
        self._looked_into = self.state.epoch
        self.failures.save_model(self.model, "bad-model-first-warning")
        self.inf_check = self.inf_check or InfCheck(self.model)

    def _push_batch_count(self) -> None:
        step = self.state.step // BATCH_COUNT_PERIOD * BATCH_COUNT_PERIOD
        reference_batches = self.data.config.max_duration * self.group.world_size / self.optim.ref_duration
        position = self.length.position(step, self.state.elapsed_s)
        seen = position * reference_batches * self.config.batch_count_scale
        set_batch_count(self.model, seen + self.config.batch_count_offset)

    def _due(self, period: int) -> bool:
        """Whether a multiple of ``period`` batches lies between the last step of the optimizer and this one."""
        return period > 0 and self.state.step // period > self._boundary // period

    def _duties(self) -> None:
        config, state = self.config, self.state
        if self._due(config.average_period) and self.checkpoints.average is not None:
            seen = state.step // config.average_period * config.average_period
            self.checkpoints.average.update(self.model.state_dict(), seen)
        if self._due(config.valid_interval):
            self._validate()
        if self._due(config.save_every_n):
            self.checkpoints.save(batch_path(self.exp_dir, state.step))
            if self.group.is_main:
                prune(self.exp_dir, config.keep_last_k)
        waited = state.elapsed_s - self._last_saved_s
        if self._due(config.save_last_every) or waited > config.save_last_minutes * 60:
            self.checkpoints.save(self.exp_dir / LAST)
            self._last_saved_s = state.elapsed_s
        self._boundary = state.step

    def _validate(self) -> None:
        state = self.state
        loader = self.data.valid_loader(self.group.rank, self.group.world_size)
        position = self.length.position(state.step, state.elapsed_s)
        sums = validate(self.objective, loader, self.precision, self.group, position)
        if sums["utterances"] == 0:
            return
        values = per_frame(sums)
        if values["loss"] < state.best_valid_loss:
            state.best_valid_loss, state.best_valid_epoch = values["loss"], state.epoch
        logging.info("Epoch %d, validation: %s", state.epoch, describe(sums))
        if self.metrics is not None:
            self.metrics.write(state.step, {"epoch": state.epoch, **values}, "valid")

    def _finish_epoch(self) -> None:
        """Validate, save epoch-N.pt and, where it is the best, its copies."""
        state, epoch = self.state, self.state.epoch
        self._validate()
        if state.train_loss < state.best_train_loss:
            state.best_train_loss, state.best_train_epoch = state.train_loss, epoch
        state.epoch, state.batch = epoch + 1, 0
        path = epoch_path(self.exp_dir, epoch)
        if self.checkpoints.save(path) and self.group.is_main:
            for kind in ("train", "valid"):
                if getattr(state, f"best_{kind}_epoch") == epoch:
                    copy_checkpoint(path, self.exp_dir / f"best-{kind}-loss.pt")

    def _finish_early(self) -> None:
        """A bound was reached within an epoch: validate, and save where decoding finds it."""
        self._validate()
        self.checkpoints.save(batch_path(self.exp_dir, self.state.step))
        self._complete()

    def _go_back(self) -> None:
        """Return to the newest checkpoint, with the learning rate that `Recovery` has chosen."""
        verdict = self.recovery.state_dict()
        elapsed = self.state.elapsed_s
        path = self.group.from_main(last_good(self.exp_dir) if self.group.is_main else None)
        if path is None:
            raise UserError(self.recovery.advice())
        self.optimizer.zero_grad(set_to_none=True)
        self.checkpoints.restore(path)
        self.recovery.load_state_dict(verdict)
        self.precision.restart()
        self.state.elapsed_s = elapsed
        self._boundary = self.state.step
        logging.warning("went back to %s, learning rate times %g", path.name, self.recovery.lr_scale)
        # A run that is killed now must not forget the smaller learning rate.
        self.checkpoints.save(self.exp_dir / LAST)

    def _log(self, batch: Batch, result: StepResult) -> None:
        state, config = self.state, self.config
        fraction = self._fraction()
        lr, speed = self.scheduler.last_lr(), self._speed()
        text = f"epoch {state.epoch} batch {state.step} loss {state.train_loss:.4g} lr {lr:.2e} {speed:.0f}x real time"
        self.reporter.tick(text, fraction, state.elapsed_s)
        if self.group.is_main and (said := self.pace.look(state.step, state.elapsed_s)):
            logging.info(said)
        if state.step % config.log_interval != 0:
            return
        logging.info(
            "Epoch %d, batch %d, loss[%s], tot_loss[%s], batch size: %d, lr: %.2e, grad_scale: %s",
            state.epoch,
            state.batch,
            describe(result.sums),
            describe(state.total),
            len(batch),
            lr,
            self.precision.scale,
        )
        if self.metrics is not None:
            values = {"epoch": state.epoch, "batch": state.batch, **per_frame(result.sums)}
            values |= {f"tot_{name}": value for name, value in per_frame(state.total).items()}
            values |= {"lr": lr, "grad_norm": result.grad_norm, "grad_scale": self.precision.scale}
            self.metrics.write(state.step, {**values, "times_real_time": speed, "elapsed_s": state.elapsed_s})

    def _speed(self) -> float:
        """Hours of audio per hour, all ranks together, smoothed."""
        now = time.monotonic()
        rate = self._audio_s / max(1e-6, now - self._last_tick)
        self._last_tick = now
        self._rate = 0.95 * self._rate + 0.05 * rate if self._rate else rate
        return self._rate

    def _fraction(self) -> float:
        state = self.state
        by_epochs = (state.epoch - 1 + state.batch / max(1, self._epoch_batches)) / self.config.num_epochs
        return max(by_epochs, self.length.fraction(state.step, state.elapsed_s))

    def _close(self, failed: bool = False) -> None:
        if self.metrics is not None:
            self.metrics.close()
        self.reporter.close()
        self.group.close(failed)


def _device(config: TrainerConfig) -> torch.device:
    device = device_of_rank(config.device, (ranks_from_environment() or (0, 1, 0))[2])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
