"""Trying the largest batches before training, so that a run does not end hours later for want of memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from couloir.audio import SAMPLE_RATE
from couloir.data.batch import Batch
from couloir.errors import UserError
from couloir.models.common.state import get_training_state, set_training_state
from couloir.training.precision import Precision


def scan(objective: Any, batches: Sequence[Batch], precision: Precision, device: torch.device) -> None:
    """Run forward and backward on each batch that holds an utterance; nothing is learnt from it.

    Raises:
        UserError: one does not fit; its size is named.
    """
    batches = [batch for batch in batches if len(batch)]
    state = get_training_state(objective.model)
    objective.train()
    try:
        held = _held_later(objective, device)
    except torch.OutOfMemoryError:
        raise UserError("the model and its optimizer do not fit into the GPU's memory: is it free?") from None
    for batch in batches:
        try:
            with precision.autocast():
                loss, _ = objective(batch.to(device), 0)
            loss.backward()
        except torch.OutOfMemoryError:
            raise UserError(out_of_memory(batch)) from None
        finally:
            objective.zero_grad(set_to_none=True)
    del held
    set_training_state(objective.model, state)
    if batches and device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        logging.info("the %d largest batches fit: %.1f GiB at most", len(batches), peak)


def out_of_memory(batch: Batch) -> str:
    """One line for the person whose batch did not fit."""
    longest = float(batch.audio_lens.max()) / SAMPLE_RATE if len(batch) else 0.0
    padded = batch.audio.numel() / SAMPLE_RATE
    return (
        f"a batch of {len(batch)} utterances, {padded:.0f} s with padding, the longest {longest:.1f} s, does not fit "
        "in memory; lower `--max-duration` (icefall's advice: by a fifth at a time), or `--max-utterance-duration`"
    )


def _held_later(objective: Any, device: torch.device) -> torch.Tensor:
    """As much memory of a GPU as the optimizer's two moments will take and, with several ranks, their gradients."""
    copies = 2 + (dist.is_initialized() and dist.get_world_size() > 1) if device.type == "cuda" else 0
    return torch.empty(copies * sum(parameter.numel() for parameter in objective.parameters()), device=device)
