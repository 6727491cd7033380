"""The Triton kernels against the torch form: on a GPU where there is one, else under Triton's interpreter."""

import importlib.util

import pytest
import torch

from couloir.losses import kernels, rnnt, rnnt_lattice, rnnt_logprobs

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
NEG_INF = float("-inf")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]
on_gpu = pytest.mark.skipif(not CUDA, reason="no GPU")


def ragged(num_items, num_symbols, num_frames):
    """Boundaries (B, 4): all of the lattice, an empty stretch of it, and random ones."""
    s = torch.randint(0, num_symbols + 1, (num_items, 2)).sort(dim=1).values
    t = torch.randint(0, num_frames + 1, (num_items, 2)).sort(dim=1).values
    boundary = torch.stack([s, t], dim=2).flatten(1)
    boundary[0] = torch.tensor([0, 0, num_symbols, num_frames])
    boundary[1, 2:] = boundary[1, :2]
    return boundary


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("takes_frame", [0, 1], ids=["regular", "modified"])
@pytest.mark.parametrize(("num_symbols", "num_frames"), [(4, 7), (0, 5), (6, 6), (1, 1), (5, 9), (3, 2)])
def test_lattice(num_symbols, num_frames, takes_frame, dtype):
    from couloir.losses.kernels.lattice import walk

    px = torch.randn(4, num_symbols, num_frames + 1 - takes_frame, dtype=dtype)
    py = torch.randn(4, num_symbols + 1, num_frames, dtype=dtype)
    px[torch.rand_like(px) < 0.1] = NEG_INF
    py[torch.rand_like(py) < 0.1] = NEG_INF
    boundary = ragged(4, num_symbols, num_frames)
    on_device = [tensor.to(DEVICE) for tensor in (px, py, boundary)]
    scores, grads = walk(*on_device, True)
    torch.testing.assert_close(
        (scores.cpu(), tuple(grad.cpu() for grad in grads)), rnnt_lattice.walk(px, py, boundary, True)
    )
    alone, nothing = walk(*on_device, False)
    assert nothing is None
    torch.testing.assert_close(alone, scores)


@pytest.mark.parametrize(
    ("num_rows", "vocab", "dtype"),
    [
        (10, 7, torch.float32),
        (4, 5000, torch.float32),
        (9, 30, torch.bfloat16),
        (9, 33, torch.float64),
        (3, 1, torch.float32),
    ],
)
@pytest.mark.parametrize("hat", [False, True])
def test_logits(num_rows, vocab, dtype, hat):
    from couloir.losses.kernels import logits as on_device

    vocab = max(vocab, 1 + hat)  # HAT needs a symbol beside the blank
    rows = (3 * torch.randn(num_rows, vocab)).to(dtype)
    rows[0, vocab // 2 + hat :] = NEG_INF if vocab > 1 else 0.0  # forbidden symbols
    symbols = torch.randint(0, vocab, (num_rows,))
    symbols[1] = 0  # the blank among the targets
    expected = rnnt_logprobs._row_logprobs(rows, symbols, 0, hat)
    actual = on_device.row_logprobs(rows.to(DEVICE), symbols.to(DEVICE), 0, hat)
    torch.testing.assert_close([each.cpu() for each in actual], list(expected))

    incoming = torch.rand(2, num_rows, dtype=expected[0].dtype)
    incoming[:, 2] = 0.0  # a row that no path uses
    arguments = (rows, symbols, 0, expected[2], *incoming, hat)
    moved = [each.to(DEVICE) if isinstance(each, torch.Tensor) else each for each in arguments]
    # Where float32 differs in its last bits, bfloat16 may round the other way: one step, 2^-7 at the most.
    step = {"rtol": 2.0**-7, "atol": 1e-5} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(on_device.row_gradients(*moved).cpu(), rnnt_logprobs._row_gradients(*arguments), **step)


def test_a_symbol_outside_the_vocabulary_gives_nan():
    from couloir.losses.kernels.logits import row_logprobs

    by_symbol, by_blank, _ = row_logprobs(torch.randn(3, 4, device=DEVICE), torch.tensor([3, 4, -1], device=DEVICE), 0)
    assert by_symbol.isnan().tolist() == [False, True, True]
    assert not by_blank.isnan().any()


@pytest.mark.parametrize("kind", rnnt.RNNT_TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_losses_through_the_kernels_equal_those_without(kind, dtype, monkeypatch):
    num_items, num_frames, num_symbols, vocab = (5, 70, 30, 130) if CUDA else (3, 6, 3, 5)
    lm, am = torch.randn(num_items, num_symbols + 1, vocab), torch.randn(num_items, num_frames, vocab)
    symbols, boundary = torch.randint(1, vocab, (num_items, num_symbols)), ragged(num_items, num_symbols, num_frames)
    boundary[:, :2] = 0

    def run(device, through_kernels):
        monkeypatch.setattr(kernels, "usable", lambda tensor: through_kernels)
        leaves = [lm.to(device).requires_grad_(), am.to(device).requires_grad_()]
        target, bounds = symbols.to(device), boundary.to(device)
        simple, occupations = rnnt.rnnt_loss_smoothed(
            *leaves, target, 0, 0.25, 0.1, bounds, kind, reduction="none", return_grad=True
        )
        # The same ranges for both: a tie among rows may fall either way.
        ranges = rnnt.get_rnnt_prune_ranges(*(each.cpu() for each in occupations), boundary, 5).to(device)
        logits = torch.tanh(sum(rnnt.do_rnnt_pruning(leaves[1], leaves[0], ranges))).to(dtype)
        pruned = rnnt.rnnt_loss_pruned(logits, target, ranges, 0, bounds, kind, reduction="none")
        torch.where(torch.isfinite(pruned), simple + pruned, 0).sum().backward()
        return [each.detach().cpu() for each in (simple, pruned, leaves[0].grad, leaves[1].grad)]

    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(run(DEVICE, True), run("cpu", False), rtol=tolerance, atol=tolerance)


@on_gpu
def test_no_float32_copy_of_the_logits_on_the_gpu():
    logits = torch.randn(4, 200, 51, 500, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    symbols = torch.randint(1, 500, (4, 50), device="cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    rnnt.rnnt_loss(logits, symbols, 0).backward()
    # The gradient in bfloat16 is 2 bytes per logit; a float32 copy would be 4 more.
    assert torch.cuda.max_memory_allocated() - before < 3 * logits.numel()
