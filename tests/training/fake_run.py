"""A run in miniature: a model with dropout over noise, and data that keeps the law of the data order."""

import ctypes
import os
import random
import resource
import signal
import sys
import traceback
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import nn

from couloir.config import from_mapping
from couloir.data.batch import Batch
from couloir.errors import one_line_errors
from couloir.optim.config import OptimConfig
from couloir.training.config import TrainerConfig

BATCH_SIZE = 4
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class FakeRunConfig:
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(base_lr=0.02, warmup_batches=5))
    num_utterances: int = 104
    poison: tuple = ()  # ids whose loss is not finite
    poison_from: int = 10**9  # from this batch on every loss is not finite, while the learning rate is above
    poison_lr: float = 0.0
    empty: tuple = ()  # (rank, batch) that hold no utterance
    die_at: int = 0  # kill -9 itself after that many batches
    most_bytes: int = 0  # in a file: writing beyond fails, as on a full disk
    width: int = 8
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
    def __init__(self, model, poison=(), diverges=lambda step: False):
        super().__init__()
        self.model = model
        self.poison = set(poison)
        self.diverges = diverges

    def forward(self, batch, batch_idx_train):
        x = batch.audio.unflatten(1, (-1, 4))[:, :10].mean(1)
        target = x.sum(1, keepdim=True)
        loss = (self.model(x) - target).square().sum()
        if self.training and (self.poison & set(batch.ids) or self.diverges(batch_idx_train)):
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

    def __init__(self, num_utterances=104, num_workers=0, empty=(), batch_size=BATCH_SIZE, seed=7):
        self.num_utterances, self.num_workers, self.empty = num_utterances, num_workers, empty
        self.batch_size, self.seed = batch_size, seed

    def _batches(self, epoch, rank, world_size):
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_utterances)
        batches = order.reshape(-1, self.batch_size)
        batches = batches[: len(batches) // world_size * world_size][rank::world_size]
        return [(i, [] if (rank, i) in self.empty else list(b)) for i, b in enumerate(batches)]

    def train_loader(self, epoch, rank=0, world_size=1, start_batch=0):
        batches = self._batches(epoch, rank, world_size)[start_batch:]
        return torch.utils.data.DataLoader(Utterances(batches), batch_size=None, num_workers=self.num_workers)

    def num_train_batches(self, epoch, world_size=1):
        return len(self._batches(epoch, 0, world_size))

    def plan_fingerprint(self, epoch, world_size=1):
        batches = [
            list(map(int, batch)) for rank in range(world_size) for _, batch in self._batches(epoch, rank, world_size)
        ]
        return {
            "--seed": self.seed,
            "--world-size": world_size,
            "the utterances": self.num_utterances,
            "plan": str(batches),
        }

    def valid_loader(self, rank=0, world_size=1):
        return torch.utils.data.DataLoader(Utterances([(0, [1000, 1001])]), batch_size=None)

    def hardest_batches(self):
        return [Utterances([(0, [1, 2, 3])])[0]]


class Recorder(FakeData):
    """Notes which utterances were trained on, and kills the process where it is to."""

    def __init__(self, config, path):
        super().__init__(config.num_utterances, num_workers=2, empty=config.empty)
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


def make_trainer(config: FakeRunConfig, data=None):
    from couloir.training.trainer import Trainer

    data = data or Recorder(config, config.trainer.exp_dir / "seen")
    objective = FakeObjective(FakeModel(config.width), config.poison)
    trainer = Trainer(config.trainer, config.optim, objective, data, config)
    objective.diverges = lambda step: step >= config.poison_from and trainer.scheduler.last_lr() > config.poison_lr
    return trainer


def worker(config: FakeRunConfig) -> None:
    if not config.most_bytes:
        return make_trainer(config).fit()
    # What loader processes hand over counts as files.
    trainer = make_trainer(config, FakeData(num_workers=0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (config.most_bytes, config.most_bytes))
    trainer.fit()


def fake_config(exp_dir, values):
    """The configuration from fields of FakeRunConfig and of TrainerConfig."""
    names = {f.name for f in fields(FakeRunConfig)}
    own = {key: value for key, value in values.items() if key in names}
    flags = {key: value for key, value in values.items() if key not in names}
    trainer = from_mapping(TrainerConfig, {"exp_dir": str(exp_dir), "tensorboard": False, **flags})
    return FakeRunConfig(trainer=trainer, **own)


@one_line_errors
def main(exp_dir, values):
    from couloir.training.launch import launch

    config = fake_config(exp_dir, values)
    launch(worker, config, config.trainer)


@dataclass
class Finished:
    returncode: int
    stderr: str


def start_program(exp_dir, **values):
    """Start `main` in a session of its own, so that a kill -9 of it reaches all of the run and nothing else."""
    exp_dir.mkdir(parents=True, exist_ok=True)
    return forked(lambda: main(exp_dir, values), exp_dir.with_suffix(".stderr"))


def forked(run, screen):
    """Call ``run`` in a fork of this process, its output in the file ``screen``; it ends when this process does.

    Importing torch takes most of the time of so short a run.
    """
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    # What was started in the background ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    number = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(number, 1)
    os.dup2(number, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    code = 1
    try:
        found = run()
        code = found if isinstance(found, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(exp_dir, child):
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        # The test has run out of time: nothing is left behind.
        os.killpg(child, signal.SIGKILL)
        raise
    return Finished(os.waitstatus_to_exitcode(status), exp_dir.with_suffix(".stderr").read_text())


def run_program(exp_dir, **values):
    """Run it to its end; the exit code (negative: the signal that killed it) and what it wrote to the screen."""
    return finish(exp_dir, start_program(exp_dir, **values))
