"""Integrate-and-fire in closed form against a loop over frames, as the paper states it."""

import pytest
import torch

from couloir.models.paraformer.cif import fire_peaks, integrate, running_sum, token_shares, token_spans


def fire_by_loop(hidden, alphas):
    """Vectors, integrated weights and spans of one item, frame by frame; a frame may complete several tokens."""
    vectors, peaks, bounds = [], [], [0.0]
    level, vector = 0.0, torch.zeros_like(hidden[0])
    for t, (frame, alpha) in enumerate(zip(hidden, alphas)):
        left, peak = alpha.item(), None
        share = alpha
        while level + left >= 1.0:
            need = 1.0 - level
            vectors.append(vector + need * frame)
            bounds.append(t + 1.0 - (left - need) / alpha.item())
            peak = 1.0 if peak is None else peak
            left, share, level, vector = left - need, share - need, 0.0, torch.zeros_like(frame)
        vector, level = vector + share * frame, level + left
        peaks.append(level + (peak or 0.0))
    return torch.stack(vectors) if vectors else hidden[:0], torch.tensor(peaks), bounds


def batch(seed, largest=1.0, items=4, width=3):
    """Random weights and frames of random lengths, both 0 behind them."""
    torch.manual_seed(seed)
    lens = torch.randint(1, 60, (items,))
    inside = torch.arange(int(lens.max())) < lens[:, None]
    alphas = torch.rand(inside.shape, dtype=torch.float64) * largest * inside
    return torch.randn(*inside.shape, width, dtype=torch.float64) * inside.unsqueeze(-1), alphas, lens


# 1.0 is what a predictor gives; in training its weights are scaled, and 2.7 fires several tokens at a frame.
@pytest.mark.parametrize("largest", [0.05, 0.5, 1.0, 2.7])
@pytest.mark.parametrize("seed", range(10))
def test_equals_the_loop_on_random_lengths(seed, largest):
    hidden, alphas, lens = batch(seed, largest)
    sums = running_sum(alphas)
    fired = sums[:, -1].floor().long()
    vectors = integrate(hidden, sums, int(fired.max().clamp(min=1)))
    spans = token_spans(alphas, vectors.shape[1])
    peaks = fire_peaks(sums)
    for item, length in enumerate(lens):
        expected, levels, bounds = fire_by_loop(hidden[item, :length], alphas[item, :length])
        assert len(expected) == fired[item]
        torch.testing.assert_close(vectors[item, : len(expected)], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(peaks[item, :length], levels, atol=1e-6, rtol=0)
        torch.testing.assert_close(spans[item, : len(expected), 1].tolist(), bounds[1:], atol=1e-9, rtol=0)
        torch.testing.assert_close(spans[item, : len(expected), 0].tolist(), bounds[:-1], atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_float32_is_near_float64(seed):
    hidden, alphas, _ = batch(seed)
    rows = int(alphas.float().sum(dim=1).max())
    exact = integrate(hidden, running_sum(alphas), rows)
    rounded = integrate(hidden.float(), running_sum(alphas.float()), rows)
    # Weights of float32 are off by 3e-8 each, and so is each of the 60 sums' bounds.
    torch.testing.assert_close(rounded.double(), exact, atol=2e-5, rtol=0)


@pytest.mark.parametrize("largest", [0.5, 1.0, 2.7])
def test_gradients_equal_the_loops(largest):
    hidden, alphas, lens = batch(11, largest)
    upstream = torch.randn(4, 200, 3, dtype=torch.float64)
    for inputs in ((hidden, alphas),):
        for tensor in inputs:
            tensor.requires_grad_()
    sums = running_sum(alphas)
    fired = sums[:, -1].floor().long().tolist()
    vectors = integrate(hidden, sums, max(fired))
    ours = torch.autograd.grad(
        sum((vectors[i, :n] * upstream[i, :n]).sum() for i, n in enumerate(fired)), (hidden, alphas)
    )
    theirs = torch.autograd.grad(
        sum((differentiable(hidden[i, :n], alphas[i, :n]) * upstream[i, : fired[i]]).sum() for i, n in enumerate(lens)),
        (hidden, alphas),
    )
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def differentiable(hidden, alphas):
    """`fire_by_loop`'s vectors with the gradient of the weights, integrated as tensors."""
    vectors, level, vector = [], alphas.new_zeros(()), torch.zeros_like(hidden[0])
    for frame, alpha in zip(hidden, alphas):
        left = alpha
        while level + left >= 1.0:
            need = 1.0 - level
            vectors.append(vector + need * frame)
            left, level, vector = left - need, alphas.new_zeros(()), torch.zeros_like(frame)
        vector, level = vector + left * frame, level + left
    return torch.stack(vectors)


def test_gradients_are_right():
    hidden, alphas, _ = batch(12, 0.9, items=2)
    hidden, alphas = hidden[:, :9].requires_grad_(), alphas[:, :9].requires_grad_()
    assert torch.autograd.gradcheck(lambda h, a: integrate(h, running_sum(a), 3), (hidden, alphas))


def test_neither_batch_nor_order_nor_padding_changes_a_vector():
    hidden, alphas, lens = batch(13)
    hidden, alphas = hidden.float(), alphas.float()
    rows = int(alphas.sum(dim=1).max())
    together = integrate(hidden, running_sum(alphas), rows)
    order = torch.tensor([2, 0, 3, 1])
    wider, longer = torch.nn.functional.pad(hidden, (0, 0, 0, 7)), torch.nn.functional.pad(alphas, (0, 7))
    again = integrate(wider[order], running_sum(longer[order]), rows)
    torch.testing.assert_close(again, together[order], atol=1e-6, rtol=0)
    for item, length in enumerate(lens):
        alone = integrate(hidden[item : item + 1, :length], running_sum(alphas[item : item + 1, :length]), rows)
        torch.testing.assert_close(alone[0], together[item], atol=1e-6, rtol=0)


def test_a_share_is_given_once():
    _, alphas, _ = batch(14)
    sums = running_sum(alphas)
    shares = token_shares(sums, int(sums[:, -1].max()) + 1)
    torch.testing.assert_close(shares.sum(dim=1), alphas, atol=1e-12, rtol=0)
    assert shares.min() >= 0.0
    assert shares.sum(dim=2).max() <= 1.0 + 1e-12


def test_a_recording_of_an_hour_loses_no_token_to_rounding():
    # 60 000 frames of 60 ms; a sum in float32 would be 7e-4 of a token short.
    alphas = torch.full((1, 60_000), 0.3)
    sums = running_sum(alphas)
    assert sums[0, -1].item() == pytest.approx(60_000 * alphas[0, 0].item(), abs=1e-7)
    vector = integrate(torch.ones(1, 3, 1), sums[:, -3:] - sums[:, -4:-3].floor(), 1)
    assert vector.item() == pytest.approx(1.0, abs=1e-6)


def test_spans_of_tokens_that_never_fill_lie_at_the_end():
    spans = token_spans(torch.tensor([[0.5, 0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]), 3)
    assert spans[0].tolist() == [[0.0, 2.0], [2.0, 4.0], [4.0, 4.0]]
    assert spans[1].tolist() == [[0.0, 0.0]] * 3


def test_a_first_token_begins_with_the_recording_or_its_first_weight():
    assert token_spans(torch.tensor([[0.0, 0.0, 1.0, 0.5, 0.5]]), 2)[0].tolist() == [[0.0, 3.0], [3.0, 5.0]]
