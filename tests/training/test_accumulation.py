"""Gradients accumulated over several batches are those of one large batch, and a run resumes at a window's bound."""

import json

import pytest
import torch
from fake_run import FakeData, FakeObjective, fake_config, run_program
from torch import nn

from couloir.optim.config import OptimConfig
from couloir.training.run_dir import numbered
from couloir.training.trainer import Trainer


class Deterministic(nn.Module):
    """Like `FakeModel`, without randomness: a batch has the same gradient whole and in parts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def weights_after(exp_dir, batch_size, base_lr, steps, num_utterances=104, **values):
    """Weights after one epoch of gradient descent at a constant rate, and the steps that the optimizer took."""
    torch.manual_seed(1)
    objective = FakeObjective(Deterministic())
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=base_lr)
    taken = []
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    config = fake_config(exp_dir, {"num_epochs": 1, **values}).trainer
    optim = OptimConfig(base_lr=base_lr, warmup_batches=0, lr_batches=1e9, lr_epochs=1e9)
    Trainer(config, optim, objective, FakeData(num_utterances, batch_size=batch_size), optimizer=optimizer).fit()
    assert len(taken) == steps
    return torch.cat([parameter.detach().flatten() for parameter in objective.model.parameters()])


@pytest.mark.parametrize(("accumulation", "steps"), [(2, 13), (13, 2)])
def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path, accumulation, steps):
    # The loss is a sum over the batch, and accumulating takes the mean over batches.
    parts = weights_after(tmp_path / "parts", 4, 1e-3 * accumulation, steps, grad_accumulation=accumulation)
    whole = weights_after(tmp_path / "whole", 4 * accumulation, 1e-3, steps)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    alone = weights_after(tmp_path / "alone", 4, 1e-3, 26)
    assert (parts - alone).abs().max() > 1e-5


def logged(exp_dir):
    rows = map(json.loads, (exp_dir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: (row["loss"], row["grad_norm"], row["lr"]) for row in rows if row["kind"] == "train"}


@pytest.mark.slow
def test_a_run_killed_within_a_window_goes_on_from_the_one_before(tmp_path):
    """26 batches of an epoch are windows of 3 and a last one of 2; batch 23 is the second of its window."""
    settings = {"max_steps": 40, "log_interval": 1, "save_every_n": 5, "average_period": 7, "grad_accumulation": 3}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run_program(straight, **settings).returncode == 0
    assert run_program(killed, **settings, die_at=23).returncode == -9
    # Checkpoints fall due every 5 batches, and wait for the end of the window.
    assert numbered(killed, "checkpoint")[0] == 21 and max(logged(killed)) == 23
    assert run_program(killed, **settings).returncode == 0
    assert repr(logged(killed)) == repr(logged(straight)) and max(logged(killed)) == 41
    assert [step for step, row in logged(killed).items() if row[1] == row[1]] == [*range(3, 25, 3), *range(26, 42, 3)]
    one, two = (torch.load(path / "checkpoint-41.pt", weights_only=True) for path in (straight, killed))
    for entry in ("model", "model_avg"):
        assert all(torch.equal(tensor, two[entry][name]) for name, tensor in one[entry].items())
