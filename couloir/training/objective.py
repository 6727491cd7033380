"""What a recipe hands to the trainer: a loss and data. Anything with these members will do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, Protocol

from torch import Tensor, nn

from couloir.data.batch import Batch

Sums = dict[str, Tensor]


class Objective(Protocol):
    """A module that turns a batch into a loss. It is what is wrapped for several processes; ``model`` is what is saved.

    ``forward`` returns the loss, a scalar summed over the batch, and detached sums by name, among them ``loss``,
    ``frames`` (by which logged values are divided) and ``utterances``. In eval mode the same forward gives the sums
    of validation, without augmentation. Utterances that it must leave out it adds to ``batch.skipped``.
    """

    @property
    def model(self) -> nn.Module:
        """What is optimised and saved."""
        ...

    def __call__(self, batch: Batch, batch_idx_train: float) -> tuple[Tensor, Sums]:
        """Loss and sums; ``batch_idx_train`` is where the schedules are, in batches (`RunLength.position`)."""
        ...


class Loader(Iterable[Batch], Sized, Protocol):
    """Batches, and how many."""


class TrainingData(Protocol):
    """Batches in an order that depends on (seed, epoch, rank, world_size) only.

    Skipping k batches gives exactly the rest. All ranks have the same number of batches in an epoch; in an epoch
    every utterance is seen at most once over all ranks.
    """

    config: Any
    """Its ``max_duration`` (s) is the most audio of a batch."""

    def train_loader(self, epoch: int, rank: int = 0, world_size: int = 1, start_batch: int = 0) -> Loader:
        """The batches of ``epoch`` (from 1) from position ``start_batch`` on."""
        ...

    def valid_loader(self, rank: int = 0, world_size: int = 1) -> Loader:
        """This rank's part of the validation set."""
        ...

    def plan_fingerprint(self, epoch: int, world_size: int = 1) -> Mapping[str, Any]:
        """What decides the batches of an epoch, by name, and as ``plan`` a digest of the batches themselves.

        Plain values. Names of flags begin with ``--``; the values of the others are digests.
        """
        ...

    def hardest_batches(self) -> list[Batch]:
        """The training batches that need most memory."""
        ...
