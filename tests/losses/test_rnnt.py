"""The transducer losses against a dense softmax, finite differences, and the promises about bad input."""

import inspect
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from rnnt_loss import peak_bytes

from couloir.errors import UserError
from couloir.losses import rnnt
from couloir.losses.rnnt_backend import rnnt_backend

KINDS = pytest.mark.parametrize("kind", rnnt.RNNT_TYPES)
BLANK = 2


def batch(dtype=torch.float64, num_items=2, num_frames=6, num_symbols=3, vocab=5):
    lm = torch.randn(num_items, num_symbols + 1, vocab, dtype=dtype)
    am = torch.randn(num_items, num_frames, vocab, dtype=dtype)
    symbols = torch.randint(0, vocab, (num_items, num_symbols))
    boundary = torch.tensor([[0, 0, num_symbols - i, num_frames - i] for i in range(num_items)])
    return lm, am, symbols, boundary


def dense_loss(logprobs, symbols, boundary, kind, delay_penalty=0.0):
    """Losses from (B, T, S+1, V) log-probabilities by a recursion over plain numbers, straight from the definitions."""
    losses = []
    for table, target, (_, _, num_symbols, num_frames) in zip(logprobs, symbols.tolist(), boundary.tolist()):
        alpha = {(0, 0): 0.0}
        for t in range(num_frames + 1):
            for s in range(num_symbols + 1):
                arrivals = [alpha[0, 0]] if s == t == 0 else []
                if t > 0:
                    arrivals.append(alpha[s, t - 1] + float(table[t - 1, s, BLANK]))
                frame = t if kind == "regular" else t - 1
                if s > 0 and 0 <= frame < num_frames:
                    emit = float(table[frame, s - 1, target[s - 1]])
                    emit += delay_penalty * ((num_frames - 1) / 2 - frame)
                    emit += float(table[frame, s, BLANK]) if kind == "constrained" else 0.0
                    arrivals.append(alpha[s - 1, t if kind == "regular" else t - 1] + emit)
                alpha[s, t] = float(torch.tensor(arrivals + [-math.inf], dtype=torch.float64).logsumexp(0))
        losses.append(-alpha[num_symbols, num_frames])
    return torch.tensor(losses, dtype=torch.float64)


@KINDS
@pytest.mark.parametrize("delay_penalty", [0.0, 0.25])
def test_all_losses_equal_the_definition(kind, delay_penalty):
    lm, am, symbols, boundary = batch(num_items=3)
    logits = torch.tanh(am[:, :, None] + lm[:, None])
    options = {"boundary": boundary, "rnnt_type": kind, "delay_penalty": delay_penalty, "reduction": "none"}

    joint = (am[:, :, None] + lm[:, None]).log_softmax(3)
    simple = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, **options)
    torch.testing.assert_close(simple, dense_loss(joint, symbols, boundary, kind, delay_penalty))

    rows = torch.arange(lm.shape[1]) <= boundary[:, 2:3]
    unigram = lm.softmax(2)[rows].mean(dim=0)
    mixed = 0.6 * joint + 0.25 * lm.log_softmax(2)[:, None] + 0.15 * (am + unigram.log()).log_softmax(2)[:, :, None]
    smoothed = rnnt.rnnt_loss_smoothed(lm, am, symbols, BLANK, 0.25, 0.15, **options)
    torch.testing.assert_close(smoothed, dense_loss(mixed, symbols, boundary, kind, delay_penalty))

    expected = dense_loss(logits.log_softmax(3), symbols, boundary, kind, delay_penalty)
    torch.testing.assert_close(rnnt.rnnt_loss(logits, symbols, BLANK, **options), expected)

    _, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, **options, return_grad=True)
    ranges = rnnt.get_rnnt_prune_ranges(*occupations, boundary, 2)
    in_band = torch.zeros(logits.shape[:3], dtype=torch.bool).scatter_(2, ranges, True)
    banded = logits.log_softmax(3).masked_fill(~in_band[..., None], -math.inf)
    pruned_am, pruned_lm = rnnt.do_rnnt_pruning(am, lm, ranges)
    pruned = rnnt.rnnt_loss_pruned(torch.tanh(pruned_am + pruned_lm), symbols, ranges, BLANK, **options)
    torch.testing.assert_close(pruned, dense_loss(banded, symbols, boundary, kind, delay_penalty))


