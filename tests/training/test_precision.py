"""icefall's policy for the scale of fp16 losses, and what a step does when a scaled gradient overflows."""

import math

import pytest
import torch
from fake_run import FakeData, FakeModel, FakeObjective

from couloir.optim.eden import Eden
from couloir.optim.scaled_adam import ScaledAdam
from couloir.training.config import TrainerConfig
from couloir.training.distributed import Group
from couloir.training.precision import Precision, new_scaler
from couloir.training.step import Stepper

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
