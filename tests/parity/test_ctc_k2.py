"""The CTC loss and the swoosh functions against k2 1.23.4.

Of the CTC cases those with k2's standard topology apply, with ``output_beam`` 1e10, which prunes nothing: its loss is
then the sum over all alignments. Not offered here, and so not compared: the modified topology (a repeat without a
blank between), the delay penalty, and what k2 loses by its default ``output_beam`` 10. Gradients are compared at the
logits: with respect to log-probabilities k2 gives minus the posterior, torch the same plus what a softmax takes off.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.losses.ctc import ctc_loss, feasible
from couloir.models.common.activations import activate, activation_values
from couloir.models.zipformer.activations import SWOOSH_L, SWOOSH_R

FOLDER = Path(__file__).parent / "data" / "k2"
GOLDEN = np.load(FOLDER / "ctc.npz")
CASES = ["basic", "empty_target", "infeasible", "segments", "tight"]


def supervised(case):
    """Logits, the stretch of frames (sequence, first, count) of each target, targets, k2's losses and gradient."""
    values = {key: torch.from_numpy(GOLDEN[f"{case}/{key}"]) for key in ("logits", "loss_exact", "logits_grad_exact")}
    splits, flat = GOLDEN[f"{case}/target_splits"], GOLDEN[f"{case}/targets"]
    targets = [flat[a:b].tolist() for a, b in zip(splits, splits[1:])]
    return (
        values["logits"],
        GOLDEN[f"{case}/segments"].tolist(),
        targets,
        values["loss_exact"],
        values["logits_grad_exact"],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(case, dtype):
    logits, segments, targets, losses, gradient = supervised(case)
    logits = logits.to(dtype).requires_grad_()
    log_probs = logits.log_softmax(-1)
    stretches = [log_probs[row, first : first + count] for row, first, count in segments]
    lens = torch.tensor([count for _, _, count in segments])
    padded = torch.nn.utils.rnn.pad_sequence(stretches, batch_first=True)
    with_infinity = ctc_loss(padded, lens, targets, reduction="none", zero_infinity=False)
    torch.testing.assert_close(with_infinity.float(), losses, rtol=1e-6, atol=1e-5)
    assert torch.equal(feasible(targets, lens), losses.isfinite())
    ours = ctc_loss(padded, lens, targets)
    torch.testing.assert_close(ours.float(), losses[losses.isfinite()].sum(), rtol=1e-6, atol=1e-5)
    ours.backward()
    # k2's gradient of an utterance without a path is zero, also where its infinite loss is summed in.
    torch.testing.assert_close(logits.grad.float(), gradient, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), [("l", SWOOSH_L), ("r", SWOOSH_R)])
def test_swoosh_and_its_derivative(name, kind):
    """k2 trains with a derivative of 8 bits, rounded at random: its mean over 2000 draws is ours, which is exact."""
    golden = np.load(FOLDER / "swoosh.npz")
    x = torch.from_numpy(golden["x"])[None, :, None].requires_grad_()
    y = activate(x, kind)
    y.sum().backward()
    value, slope, mean = (
        torch.from_numpy(golden[f"{name}_{key}"]) for key in ("forward", "deriv", "autograd_grad_mean")
    )
    torch.testing.assert_close(y[0, :, 0], value, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(activation_values(x, kind)[0, :, 0], value, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(x.grad[0, :, 0], slope, rtol=0, atol=2e-6)
    # A step of 1.005 / 255 rounded up or down: a standard error of at most 4.4e-5. What is compared was drawn once:
    # no processor changes it by more than 2e-6.
    torch.testing.assert_close(x.grad[0, :, 0].double(), mean, rtol=0, atol=2.5e-4)
