"""Transducer losses against k2 1.23.4: log-probabilities, losses, occupations, ranges, gradients.

Losses agree within 1e-4 relative in float32 (seen: 6e-7) and 1e-9 in float64 (seen: 5e-16). Gradients are compared
with k2's float64 ones: 1e-4 of the array's largest value (of 1, if that is less) in float32, where log-probabilities of
some hundreds of nats leave an occupation with an error of 2e-5 (seen; k2 has twice that), and 1e-9 in float64.

k2 gives an item without a path an arbitrary gradient; ours is zero, so those items are left out here.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.losses import rnnt

GOLDEN = np.load(Path(__file__).parent / "data" / "k2" / "rnnt.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if not key.startswith("mi_")})
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class Case:
    def __init__(self, name, dtype):
        self.name, self.dtype, self.kind = name, dtype, name.split("_")[-1]
        self.symbols, self.boundary = self("symbols"), self("boundary")
        self.blank, self.s_range = int(self("termination_symbol")), int(self("s_range"))
        self.given_boundary = self.boundary if int(self("has_boundary")) else None
        self.delay_penalty = float(self("delay_penalty"))
        self.common = (self.blank, self.given_boundary, self.kind, self.delay_penalty, "none")

    def __call__(self, key):
        value = torch.from_numpy(GOLDEN[f"{self.name}/{key}"])
        return value.to(self.dtype) if value.is_floating_point() else value

    def leaves(self, *keys):
        return [self(key).requires_grad_() for key in keys]

    def wanted(self, key):
        double = key + "_f64"
        return self(double if f"{self.name}/{double}" in GOLDEN.files else key)

    def close(self, actual, key, items=slice(None)):
        expected = self.wanted(key)[items]
        scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        tolerance = LOSS_TOLERANCE[self.dtype] * scale
        torch.testing.assert_close(actual[items], expected, rtol=0, atol=tolerance, msg=lambda m: f"{key}: {m}")

    def close_log_probs(self, actual, key, vocab):
        """A sum of V exponentials, and six sums and logarithms of values up to the largest: (V + 6 M) u.

        k2's are float32 in both cases; ours add as much where they are float32, too.
        """
        expected = self(key)
        largest = max(expected[expected.isfinite()].abs().tolist(), default=0.0)
        atol = (1 + (self.dtype == torch.float32)) * (vocab + 6 * largest) * 2.0**-24
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol)

    def check_loss(self, loss, key):
        """Compare the losses; return which items have a path."""
        torch.testing.assert_close(loss, self.wanted(key), rtol=LOSS_TOLERANCE[self.dtype], atol=0)
        return torch.isfinite(loss)


@DTYPES
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("prefix", "lm_only", "am_only"), [("simple", 0, 0), ("sm25_00", 0.25, 0), ("sm25_10", 0.25, 0.1)]
)
def test_simple_and_smoothed(name, prefix, lm_only, am_only, dtype):
    case = Case(name, dtype)
    lm, am = case.leaves("lm", "am")
    loss, (px_grad, py_grad) = rnnt.rnnt_loss_smoothed(
        lm,
        am,
        case.symbols,
        case.blank,
        lm_only,
        am_only,
        *case.common[1:],
        return_grad=True,
        unigram_over_padding=True,
    )
    feasible = case.check_loss(loss, f"{prefix}_loss")
    loss.sum().backward()
    case.close(px_grad, f"{prefix}_px_grad", feasible)
    case.close(py_grad, f"{prefix}_py_grad", feasible)
    # The unigram couples the items of a batch: an item without a path spoils the others' gradient in k2.
    if am_only == 0 or feasible.all():
        case.close(lm.grad, f"{prefix}_lm_grad", feasible)
        case.close(am.grad, f"{prefix}_am_grad", feasible)
    assert not lm.grad.isnan().any()
    px, py = rnnt.get_rnnt_logprobs_smoothed(
        lm, am, case.symbols, case.blank, lm_only, am_only, case.given_boundary, case.kind, unigram_over_padding=True
    )
    case.close_log_probs(px, f"{prefix}_px", lm.shape[-1])
    case.close_log_probs(py, f"{prefix}_py", lm.shape[-1])


@pytest.mark.parametrize("name", CASES)
def test_ranges(name):
    case = Case(name, torch.float32)
    px_grad, py_grad = case("sm25_00_px_grad"), case("sm25_00_py_grad")
    arguments = (px_grad, py_grad, case.boundary, case.s_range)
    # The arrays are of k2 1.23, which does not widen yet where an item has too many symbols per frame.
    assert torch.equal(rnnt.get_rnnt_prune_ranges(*arguments, widen=False), case("ranges"))
    widened = rnnt.get_rnnt_prune_ranges(*arguments)
    assert torch.equal(widened, case("ranges")) == (name != "infeasible_pruned_regular")


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_pruned(name, dtype):
    case = Case(name, dtype)
    enc, dec, weight, bias = case.leaves("enc", "dec", "W", "b")
    am, lm = rnnt.do_rnnt_pruning(enc, dec, case("ranges"))
    logits = torch.tanh(am + lm) @ weight.T + bias
    logits.retain_grad()
    loss = rnnt.rnnt_loss_pruned(logits, case.symbols, case("ranges"), *case.common)
    feasible = case.check_loss(loss, "pruned_loss")
    loss.sum().backward()
    for leaf, key in [(logits, "logits"), (enc, "enc"), (dec, "dec")]:
        case.close(leaf.grad, f"pruned_{key}_grad", feasible)
        assert not leaf.grad[~feasible].any()
    if feasible.all():
        case.close(weight.grad, "pruned_W_grad")
        case.close(bias.grad, "pruned_b_grad")
    px, py = rnnt.get_rnnt_logprobs_pruned(
        logits, case.symbols, case("ranges"), case.blank, case.given_boundary, case.kind
    )
    case.close_log_probs(px, "pruned_px", logits.shape[-1])
    case.close_log_probs(py, "pruned_py", logits.shape[-1])


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_unpruned(name, dtype):
    case = Case(name, dtype)
    enc, dec, weight, bias = case.leaves("enc", "dec", "W", "b")
    logits = torch.tanh(enc[:, :, None] + dec[:, None]) @ weight.T + bias
    loss = rnnt.rnnt_loss(logits, case.symbols, *case.common)
    feasible = case.check_loss(loss, "full_loss")
    loss.sum().backward()
    case.close(enc.grad, "full_enc_grad", feasible)
    case.close(dec.grad, "full_dec_grad", feasible)
    if feasible.all():
        case.close(weight.grad, "full_W_grad")
        case.close(bias.grad, "full_b_grad")


@DTYPES
@pytest.mark.parametrize("name", ["basic_regular", "no_boundary_modified", "T1_constrained"])
def test_mean(name, dtype):
    case = Case(name, dtype)
    arguments = (case("lm"), case("am"), case.symbols, *case.common[:-1])
    case.check_loss(rnnt.rnnt_loss_simple(*arguments), "simple_loss_mean")
    total = rnnt.rnnt_loss_simple(*arguments, reduction="sum")
    torch.testing.assert_close(total, rnnt.rnnt_loss_simple(*arguments, reduction="none").sum())


@DTYPES
@pytest.mark.parametrize("kind", ["regular", "modified"])
def test_recursion_with_begin_boundaries(kind, dtype):
    def read(key):
        value = torch.from_numpy(GOLDEN[f"mi_{kind}/{key}"])
        return value.to(dtype) if value.is_floating_point() else value

    px, py = read("px").requires_grad_(), read("py").requires_grad_()
    scores, occupations = rnnt.mutual_information_recursion(px, py, read("boundary"), return_grad=True)
    (scores * read("weights")).sum().backward()
    # Gradients are up to 3 in size; float32 noise is 2e-6.
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    suffix = "" if dtype == torch.float32 else "_f64"
    torch.testing.assert_close(scores, read("scores" + suffix), **tolerance)
    unbounded = rnnt.mutual_information_recursion(px, py)
    torch.testing.assert_close(unbounded, read("scores_no_boundary" + suffix), **tolerance)
    for name, grad, occupation in [("px", px.grad, occupations[0]), ("py", py.grad, occupations[1])]:
        torch.testing.assert_close(occupation, read(f"{name}_grad_occupation_f64"), **tolerance)
        torch.testing.assert_close(grad, read(f"{name}_grad_weighted_f64"), **tolerance)
        assert torch.equal(occupation == 0, read(f"{name}_grad_occupation_f64") == 0)
