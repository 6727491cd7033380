"""A run in miniature: a model with dropout over synthetic tones, and data that keeps the law of the data order.

As a program: ``python fake_run.py EXP_DIR key=value...`` trains with those fields of TrainerConfig.
"""

import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from couloir.config import from_mapping
from couloir.data.batch import Batch
from couloir.errors import one_line_errors
from couloir.optim.config import OptimConfig
from couloir.training.config import TrainerConfig

BATCH_SIZE = 4


@dataclass(frozen=True)
class FakeRunConfig:
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(base_lr=0.02, warmup_batches=5))
    num_utterances: int = 104
    poison: tuple = ()  # ids whose loss is not finite
    die_at: int = 0  # kill -9 itself after that many batches
    recipe: str = "fake"


class FakeModel(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 1))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        # Draws from Python's generator, as Balancer and Whiten do.
        return self.layers(x) * (1.0 if random.random() < 0.5 else 1.1)


class FakeObjective(nn.Module):
    def __init__(self, model, poison=()):
        super().__init__()
        self.model = model
        self.poison = set(poison)

    def forward(self, batch, batch_idx_train):
        x = batch.audio.unflatten(1, (-1, 4))[:, :10].mean(1)
        target = x.sum(1, keepdim=True)
        loss = (self.model(x) - target).square().sum()
        if self.training and self.poison & set(batch.ids):
            loss = loss * float("nan")
        stats = {"loss": loss.detach(), "frames": torch.tensor(10 * len(batch)), "utterances": torch.tensor(len(batch))}
        return loss, stats


class Utterances(torch.utils.data.Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, position):
        index, numbers = self.batches[position]
        audio = [torch.randn(16000, generator=torch.Generator().manual_seed(int(n))) for n in numbers]
        return Batch(
            ids=[f"utt{n}" for n in numbers],
            texts=[""] * len(numbers),
            languages=[""] * len(numbers),
            speakers=[""] * len(numbers),
            tokens=[[1]] * len(numbers),
            audio=torch.stack(audio) if audio else torch.zeros(0, 16000),
            audio_lens=torch.full((len(numbers),), 16000),
            index=index,
        )


class FakeData:
    config = type("Config", (), {"max_duration": 4.0})

    def __init__(self, num_utterances=104, num_workers=0, empty=()):
        self.num_utterances, self.num_workers, self.empty = num_utterances, num_workers, empty

    def _batches(self, epoch, rank, world_size):
        order = np.random.default_rng((7, epoch)).permutation(self.num_utterances)
        batches = order.reshape(-1, BATCH_SIZE)
        batches = batches[: len(batches) // world_size * world_size][rank::world_size]
        return [(i, [] if (rank, i) in self.empty else list(b)) for i, b in enumerate(batches)]

    def train_loader(self, epoch, rank=0, world_size=1, start_batch=0):
        batches = self._batches(epoch, rank, world_size)[start_batch:]
        return torch.utils.data.DataLoader(Utterances(batches), batch_size=None, num_workers=self.num_workers)

    def num_train_batches(self, epoch, world_size=1):
        return len(self._batches(epoch, 0, world_size))

    def valid_loader(self, rank=0, world_size=1):
        return torch.utils.data.DataLoader(Utterances([(0, [1000, 1001])]), batch_size=None)

    def hardest_batches(self):
        return [Utterances([(0, [1, 2, 3])])[0]]


class Recorder(FakeData):
    """Notes which utterances were trained on, and kills the process where it is told to."""

    def __init__(self, config, path):
        super().__init__(config.num_utterances, num_workers=2)
        self.path, self.die_at = path, config.die_at

    def train_loader(self, epoch, rank=0, world_size=1, start_batch=0):
        return _Recorded(super().train_loader(epoch, rank, world_size, start_batch), self, epoch, rank)


class _Recorded:
    def __init__(self, loader, data, epoch, rank):
        self.loader, self.data, self.epoch, self.rank = loader, data, epoch, rank

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            position = batch.index + (self.epoch - 1) * 1000
            if self.data.die_at and position == self.data.die_at and self.rank == 0:
                os.killpg(os.getpgid(0), 9)
            with open(f"{self.data.path}-{self.rank}", "a") as out:
                out.write(f"{self.epoch} {batch.index} {' '.join(batch.ids)}\n")
            yield batch


def worker(config: FakeRunConfig) -> None:
    from couloir.training.trainer import Trainer

    data = Recorder(config, config.trainer.exp_dir / "seen")
    Trainer(config.trainer, config.optim, FakeObjective(FakeModel(), config.poison), data, config).fit()


@one_line_errors
def main():
    values = dict(arg.split("=") for arg in sys.argv[2:])
    own = {key: int(values.pop(key)) for key in ("die_at", "num_utterances") if key in values}
    trainer = from_mapping(TrainerConfig, {"exp_dir": sys.argv[1], "tensorboard": "0", **values})
    from couloir.training.launch import launch

    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    launch(worker, FakeRunConfig(trainer=trainer, **own), trainer)


if __name__ == "__main__":
    sys.exit(main())
