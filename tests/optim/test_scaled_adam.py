"""ScaledAdam's state, and what it does with gradients that are missing or not finite."""

import copy

import pytest
import torch
from torch import nn

from couloir.optim.clipping import clipping_scale
from couloir.optim.scaled_adam import ScaledAdam


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))


def steps(module, optimizer, count, seed=0):
    for step in range(count):
        generator = torch.Generator().manual_seed(seed + step)
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_state_is_kept_at_the_first_parameter_of_each_shape():
    module = model()
    optimizer = ScaledAdam(module.named_parameters(), clipping_scale=2.0)
    steps(module, optimizer, 2)
    state = optimizer.state_dict()["state"]
    # Parameters: 0 (4,4), 1 (4), 2 (4,4), 3 (4), 4 (1,4), 5 (1): one entry per shape, sorted as numbers.
    assert sorted(state) == [0, 1, 4, 5]
    assert state[0]["delta"].shape == (2, 4, 4)
    assert state[0]["param_rms"].shape == (2, 1, 1)
    assert state[0]["scale_grads"].shape == (4, 2, 1, 1)
    assert state[0]["step"] == 2
    # One element is a scalar, whatever its shape; (1,) sorts first and holds what concerns all parameters.
    assert set(state[5]) == {"step", "exp_avg_sq", "delta", "model_norms"}
    assert state[5]["model_norms"].shape == (100,)


def test_a_loaded_state_goes_on_with_the_same_steps():
    one = model()
    optimizer = ScaledAdam(one.parameters(), clipping_scale=2.0)
    steps(one, optimizer, 13)
    two = copy.deepcopy(one)
    other = ScaledAdam(two.parameters(), clipping_scale=2.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(one, optimizer, 9, seed=50)
    steps(two, other, 9, seed=50)
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)


def test_a_missing_gradient_counts_as_zeros():
    one, two = model(), model()
    first, second = ScaledAdam(one.parameters()), ScaledAdam(two.parameters())
    for module, optimizer in ((one, first), (two, second)):
        for _ in range(6):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            module[1].weight.grad = None if module is one else torch.zeros(4, 4)
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)
    assert torch.equal(one[1].weight, model()[1].weight)


def test_a_gradient_that_is_not_finite_moves_nothing():
    module = model()
    optimizer = ScaledAdam(module.parameters(), clipping_scale=2.0)
    steps(module, optimizer, 12)
    module[0].weight.grad[0, 0] = float("nan")
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert not optimizer.measure_gradients().isfinite()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_the_median_leaves_out_norms_that_are_not_finite(bad):
    state = {"exp_avg_sq": torch.zeros(1)}
    norms = [1.0, 2.0, 3.0, 4.0, bad, bad, 5.0, 6.0, 7.0, 8.0]
    scales = [clipping_scale(state, norm, step, 2.0, 100) for step, norm in enumerate(norms, start=1)]
    # Eight finite norms: the median is the one at (8 // 4) * 2, the threshold is doubled at step 10.
    assert state["model_norm_threshold"] == 2 * 2.0 * 5.0
    assert scales[4] == 0.0
    assert clipping_scale(state, 40.0, 11, 2.0, 100) == pytest.approx(0.5)
    assert state["num_clipped"] == 1


def test_when_no_norm_is_finite_the_threshold_stays():
    state = {"exp_avg_sq": torch.zeros(1), "model_norm_threshold": 7.0}
    state["model_norms"] = torch.full((100,), float("nan"))
    assert clipping_scale(state, float("nan"), 100, 2.0, 100) == 0.0
    assert state["model_norm_threshold"] == 7.0


def test_pieces_do_not_change_the_result(monkeypatch):
    results = []
    for size in (4, 1 << 16):
        monkeypatch.setattr("couloir.optim.scaled_adam.CPU_PIECE", size)
        module = model()
        steps(module, ScaledAdam(module.parameters(), clipping_scale=2.0), 15)
        results.append([parameter.detach() for parameter in module.parameters()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
