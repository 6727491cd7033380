"""CTC against the sum over all alignments written out, and what happens to utterances without one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from couloir.losses.ctc import ctc_loss, feasible, pad_targets


def collapse(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != 0]


def by_enumeration(log_probs: Tensor, target: list[int]) -> Tensor:
    """-log of the sum over every path of (S, V) that collapses to the target."""
    frames, vocabulary = log_probs.shape
    scores = [
        sum(log_probs[frame, label] for frame, label in enumerate(path))
        for path in itertools.product(range(vocabulary), repeat=frames)
        if collapse(path) == target
    ]
    return -torch.logsumexp(torch.stack(scores), dim=0) if scores else torch.tensor(float("inf"), dtype=log_probs.dtype)


def random_log_probs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).log_softmax(dim=-1).requires_grad_()


CASES = [([1], 4), ([], 3), ([1, 2], 4), ([1, 1], 4), ([2, 2, 2], 5), ([1, 2, 1, 2], 4), ([2, 1, 1], 4)]


@pytest.mark.parametrize("target, frames", CASES)
def test_equals_the_sum_over_all_paths(target, frames):
    log_probs = random_log_probs(1, frames, 3)
    loss = ctc_loss(log_probs, torch.tensor([frames]), [target])
    assert loss.item() == pytest.approx(by_enumeration(log_probs[0], target).item(), rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 2), max_size=5), st.integers(1, 6))
def test_feasible_is_what_has_a_path(target, frames):
    uniform = torch.zeros(frames, 3)
    expected = bool(torch.isfinite(by_enumeration(uniform, target)))
    assert feasible([target], torch.tensor([frames])).tolist() == [expected]
    loss = ctc_loss(uniform.log_softmax(-1)[None], torch.tensor([frames]), [target], zero_infinity=False)
    assert bool(torch.isfinite(loss)) == expected


def test_gradient_is_that_of_the_logits():
    logits = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        return ctc_loss(values.log_softmax(-1), torch.tensor([6, 4]), [[1, 1, 2], [3]])

    assert torch.autograd.gradcheck(loss, (logits,))


def test_an_utterance_without_a_path_is_left_out():
    targets = [[1, 2], [1, 1, 1], [2]]
    lens = torch.tensor([6, 4, 5])
    log_probs = random_log_probs(3, 6, 4, dtype=torch.float32)
    losses = ctc_loss(log_probs, lens, targets, reduction="none")
    losses.sum().backward()
    assert feasible(targets, lens).tolist() == [True, False, True]
    assert losses[1] == 0 and torch.isfinite(losses).all()
    assert (log_probs.grad[1] == 0).all() and (log_probs.grad[0] != 0).any() and torch.isfinite(log_probs.grad).all()
    kept = [0, 2]
    alone = ctc_loss(log_probs[kept], lens[kept], [targets[i] for i in kept])
    assert torch.allclose(alone, losses.sum())
    assert torch.isinf(ctc_loss(log_probs, lens, targets, zero_infinity=False))


def test_an_empty_utterance_costs_nothing():
    log_probs = random_log_probs(2, 5, 4, dtype=torch.float32)
    losses = ctc_loss(log_probs, torch.tensor([5, 0]), [[1], []], reduction="none")
    losses.sum().backward()
    assert losses[1] == 0 and (log_probs.grad[1] == 0).all()
    assert feasible([[1], []], torch.tensor([5, 0])).tolist() == [True, True]


def test_padding_does_not_count():
    log_probs = random_log_probs(2, 8, 4, dtype=torch.float32)
    lens = torch.tensor([8, 5])
    losses = ctc_loss(log_probs, lens, [[1, 2, 3], [3, 3]], reduction="none")
    losses.sum().backward()
    assert (log_probs.grad[1, 5:] == 0).all()
    alone = ctc_loss(log_probs[1:, :5], torch.tensor([5]), [[3, 3]])
    assert torch.allclose(losses[1], alone)


def test_targets_come_in_three_forms():
    ragged = [[1, 2, 3], [], [2, 2]]
    padded, lens = pad_targets(ragged)
    assert padded.tolist() == [[1, 2, 3], [0, 0, 0], [2, 2, 0]] and lens.tolist() == [3, 0, 2]
    for form in (padded, torch.tensor([1, 2, 3, 2, 2])):
        again, again_lens = pad_targets(form, lens)
        assert torch.equal(again, padded) and torch.equal(again_lens, lens)
    assert [part.shape for part in pad_targets([])] == [(0, 0), (0,)]
    with pytest.raises(ValueError, match="target_lens"):
        pad_targets(padded)


def test_garbage_in_padding_is_no_repeat():
    padded = torch.tensor([[1, 5, 5, 5], [2, 2, 9, 9]])
    assert feasible(padded, torch.tensor([2, 3]), torch.tensor([2, 2])).tolist() == [True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    log_probs = random_log_probs(1, 400, 50, dtype=torch.float32).detach().to(dtype)
    loss = ctc_loss(log_probs, torch.tensor([400]), [[1, 2, 3]])
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ctc_loss(log_probs.float(), torch.tensor([400]), [[1, 2, 3]]))
