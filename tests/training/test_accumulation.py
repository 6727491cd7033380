"""Gradients accumulated over several batches are those of one large batch, and a run resumes at a window's bound."""

import json

import pytest
import torch
from fake_run import FakeData, FakeModel, FakeObjective, fake_config, run_program
from torch import nn

from couloir.errors import UserError
from couloir.optim.config import OptimConfig
from couloir.optim.default import default_scheduler
from couloir.training.precision import new_scaler
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
    data = FakeData(num_utterances, batch_size=batch_size)
    Trainer(config, optim, objective, data, optimizer=lambda *_: (optimizer, default_scheduler(optimizer, optim))).fit()
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


def rows_of(path):
    return list(map(json.loads, path.read_text().splitlines()))


def test_windows_that_are_not_finite_send_the_run_back_and_stop_it(tmp_path, train, caplog):
    flags = {"num_epochs": 1, "grad_accumulation": 2, "save_every_n": 4, "max_bad_batches": 2}
    trainer = train(**flags, poison_from=9, poison_lr=0.011)
    # The windows of batches 9 and 10, 11 and 12; and the first again, under the former rate.
    assert "went back to checkpoint-8.pt, learning rate times 0.5" in caplog.text
    assert (trainer.recovery.rollbacks, trainer.recovery.skipped, trainer.state.step) == (1, 3, 26)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    with pytest.raises(UserError, match=r"training diverged: 5 batches.*--base-lr"):
        train(**flags | {"num_epochs": 2}, poison_from=0, max_rollbacks=1)


@pytest.mark.parametrize("place", [0, 1])
def test_of_a_window_the_batch_that_is_not_finite_is_named_and_saved(tmp_path, train, place):
    data = FakeData()
    ids = [batch.ids for batch in data.train_loader(1)]
    trainer = train(data, num_epochs=1, grad_accumulation=2, poison=(ids[6 + place][0],))
    (skipped,) = rows_of(tmp_path / "exp/skipped.jsonl")
    assert skipped == {"rank": 0, "utterances": ids[6 + place], "reason": "loss not finite", "step": 7 + place}
    (saved,) = (tmp_path / "exp").glob("batch-*.pt")
    assert torch.load(saved, weights_only=True)["ids"] == ids[6 + place]
    assert trainer.recovery.skipped == 1 and all(p.isfinite().all() for p in trainer.model.parameters())


def test_one_scale_holds_for_all_losses_of_a_window(tmp_path):
    config = fake_config(tmp_path / "exp", {"num_epochs": 1, "grad_accumulation": 2})
    trainer = Trainer(config.trainer, config.optim, FakeObjective(FakeModel()), FakeData(240), config)
    trainer.precision.scaler = scaler = new_scaler(torch.device("cpu"), enabled=True)
    scale, used = scaler.scale, []
    scaler.scale = lambda loss: used.append(scaler.get_scale()) or scale(loss)
    trainer.fit()
    assert used[::2] == used[1::2]
    # It doubles with the first and the 26th of an epoch's steps, as long as it is small.
    assert used == [1.0] * 2 + [2.0] * 58


def logged(exp_dir):
    rows = rows_of(exp_dir / "metrics.jsonl")
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
