"""The consistency term against its formula, and where its gradient may and may not flow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from couloir.losses.cr_ctc import consistency, consistency_warmup, cr_ctc
from couloir.losses.ctc import ctc_loss


def views(batch: int = 3, frames: int = 7, vocabulary: int = 5) -> Tensor:
    return torch.randn(2 * batch, frames, vocabulary, dtype=torch.float64).log_softmax(-1).requires_grad_()


LENS = torch.tensor([7, 4, 0] * 2)


def test_value_is_the_symmetric_divergence_of_valid_frames():
    log_probs = views()
    expected = 0.0
    for item, length in enumerate(LENS[:3]):
        for one, other in ((item, item + 3), (item + 3, item)):
            for frame in range(length):
                p, q = log_probs[other, frame].exp(), log_probs[one, frame].exp()
                expected += (p * (p / q).log()).sum().item()
    assert consistency(log_probs, LENS).item() == pytest.approx(expected, rel=1e-12)


def test_equal_views_are_consistent():
    half = views()[:3]
    assert consistency(torch.cat([half, half]), LENS).item() == 0.0


def test_no_gradient_flows_into_the_target():
    log_probs = views()
    (gradient,) = torch.autograd.grad(consistency(log_probs, LENS), log_probs)
    first, second = log_probs.detach().chunk(2)
    valid = (torch.arange(7) < LENS[:, None])[:, :, None]
    assert torch.allclose(gradient, -torch.cat([second, first]).exp() * valid)


def test_gradient_to_the_logits_is_that_of_a_divergence_from_constants():
    logits = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    ours = consistency(logits.log_softmax(-1), torch.tensor([7, 7]))
    (gradient,) = torch.autograd.grad(ours, logits)
    other = logits.detach().flip(0).log_softmax(-1)

    def from_constants(values: Tensor) -> Tensor:
        return F.kl_div(values.log_softmax(-1), other, reduction="sum", log_target=True)

    assert torch.autograd.gradcheck(from_constants, (logits,))
    assert torch.allclose(gradient, torch.autograd.grad(from_constants(logits), logits)[0])


def test_both_terms_are_means_over_the_views():
    half = torch.randn(2, 9, 6).log_softmax(-1)
    targets, lens = [[1, 2, 2], [3]], torch.tensor([9, 6])
    ctc, consistent = cr_ctc(torch.cat([half, half]), lens.repeat(2), targets)
    assert torch.allclose(ctc, ctc_loss(half, lens, targets))
    assert consistent == 0


def test_padding_does_not_count():
    log_probs = views()
    changed = log_probs.detach().clone()
    changed[1, 4:] = changed[4, 5:6] = torch.full((5,), 0.2, dtype=torch.float64).log()
    assert torch.equal(consistency(changed, LENS), consistency(log_probs.detach(), LENS))


def test_half_precision_is_summed_in_float32():
    log_probs = views().detach().to(torch.bfloat16)
    assert consistency(log_probs, LENS).dtype == torch.float32


def test_warm_up_is_linear():
    assert [consistency_warmup(step, 2000) for step in (0, 500, 2000, 9000)] == [0.0, 0.25, 1.0, 1.0]
    assert consistency_warmup(0, 0) == 1.0