@KINDS
def test_gradients_are_derivatives(kind):
    lm, am, symbols, boundary = batch(num_frames=4, vocab=4)
    lm.requires_grad_(), am.requires_grad_()
    options = {"boundary": boundary, "rnnt_type": kind, "delay_penalty": 0.1, "reduction": "none"}

    def smoothed(lm, am):
        return rnnt.rnnt_loss_smoothed(lm, am, symbols, BLANK, 0.2, 0.3, **options)

    assert torch.autograd.gradcheck(smoothed, (lm, am))
    logits = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: rnnt.rnnt_loss(z, symbols, BLANK, **options), (logits,))
    ranges = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 1]])[:, :, None] + torch.arange(2)

    def pruned(lm, am):
        sums = sum(rnnt.do_rnnt_pruning(am, lm, ranges))
        return rnnt.rnnt_loss_pruned(sums, symbols, ranges, BLANK, **options)

    assert torch.isfinite(pruned(lm, am)).all()
    assert torch.autograd.gradcheck(pruned, (lm, am))


def hat_log_probs(logits):
    """Variani et al. 2020, equation 5: the blank by itself, the symbols among themselves."""
    others = [v for v in range(logits.shape[-1]) if v != BLANK]
    parts = torch.empty_like(logits)
    parts[..., BLANK] = torch.sigmoid(logits[..., BLANK]).log()
    parts[..., others] = (1 - torch.sigmoid(logits[..., BLANK, None])).log() + logits[..., others].log_softmax(-1)
    return parts


@KINDS
def test_hat_loss_equals_the_definition(kind):
    lm, am, symbols, boundary = batch(num_items=3)
    symbols[0, 1], symbols[:, 2] = BLANK, torch.tensor([0, 1, 3])  # a blank in the target costs what a blank does
    options = {"boundary": boundary, "rnnt_type": kind, "delay_penalty": 0.1, "reduction": "none", "use_hat_loss": True}
    logits = 3 * torch.tanh(am[:, :, None] + lm[:, None])
    ours = rnnt.rnnt_loss(logits, symbols, BLANK, **options)
    torch.testing.assert_close(ours, dense_loss(hat_log_probs(logits), symbols, boundary, kind, 0.1))
    ranges = torch.tensor([[0, 0, 1, 1, 2, 2]] * 3)[:, :, None] + torch.arange(2)
    in_band = torch.zeros(logits.shape[:3], dtype=torch.bool).scatter_(2, ranges, True)
    banded = logits.gather(2, ranges[..., None].expand(-1, -1, -1, 5))
    pruned = rnnt.rnnt_loss_pruned(banded, symbols, ranges, BLANK, **options)
    expected = hat_log_probs(logits).masked_fill(~in_band[..., None], -math.inf)
    torch.testing.assert_close(pruned, dense_loss(expected, symbols, boundary, kind, 0.1))

    px, py = rnnt.get_rnnt_logprobs_joint(logits, symbols, BLANK, kind, boundary, True)
    # k2's way: the softmax loss of logits whose blank is raised by the normalizer of the others is the same.
    raised = logits.clone()
    raised[..., BLANK] += logits[..., [0, 1, 3, 4]].logsumexp(-1)
    for one, other in zip((px, py), rnnt.get_rnnt_logprobs_joint(raised, symbols, BLANK, kind, boundary)):
        torch.testing.assert_close(one, other)


@KINDS
def test_hat_gradients_are_derivatives(kind):
    logits = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    symbols, boundary = torch.tensor([[1, BLANK], [3, 0]]), torch.tensor([[0, 0, 2, 4], [0, 0, 1, 3]])
    options = {"boundary": boundary, "rnnt_type": kind, "reduction": "none", "use_hat_loss": True}
    assert torch.autograd.gradcheck(lambda z: rnnt.rnnt_loss(z, symbols, BLANK, **options), (logits,))
    ranges = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])[:, :, None] + torch.arange(2)
    pruned = lambda z: rnnt.rnnt_loss_pruned(z[:, :, :2], symbols, ranges, BLANK, **options)  # noqa: E731
    assert torch.autograd.gradcheck(pruned, (logits,))


