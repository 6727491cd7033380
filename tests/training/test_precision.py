"""icefall's policy for the scale of fp16 losses, and what a step does when a scaled gradient overflows."""

import json
import math

import pytest
import torch
from fake_run import FakeData, FakeModel, FakeObjective, fake_config, make_trainer

from couloir.errors import UserError
from couloir.optim.eden import Eden
from couloir.optim.scaled_adam import ScaledAdam
from couloir.training.config import TrainerConfig
from couloir.training.distributed import Group
from couloir.training.precision import Precision, new_scaler
from couloir.training.random_state import seed_everything
from couloir.training.step import Stepper
from couloir.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def precision():
    """fp16's loss scale on a CPU, where its arithmetic is the same."""
    made = Precision(TrainerConfig(), CPU)
    made.scaler = new_scaler(CPU, enabled=True)
    return made


@pytest.fixture
def stepper(precision):
    objective = FakeObjective(FakeModel())
    optimizer = ScaledAdam(objective.model.named_parameters(), lr=0.02, clipping_scale=2.0)
    return Stepper(objective, optimizer, Eden(optimizer, 7500, 3.5), precision, Group(CPU))


@pytest.mark.parametrize(
    ("batch", "scale", "expected"),
    [
        (1, 0.5, 0.5),
        (25, 1.0, 2.0),
        (25, 2.0, 2.0),
        (100, 4.0, 8.0),
        (125, 4.0, 4.0),
        (400, 16.0, 32.0),
        (400, 32.0, 32.0),
    ],
)
def test_the_scale_grows_while_it_is_small(precision, batch, scale, expected):
    precision.scaler.update(scale)
    precision.adjust(batch)
    assert precision.scale == precision.scaler.get_scale() == expected


def test_a_collapsed_scale_is_seen(precision, caplog):
    precision.scaler.update(5e-6)
    precision.adjust(1)
    assert precision.collapsed
    assert "grad scale is small" in caplog.text


class Overflows(FakeObjective):
    """A loss that is finite, whose gradient is not while ``diverges`` of the step."""

    def forward(self, batch, batch_idx_train):
        loss, stats = super().forward(batch, batch_idx_train)
        if self.training and self.overflows(batch_idx_train):
            loss = loss + (self.model.unused - 1).square().sum().sqrt()
        return loss, stats


def overflowing(exp_dir, limit, **values):
    """A trainer in fp16's way, whose gradients overflow from batch 31 on while the learning rate is above ``limit``.

    The bound on bad batches is never reached: it is the collapse that sends the run back.
    """
    torch.manual_seed(1)
    values = {"num_epochs": 1, "max_bad_batches": 10**6, "log_interval": 1, "valid_interval": 100, **values}
    config = fake_config(exp_dir, values)
    objective = Overflows(FakeModel())
    trainer = Trainer(config.trainer, config.optim, objective, FakeData(num_utterances=240), config)
    trainer.precision.scaler = new_scaler(CPU, enabled=True)
    objective.overflows = lambda step: step > 30 and trainer.scheduler.last_lr() > limit
    return trainer


@pytest.mark.parametrize("inf_check", [False, True])
def test_a_small_scale_saves_the_model_and_watches_for_the_first_inf(tmp_path, inf_check):
    trainer = overflowing(tmp_path / "exp", limit=0.011, save_every_n=30, num_epochs=2, inf_check=inf_check)
    hooks, saved = [], []
    adjust, save_model = trainer.precision.adjust, trainer.failures.save_model
    trainer.failures.save_model = lambda *args: saved.append(trainer.state.epoch) or save_model(*args)

    def noted(step):
        hooks.append(len(trainer.model.layers[0]._forward_hooks))
        return adjust(step)

    trainer.precision.adjust = noted
    trainer.fit()
    # Once in the epoch, by however many batches the scale is small; and it watches no longer than that.
    assert saved == [1] and (tmp_path / "exp/bad-model-first-warning-0.pt").is_file()
    assert (hooks[0], max(hooks), hooks[-1]) == (int(inf_check), 1, int(inf_check))


