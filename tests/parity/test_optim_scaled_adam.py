"""ScaledAdam, step for step, against icefall's on gradients that a formula gives."""

import math

import pytest
import torch
from torch import nn
from zipformer2_golden import arrays

from couloir.optim.scaled_adam import ScaledAdam

STEPS = (0, 3, 9, 10, 49, 99, 149)
# float32 rounding over 150 steps: the reference's own runs in float32 and float64 differ by 5e-7.
TOLERANCE = 2e-6


def parameters():
    a = torch.arange(6.0).reshape(2, 3) / 10 - 0.2
    b = torch.arange(6.0).reshape(2, 3) / 7 + 0.1
    return [nn.Parameter(t) for t in (a, b, torch.tensor(0.5), torch.tensor([0.3, -0.4, 0.0, 0.2]))]


def gradient(parameter, number, step):
    index = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    scale = (1 + 0.5 * math.cos(0.11 * step)) * (20 if step % 29 == 28 else 1)
    return (torch.sin(0.37 * step + 1.3 * index + number) * scale).float()


def test_parameters_follow_icefall():
    golden, values = arrays("scaled_adam"), parameters()
    optimizer = ScaledAdam(values, lr=0.045, clipping_scale=2.0)
    for step in range(150):
        for number, parameter in enumerate(values):
            parameter.grad = gradient(parameter, number, step)
        optimizer.step()
        if step in STEPS:
            for name, parameter in zip("abcd", values):
                expected = golden[f"step{step}/{name}"]
                torch.testing.assert_close(parameter.detach(), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("measured", [False, True])
def test_measuring_gradients_before_a_step_changes_nothing(measured):
    golden, values = arrays("scaled_adam"), parameters()
    optimizer = ScaledAdam(values, lr=0.045, clipping_scale=2.0)
    for step in range(50):
        for number, parameter in enumerate(values):
            parameter.grad = gradient(parameter, number, step)
        if measured:
            assert optimizer.measure_gradients().isfinite()
        optimizer.step()
    torch.testing.assert_close(values[0].detach(), golden["step49/a"], atol=TOLERANCE, rtol=0)