def test_the_order_of_arguments_is_k2s():
    """Code for k2 that gives its arguments by position, as k2 1.23.4 and for HAT 1.24 have them."""
    joint, end = "logits symbols termination_symbol", "boundary rnnt_type delay_penalty reduction"
    for name, arguments in {
        "rnnt_loss_simple": f"lm am symbols termination_symbol {end} return_grad",
        "rnnt_loss_smoothed": f"lm am symbols termination_symbol lm_only_scale am_only_scale {end} return_grad",
        "rnnt_loss_pruned": f"logits symbols ranges termination_symbol {end} use_hat_loss",
        "rnnt_loss": f"{joint} {end}",
        "get_rnnt_logprobs": "lm am symbols termination_symbol rnnt_type boundary",
        "get_rnnt_logprobs_joint": f"{joint} rnnt_type boundary",
        "get_rnnt_logprobs_pruned": "logits symbols ranges termination_symbol boundary rnnt_type",
        "get_rnnt_logprobs_smoothed": "lm am symbols termination_symbol lm_only_scale am_only_scale boundary rnnt_type",
        "get_rnnt_prune_ranges": "px_grad py_grad boundary s_range",
        "do_rnnt_pruning": "am lm ranges",
        "mutual_information_recursion": "px py boundary return_grad",
    }.items():
        found = inspect.signature(getattr(rnnt, name)).parameters
        assert list(found)[: len(arguments.split())] == arguments.split(), name
        defaults = {
            "rnnt_type": "regular", "delay_penalty": 0.0, "reduction": "mean", "return_grad": False,
            "lm_only_scale": 0.1, "am_only_scale": 0.1, "use_hat_loss": False,
        }  # fmt: skip
        assert all(found[key].default == value for key, value in defaults.items() if key in found), name


def test_chunked_logits_equal_unchunked_ones(monkeypatch):
    lm, am, symbols, boundary = batch()
    whole = (am[:, :, None] + lm[:, None]).requires_grad_()
    rnnt.rnnt_loss(whole, symbols, BLANK, boundary).backward()
    monkeypatch.setattr("couloir.losses.rnnt_logprobs.CHUNK_ELEMENTS", 35)
    parts = whole.detach().clone().requires_grad_()
    rnnt.rnnt_loss(parts, symbols, BLANK, boundary).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


@KINDS
def test_padding_changes_nothing(kind):
    lm, am, symbols, _ = batch(num_items=1, num_symbols=4, num_frames=7)
    small = [lm[:, :4].clone().requires_grad_(), am[:, :6].clone().requires_grad_()]
    boundary = torch.tensor([[0, 0, 3, 6]])
    tight = rnnt.rnnt_loss_smoothed(*small, symbols[:, :3], BLANK, 0.25, 0.1, boundary, kind)
    tight.backward()
    padded = [lm.requires_grad_(), am.requires_grad_()]
    loss = rnnt.rnnt_loss_smoothed(*padded, symbols, BLANK, 0.25, 0.1, boundary, kind)
    loss.backward()
    torch.testing.assert_close(loss, tight)
    for outer, inner in zip(padded, small):
        torch.testing.assert_close(outer.grad[:, : inner.shape[1]], inner.grad)
        assert not outer.grad[:, inner.shape[1] :].any()


def test_disagreement_beyond_the_float32_exponent_is_exact():
    lm, am, symbols, boundary = batch(torch.float32)
    lm[..., 0] += 150.0  # lm and am each want a symbol that the other one rules out
    am[..., 1] += 150.0
    leaves = [lm.requires_grad_(), am.requires_grad_()]
    loss = rnnt.rnnt_loss_simple(*leaves, symbols, BLANK, boundary, reduction="none")
    loss.sum().backward()
    logits = (am[:, :, None] + lm[:, None]).detach().double()
    expected = dense_loss(logits.log_softmax(3), symbols, boundary, "regular")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert all(torch.isfinite(leaf.grad).all() and leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_under_autocast(dtype):
    lm, am, symbols, boundary = batch(torch.float32)
    ranges = torch.arange(4).expand(2, 6, 4)
    logits = (am[:, :, None] + lm[:, None]).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        pruned = rnnt.rnnt_loss_pruned(logits, symbols, ranges, BLANK, boundary)
        simple = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary)
    assert pruned.dtype == simple.dtype == torch.float32
    exact = logits.detach().float().requires_grad_()
    torch.testing.assert_close(pruned, rnnt.rnnt_loss(exact, symbols, BLANK, boundary))
    torch.testing.assert_close(simple, rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary))
    (pruned.backward(), rnnt.rnnt_loss(exact, symbols, BLANK, boundary).backward())
    assert logits.grad.dtype == dtype
    half = torch.finfo(dtype).eps / 2  # both are computed in float32, and one is rounded to this type
    torch.testing.assert_close(logits.grad.float(), exact.grad, rtol=half + 1e-5, atol=1e-6)


