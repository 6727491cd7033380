"""A channel that is zero everywhere, as feature masking makes it in small batches, must not poison the gradient."""

import torch

from couloir.models.common.balancer import balance_gradient


def test_zero_and_constant_channels_stay_finite():
    x = torch.randn(40, 4)
    x[:, 1] = 0.0
    x[:, 2] = 3.0
    grad = torch.randn(40, 4)
    changed = balance_gradient(x, grad, (-0.05, 0.05, 0.5, 1.0))
    assert torch.isfinite(changed).all()
    # Nothing can be said about a zero channel, so its gradient is left alone.
    torch.testing.assert_close(changed[:, 1], grad[:, 1])
    # A constant positive channel is pushed down by its mean and its size: with weight 0.04 of each element.
    torch.testing.assert_close(changed[:, 2], grad[:, 2] + grad[:, 2].abs() * 0.04)


def test_a_channel_that_is_nearly_zero_keeps_its_half_gradients_finite():
    """Its push has a slope of 1 / rms, which float16 cannot hold."""
    x = torch.zeros(3000, 2, dtype=torch.float16)
    x[0] = torch.tensor([3e-5, 1.0])
    grad = torch.full_like(x, 1e-3)
    changed = balance_gradient(x, grad, (-0.05, 0.05, 0.5, 1.0))
    assert changed.dtype == torch.float16 and torch.isfinite(changed).all()
    expected = balance_gradient(x.float(), grad.float(), (-0.05, 0.05, 0.5, 1.0))
    torch.testing.assert_close(changed.float(), expected, atol=2e-6, rtol=2e-3)
