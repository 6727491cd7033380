"""Eden at the check points of the recipes' documentation, and its state."""

import pytest
import torch
from torch import nn

from couloir.errors import UserError
from couloir.optim.eden import Eden, Eden2
from couloir.optim.param_groups import parameter_groups


def optimizer(lr=0.045):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    ("batch", "epoch", "expected"),
    [
        (0, 0, 0.0045),
        (250, 0, 0.024743),
        (500, 0, 0.044950),
        (7500, 0, 0.037840),
        (7500, 3.5, 0.031820),
        (50000, 10, 0.0099616),
        (200000, 29, 0.0030154),
    ],
)
def test_eden_at_known_points(batch, epoch, expected):
    schedule = Eden(optimizer(), 7500, 3.5, warmup_start=0.1)
    schedule.step_epoch(epoch)
    schedule.step_batch(batch)
    assert schedule.last_lr() == pytest.approx(expected, rel=1e-4)


def test_eden2_falls_with_the_square_root_and_knows_no_epochs():
    schedule = Eden2(optimizer(1.0), 100)
    schedule.step_epoch(50)
    schedule.step_batch(10000)
    assert schedule.last_lr() == pytest.approx((1 + 100**2) ** -0.5)


def test_loading_an_old_state_keeps_this_runs_base_rate():
    schedule = Eden(optimizer(0.02), 7500, 3.5)
    schedule.load_state_dict({"epoch": 3, "batch": 9000, "base_lrs": [0.045]})
    assert schedule.base_lrs == [0.02]
    assert schedule.state_dict() == {"epoch": 3, "batch": 9000}
    assert schedule.last_lr() == pytest.approx(0.02 * schedule.factor())


def test_scale_lies_on_top():
    schedule = Eden(optimizer(1.0), 1e9, 1e9, warmup_batches=0)
    schedule.scale = 0.25
    schedule.step_batch(1)
    assert schedule.last_lr() == pytest.approx(0.25)


def test_groups_by_learning_rate_with_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].lr_scale = 0.5
    slow_and_fast = parameter_groups(model, 0.1)
    assert [(group["lr"], [name for name, _ in group["named_params"]]) for group in slow_and_fast] == [
        (0.1, ["0.weight", "0.bias"]),
        (0.05, ["1.weight", "1.bias"]),
    ]


def test_frozen_modules_are_left_out_and_a_wrong_name_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    (group,) = parameter_groups(model, 0.1, ["0"])
    assert [name for name, _ in group["named_params"]] == ["1.weight", "1.bias"]
    assert not model[0].weight.requires_grad
    with pytest.raises(UserError, match="encoder_embed"):
        parameter_groups(model, 0.1, ["encoder_embed"])
