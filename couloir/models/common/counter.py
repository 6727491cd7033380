"""Modules whose behaviour depends on how often they were called in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CallCounter(nn.Module):
    """A module that counts its calls, for `calls` on the host and for checkpoints in the buffer ``count``.

    The buffer is brought up to date when a state dict is made: a number on a GPU would have to be waited for.
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64))
        self.calls = 0

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.count.fill_(self.calls)
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.count.device.type != "meta":
            self.calls = int(self.count)