@KINDS
def test_items_without_a_path_leave_the_others_alone(kind):
    """Fewer frames than symbols: no path in the band of 3 rows, and none at all unless symbols take no time."""
    lm, am, symbols, _ = batch(torch.float32, num_items=3, num_frames=8, num_symbols=5)
    boundary = torch.tensor([[0, 0, 5, 8], [0, 0, 5, 2], [0, 0, 2, 0]])
    _, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, kind, return_grad=True)
    ranges = rnnt.get_rnnt_prune_ranges(*occupations, boundary, 3, widen=False)
    logits = torch.randn(3, 8, 3, 5, requires_grad=True)
    loss = rnnt.rnnt_loss_pruned(logits, symbols, ranges, BLANK, boundary, kind, reduction="none")
    assert torch.isinf(loss).tolist() == [False, True, True]
    loss.sum().backward()
    assert logits.grad[0].any() and not logits.grad[1:].any() and not logits.grad.isnan().any()


@KINDS
@pytest.mark.parametrize("s_range", [2, 3])
def test_the_reason_without_path_is_known_from_the_lengths(kind, s_range):
    lengths = torch.cartesian_prod(torch.arange(8), torch.arange(6))
    lm, am, symbols, _ = batch(num_items=len(lengths), num_frames=5, num_symbols=7)
    boundary = torch.nn.functional.pad(lengths, (2, 0))
    simple, occupations = rnnt.rnnt_loss_simple(
        lm, am, symbols, BLANK, boundary, kind, reduction="none", return_grad=True
    )
    ranges = rnnt.get_rnnt_prune_ranges(*occupations, boundary, s_range, widen=False)
    logits = torch.randn(*ranges.shape, 5)
    pruned = rnnt.rnnt_loss_pruned(logits, symbols, ranges, BLANK, boundary, kind, reduction="none")
    for (num_symbols, num_frames), whole, band in zip(lengths.tolist(), simple.tolist(), pruned.tolist()):
        if num_symbols or num_frames:  # the empty item is a path of length nought; it is still no utterance
            assert math.isinf(whole) == (rnnt.reason_without_path(num_symbols, num_frames, kind) is not None)
            reason = rnnt.reason_without_path(num_symbols, num_frames, kind, s_range)
            assert math.isinf(band) == (reason is not None), (num_symbols, num_frames)


def test_a_widened_band_holds_a_path_for_every_item():
    lm, am, symbols, _ = batch(num_items=2, num_frames=4, num_symbols=9)
    boundary = torch.tensor([[0, 0, 9, 3], [0, 0, 2, 4]])
    _, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, return_grad=True)
    ranges = rnnt.get_rnnt_prune_ranges(*occupations, boundary, 2)
    assert ranges.shape == (2, 4, 4)
    loss = rnnt.rnnt_loss_pruned(torch.randn(2, 4, 4, 5), symbols, ranges, BLANK, boundary, reduction="none")
    assert torch.isfinite(loss).all()


def least_rows(num_symbols, num_frames):
    """The least R with (R - 1) * T + 1 >= S + 1, found by counting: k2's condition for a path."""
    return next(rows for rows in range(1, 99) if (rows - 1) * num_frames + 1 >= num_symbols + 1)


@KINDS
@pytest.mark.parametrize("s_range", [1, 2, 3, 4, 9])
def test_the_pruned_loss_is_finite_wherever_the_whole_one_is(kind, s_range):
    """Every length up to 7 symbols in 1 to 5 frames, each by itself."""
    if kind == "constrained" and s_range == 1:
        pytest.skip("a row of one symbol holds no constrained path: it needs the blank of the next row")
    for num_symbols, num_frames in torch.cartesian_prod(torch.arange(8), torch.arange(1, 6)).tolist():
        lm, am, symbols, _ = batch(num_items=1, num_frames=num_frames, num_symbols=num_symbols)
        options = {"boundary": torch.tensor([[0, 0, num_symbols, num_frames]]), "rnnt_type": kind, "reduction": "none"}
        whole, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, **options, return_grad=True)
        ranges = rnnt.get_rnnt_prune_ranges(*occupations, options["boundary"], s_range)
        rows = max(s_range, least_rows(num_symbols, num_frames)) if kind == "regular" else s_range
        if num_symbols:
            assert ranges.shape[2] == min(rows, num_symbols + 1), (num_symbols, num_frames)
        pruned = rnnt.rnnt_loss_pruned(sum(rnnt.do_rnnt_pruning(am, lm, ranges)), symbols, ranges, BLANK, **options)
        assert math.isinf(whole) == math.isinf(pruned), (num_symbols, num_frames)
        assert pruned >= whole - 1e-9, (num_symbols, num_frames)  # a part of the paths
        if ranges.shape[2] == num_symbols + 1:
            torch.testing.assert_close(pruned, whole)