@pytest.mark.parametrize(("every", "target"), [(30, "checkpoint-30.pt"), (9, "checkpoint-36.pt")])
def test_a_collapsing_scale_goes_back_to_the_last_good_checkpoint(tmp_path, caplog, every, target):
    trainer = overflowing(tmp_path / "exp", limit=0.011, save_every_n=every)
    trainer.fit()
    # The scale was halved at batch after batch, down to below 1e-5, with the optimizer standing still.
    assert "grad scale is small: 7.62939e-06" in caplog.text
    assert trainer.recovery.rollbacks == 1 and trainer.recovery.lr_scale == 0.5
    assert f"went back to {target}, learning rate times 0.5" in caplog.text
    # From 1, also where it was saved on its way down; the first batch overflows under the former rate once more.
    rows = [json.loads(line) for line in (tmp_path / "exp/metrics.jsonl").read_text().splitlines()]
    step = int(target.removeprefix("checkpoint-").removesuffix(".pt")) + 1
    assert next(row["grad_scale"] for row in reversed(rows) if row["step"] == step) == 0.5
    assert trainer.state.step == 60 and all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_scale_that_collapses_again_and_again_stops_the_run_with_a_paragraph(tmp_path):
    trainer = overflowing(tmp_path / "exp", limit=0.0, max_rollbacks=2)
    with pytest.raises(UserError, match=r"going back 2 times, to 0\.25 of the learning rate.*--use-bf16 True") as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert torch.load(tmp_path / "exp/last.pt", weights_only=True)["recovery"]["lr_scale"] == 0.25


def test_bf16_trains_in_bf16(tmp_path):
    losses = {}
    for dtype, flags in ((torch.float32, {}), (torch.bfloat16, {"use_bf16": True})):
        torch.manual_seed(1)
        seed_everything(1)
        trainer = make_trainer(fake_config(tmp_path / str(dtype), {"num_epochs": 2, **flags}), FakeData())
        seen = set()
        trainer.model.layers[0].register_forward_hook(lambda module, x, y, seen=seen: seen.add(y.dtype))
        trainer.fit()
        assert seen == {dtype}
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())
        # bf16 has float32's range: no scale, and a checkpoint that says what it was trained in.
        saved = torch.load(tmp_path / str(dtype) / "epoch-2.pt", weights_only=True)
        assert saved["dtype"] == dtype and saved["use_autocast"] == bool(flags) and trainer.precision.scale == 1.0
        losses[dtype] = trainer.state.train_loss
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.05)
    assert losses[torch.bfloat16] != losses[torch.float32]


def test_an_overflow_halves_the_scale_and_moves_nothing(stepper, precision):
    batch = FakeData().hardest_batches()[0]
    precision.scaler.update(1e38)
    precision.adjust(1)
    before = [p.clone() for p in stepper.objective.model.parameters()]
    batch.audio *= 100
    result = stepper.run(batch, 1, last_of_window=True)
    assert not math.isfinite(result.grad_norm)
    # The scale is to blame, not the batch.
    assert not result.bad
    assert precision.scaler.get_scale() == pytest.approx(5e37)
    assert all(torch.equal(a, b) for a, b in zip(before, stepper.objective.model.parameters()))


def test_a_scaled_step_equals_an_unscaled_one(stepper, precision):
    batch = FakeData().hardest_batches()[0]
    results = []
    for scale in (1.0, 1024.0):
        precision.scaler.update(scale)
        precision.adjust(1)
        objective = FakeObjective(torch.nn.Linear(4, 1))
        torch.nn.init.constant_(objective.model.weight, 0.1)
        torch.nn.init.constant_(objective.model.bias, 0.1)
        optimizer = ScaledAdam(objective.model.named_parameters(), lr=0.02)
        result = Stepper(objective, optimizer, Eden(optimizer, 7500, 3.5), precision, Group(CPU)).run(batch, 1, True)
        results.append((result.grad_norm, objective.model.weight.detach().clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])
