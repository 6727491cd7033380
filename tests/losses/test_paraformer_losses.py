"""A Paraformer's losses against torch's own and hand-computed numbers."""

import pytest
import torch
import torch.nn.functional as F

from couloir.losses.paraformer import paraformer_losses, smoothed_divergence
from couloir.losses.paraformer_config import ParaformerLossConfig
from couloir.models.paraformer.model import Lesson

TARGETS = torch.tensor([[3, 1, 2], [4, -1, -1]])
TOKENS = [[3, 1, 2], [4]]


def divergence_by_hand(logits, targets, smoothing):
    total = 0.0
    for row, target in zip(logits.flatten(0, 1), targets.flatten().tolist()):
        if target >= 0:
            goal = torch.full_like(row, smoothing / (len(row) - 1))
            goal[target] = 1.0 - smoothing
            total = total + F.kl_div(row.log_softmax(-1), goal, reduction="sum")
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_divergence_is_torchs(smoothing):
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = smoothed_divergence(logits, TARGETS, smoothing), divergence_by_hand(logits, TARGETS, smoothing)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_divergence_is_zero_at_its_target():
    goal = torch.full((1, 1, 5), 0.1 / 4)
    goal[..., 2] = 0.9
    assert smoothed_divergence(goal.log(), torch.tensor([[2]]), 0.1).item() == pytest.approx(0.0, abs=1e-6)


def test_no_gradient_beyond_the_targets():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(smoothed_divergence(logits, TARGETS, 0.1), logits)
    assert gradient[1, 1:].abs().max() == 0.0


def lesson(ctc=True):
    torch.manual_seed(2)
    logits, scores = torch.randn(2, 3, 5), torch.randn(2, 6, 5).log_softmax(-1)
    first = torch.tensor([[3, 0, 2], [1, 1, 1]])
    lens = torch.tensor([3, 1])
    return Lesson(
        logits,
        TARGETS,
        lens,
        torch.tensor([2.5, 3.0]),
        first,
        torch.zeros(2, 6, 1),
        torch.tensor([6, 4]),
        scores if ctc else None,
    )


@pytest.mark.parametrize(("by_length", "weight"), [(True, 4), (False, 2)])
def test_terms_and_what_they_are_means_over(by_length, weight):
    config = ParaformerLossConfig(ctc_weight=0.3, length_normalized_loss=by_length, predictor_weight=0.5)
    given = lesson()
    losses = paraformer_losses(given, TOKENS, config)
    attention = divergence_by_hand(given.logits, TARGETS, 0.1).item() / weight
    predictor = (abs(3 - 2.5) + abs(1 - 3.0)) / weight
    ctc = F.ctc_loss(
        given.ctc_log_probs.transpose(0, 1),
        torch.tensor([3, 1, 2, 4]),
        given.encoder_lens,
        torch.tensor([3, 1]),
        reduction="sum",
    )
    assert losses.attention.item() == pytest.approx(attention, rel=1e-5)
    assert losses.predictor.item() == pytest.approx(predictor)
    assert losses.ctc.item() == pytest.approx(ctc.item() / 2, rel=1e-5)
    assert losses.total.item() == pytest.approx(0.3 * ctc.item() / 2 + 0.7 * attention + 0.5 * predictor, rel=1e-5)
    assert losses.weight.item() == weight
    assert losses.accuracy.item() == pytest.approx(2 / 4)  # of the first pass; padding does not count


@pytest.mark.parametrize(("ctc", "weight"), [(False, 0.3), (True, 0.0)])
def test_without_ctc_the_cross_entropy_has_its_whole_weight(ctc, weight):
    losses = paraformer_losses(lesson(ctc), TOKENS, ParaformerLossConfig(ctc_weight=weight))
    assert losses.ctc is None
    assert losses.total.item() == pytest.approx((losses.attention + losses.predictor).item())


def test_expected_errors_come_on_top():
    given = lesson()
    plain = paraformer_losses(given, TOKENS, ParaformerLossConfig())
    with_errors = paraformer_losses(given, TOKENS, ParaformerLossConfig(mwer_weight=2.0, mwer_mask_prob=0.5))
    assert plain.mwer is None
    assert with_errors.total.item() == pytest.approx((plain.total + 2.0 * with_errors.mwer).item())
    assert with_errors.mwer.item() != 0.0


@pytest.mark.parametrize(
    "values",
    [
        {"ctc_weight": 1.5},
        {"ctc_weight": -0.1},
        {"label_smoothing": 1.0},
        {"sampling_ratio": -1.0},
        {"predictor_weight": float("nan")},
        {"mwer_weight": -1.0},
        {"mwer_paths": 1},
        {"mwer_mask_prob": 0.0},
    ],
)
def test_values_out_of_range_are_refused_by_their_flag(values):
    (name,) = values
    with pytest.raises(Exception, match=f"--{name.replace('_', '-')}` must be"):
        ParaformerLossConfig(**values)