def test_an_item_without_frames_widens_no_band():
    lm, am, symbols, _ = batch(num_items=2, num_frames=4, num_symbols=9)
    boundary = torch.tensor([[0, 0, 9, 0], [0, 0, 3, 4]])
    _, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, return_grad=True)
    assert rnnt.get_rnnt_prune_ranges(*occupations, boundary, 2).shape == (2, 4, 2)


@pytest.mark.parametrize("kind", ["regular", "modified"])
def test_ranges_make_a_band_that_a_path_can_follow(kind):
    for _ in range(20):
        lm, am, symbols, _ = batch(torch.float32, num_items=4, num_frames=12, num_symbols=9)
        lm, am = 4 * lm, 4 * am
        boundary = torch.tensor([[0, 0, 9, 12], [0, 0, 4, 12], [0, 0, 9, 9], [0, 0, 0, 5]])
        _, occupations = rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, kind, return_grad=True)
        first = rnnt.get_rnnt_prune_ranges(*occupations, boundary, 4)[:, :, 0]
        step = first.diff(dim=1)
        assert (first[:, 0] == 0).all() and (step >= 0).all() and (step <= (3 if kind == "regular" else 1)).all()
        for item, (_, _, num_symbols, num_frames) in enumerate(boundary.tolist()):
            assert first[item, num_frames - 1] == max(num_symbols - 3, 0)


def test_words_for_what_does_not_fit():
    lm, am, symbols, boundary = batch()
    with pytest.raises(UserError, match="`symbols` must be from 0 to 4, but is 7; the tokenizer and the model"):
        rnnt.rnnt_loss_simple(lm, am, symbols.clamp(min=7), BLANK, boundary)
    with pytest.raises(ValueError, match="lm .* do not fit"):
        rnnt.rnnt_loss_simple(lm[:, 1:], am, symbols, BLANK, boundary)
    with pytest.raises(ValueError, match="logits .* do not fit"):
        rnnt.rnnt_loss(torch.zeros(2, 6, 3, 5), symbols, BLANK, boundary)
    with pytest.raises(ValueError, match="rnnt_type must be one of regular, modified, constrained"):
        rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, "strict")
    with pytest.raises(ValueError, match="reduction must be"):
        rnnt.rnnt_loss_simple(lm, am, symbols, BLANK, boundary, reduction="average")
    with pytest.raises(ValueError, match="termination_symbol"):
        rnnt.rnnt_loss_simple(lm, am, symbols, 5, boundary)
    with pytest.raises(ValueError, match="s_range must be at least 1"):
        rnnt.get_rnnt_prune_ranges(torch.zeros(2, 3, 7), torch.zeros(2, 4, 6), boundary, 0)


def test_backend_is_chosen_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", None)  # as if it were not installed
    assert rnnt_backend() is rnnt
    with pytest.raises(UserError, match="did you mean `fast_rnnt`"):
        rnnt_backend("fast_rnn")
    with pytest.raises(UserError, match="`--rnnt-backend` k2 cannot be imported"):
        rnnt_backend("k2")


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pruned", [True, False])
def test_peak_memory_is_as_stated(pruned, dtype, monkeypatch):
    """As the module's docstring has it; the peak is the backward pass's here."""
    chunk = 1 << 14
    monkeypatch.setattr("couloir.losses.rnnt_logprobs.CHUNK_ELEMENTS", chunk)
    num_items, num_frames, num_symbols, vocab = 4, 100, 40, 400
    symbols = torch.randint(1, vocab, (num_items, num_symbols))
    first = torch.linspace(0, num_symbols - 4, num_frames).long()
    ranges = (first[:, None] + torch.arange(5)).expand(num_items, -1, -1)
    rows = ranges.shape[2] if pruned else num_symbols + 1
    logits = torch.randn(num_items, num_frames, rows, vocab, dtype=dtype, requires_grad=True)

    def step():
        if pruned:
            rnnt.rnnt_loss_pruned(logits, symbols, ranges, BLANK).backward()
        else:
            rnnt.rnnt_loss(logits, symbols, BLANK).backward()

    cells = num_items * (num_frames + 1) * (num_symbols + 1)
    forward = 20 * cells + 8 * num_items * (num_frames + num_symbols) * (num_symbols + 2)
    backward = logits.numel() * logits.element_size() + 8 * cells
    # Per row of the band: its symbol and place (8 bytes each), its normalizer, two incoming gradients and their sum.
    stated = max(forward, backward) + 32 * num_items * num_frames * rows
    assert 0.95 * stated < peak_bytes(step) < stated + 2 * 4 * chunk
