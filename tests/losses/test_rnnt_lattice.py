"""The recursion: every path enumerated, derivatives by finite differences, items without a path."""

import math

import pytest
import torch

from couloir.losses.rnnt import mutual_information_recursion


def all_paths(px, py, begin, end):
    """(log-probability, steps) of every path, one lattice, by plain enumeration; a step is ("x" or "y", s, t)."""
    takes_frame = int(px.shape[1] == py.shape[1])

    def walk(s, t):
        if (s, t) == end:
            yield 0.0, ()
            return
        if t < end[1]:
            for score, steps in walk(s, t + 1):
                yield float(py[s, t]) + score, (("y", s, t), *steps)
        if s < end[0] and t + takes_frame <= end[1]:
            for score, steps in walk(s + 1, t + takes_frame):
                yield float(px[s, t]) + score, (("x", s, t), *steps)

    return list(walk(*begin))


@pytest.mark.parametrize("takes_frame", [0, 1], ids=["regular", "modified"])
@pytest.mark.parametrize(("num_symbols", "num_frames"), [(3, 4), (0, 3), (2, 2), (4, 1), (1, 5)])
def test_equals_the_sum_over_all_paths(takes_frame, num_symbols, num_frames):
    px = torch.randn(6, num_symbols, num_frames + 1 - takes_frame, dtype=torch.float64)
    py = torch.randn(6, num_symbols + 1, num_frames, dtype=torch.float64)
    px[torch.rand_like(px) < 0.1] = -math.inf
    s = torch.randint(0, num_symbols + 1, (6, 2)).sort(dim=1).values
    t = torch.randint(0, num_frames + 1, (6, 2)).sort(dim=1).values
    boundary = torch.stack([s, t], dim=2).flatten(1)
    boundary[:3] = torch.tensor([0, 0, num_symbols, num_frames])
    scores, (px_grad, py_grad) = mutual_information_recursion(px, py, boundary, return_grad=True)

    for item, (s_begin, t_begin, s_end, t_end) in enumerate(boundary.tolist()):
        expected = {"x": torch.zeros_like(px[0]), "y": torch.zeros_like(py[0])}
        paths = all_paths(px[item], py[item], (s_begin, t_begin), (s_end, t_end))
        total = sum(math.exp(score) for score, _ in paths)
        for score, steps in paths:
            for kind, row, column in steps:
                expected[kind][row, column] += math.exp(score) / total if total else 0.0
        torch.testing.assert_close(scores[item].exp(), torch.tensor(total, dtype=torch.float64))
        torch.testing.assert_close(px_grad[item], expected["x"])
        torch.testing.assert_close(py_grad[item], expected["y"])


@pytest.mark.parametrize("takes_frame", [0, 1], ids=["regular", "modified"])
def test_gradient_is_the_derivative(takes_frame):
    px = torch.randn(2, 3, 6 - takes_frame, dtype=torch.float64, requires_grad=True)
    py = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    boundary = torch.tensor([[0, 0, 3, 5], [1, 1, 2, 4]])
    assert torch.autograd.gradcheck(lambda x, y: mutual_information_recursion(x, y, boundary), (px, py))


def test_long_lattices_keep_their_precision_in_float32():
    px, py = torch.randn(2, 120, 601) - 6, torch.randn(2, 121, 600) - 3
    single, (px_grad, _) = mutual_information_recursion(px, py, return_grad=True)
    double, (px_grad_double, _) = mutual_information_recursion(px.double(), py.double(), return_grad=True)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
    # Variables of some 2000 nats carry 1e-4 of rounding each, and so do the shares of what arrives at a cell...
    torch.testing.assert_close(px_grad.double(), px_grad_double, rtol=0, atol=5e-4)
    # ... but they are shares: every symbol is emitted exactly once.
    torch.testing.assert_close(px_grad.sum(dim=2), torch.ones(2, 120), rtol=0, atol=1e-5)


def test_without_a_path_the_score_is_minus_infinity_and_nothing_else_is_touched():
    px = torch.randn(3, 4, 3, requires_grad=True)  # modified: 4 symbols need 4 frames
    py = torch.randn(3, 5, 3, requires_grad=True)
    boundary = torch.tensor([[0, 0, 4, 3], [0, 0, 2, 3], [0, 0, 3, 3]])
    scores = mutual_information_recursion(px, py, boundary)
    assert scores[0] == -math.inf
    assert torch.isfinite(scores[1:]).all()
    scores.sum().backward()
    assert not px.grad[0].any() and not py.grad[0].any()
    assert px.grad[1:].any() and torch.isfinite(px.grad).all() and torch.isfinite(py.grad).all()


@pytest.mark.parametrize(
    ("px_shape", "boundary", "complaint"),
    [
        ((2, 3, 7), None, "do not fit"),
        ((2, 2, 5), None, "do not fit"),
        ((2, 3, 6), [[0, 0, 3, 5]], "boundary must be"),
        ((2, 3, 6), [[0, 0, 3, 6], [0, 0, 3, 5]], "boundary must lie within"),
        ((2, 3, 6), [[0, 4, 3, 3], [0, 0, 3, 5]], "boundary must lie within"),
    ],
)
def test_shapes_that_do_not_fit_are_named(px_shape, boundary, complaint):
    boundary = None if boundary is None else torch.tensor(boundary)
    with pytest.raises(ValueError, match=complaint):
        mutual_information_recursion(torch.zeros(px_shape), torch.zeros(2, 4, 5), boundary)
