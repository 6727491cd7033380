"""Naming what went wrong: unusable utterances, batches with non-finite losses, batches that raised an error."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from couloir.checkpoint import save_checkpoint
from couloir.data.batch import Batch
from couloir.errors import UserError
from couloir.training.distributed import Group
from couloir.training.memory_scan import out_of_memory
from couloir.training.run_dir import append_line
from couloir.training.step import StepResult

# Saved at most per process; more of them tell nothing new and fill the disk.
MAX_SAVED = 10
MAX_IDS_SHOWN = 5


class FailureReport:
    """Writes skipped.jsonl, batch-STEP-RANK.pt and bad-model*-RANK.pt into the run directory."""

    def __init__(self, exp_dir: Path, group: Group) -> None:
        self.exp_dir = exp_dir
        self.group = group
        self._saved = 0

    def note_skipped(self, epoch: int, batch: Batch) -> None:
        """Record the utterances that had to be left out of a batch."""
        for utterance, reason in batch.skipped:
            self._append({"utterance": utterance, "reason": reason, "epoch": epoch})

    def note_bad(self, batch: Batch, step: int, result: StepResult) -> None:
        """Name and save a batch whose loss or gradient was not finite; one that shared a step with such, only name."""
        what = "loss" if result.bad_here else "gradient"
        if result.bad_loss and not result.bad_here:
            text = "batch %d was skipped, as the loss of another batch of its step is not finite: %s"
            logging.warning(text, step, shown(batch.ids))
            return
        text = "batch %d was skipped, its %s is not finite (here or on another rank): %s"
        logging.warning(text, step, what, shown(batch.ids))
        if result.bad_here or self.group.is_main:
            self._append({"utterances": batch.ids, "reason": f"{what} not finite", "step": step})
            self._save_batch(batch, step)

    @contextmanager
    def reporting(self, batch: Batch, step: int, model: nn.Module) -> Iterator[None]:
        """On an error inside, save the batch and the model, say what they were, and let the error pass.

        Raises:
            UserError: in place of an out-of-memory error.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            logging.error("batch %d failed: %s", step, error)
            tokens = sum(map(len, batch.tokens))
            logging.error("audio %s, %d tokens, utterances %s", tuple(batch.audio.shape), tokens, shown(batch.ids))
            self._save_batch(batch, step)
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(out_of_memory(batch)) from None
            self.save_model(model, "bad-model")
            raise

    def save_model(self, model: nn.Module, name: str) -> None:
        """Write the weights as they are to NAME-RANK.pt."""
        self._save(self.exp_dir / f"{name}-{self.group.rank}.pt", {"model": model.state_dict()})

    def _save_batch(self, batch: Batch, step: int) -> None:
        if self._saved < MAX_SAVED:
            self._saved += 1
            fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
            self._save(self.exp_dir / f"batch-{step}-{self.group.rank}.pt", fields)

    def _save(self, path: Path, content: dict[str, Any]) -> None:
        try:
            save_checkpoint(path, content)
            logging.info("saved %s", path)
        except OSError as error:
            logging.error("%s could not be saved: %s", path, error.strerror or error)

    def _append(self, values: dict[str, Any]) -> None:
        try:
            append_line(self.exp_dir / "skipped.jsonl", {"rank": self.group.rank, **values})
        except OSError as error:
            logging.error("skipped.jsonl cannot be written: %s", error.strerror or error)


def shown(ids: list[str]) -> str:
    """The first few ids, and how many more there are."""
    rest = len(ids) - MAX_IDS_SHOWN
    return ", ".join(ids[:MAX_IDS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
