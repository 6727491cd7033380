"""CTC and consistency sums and their gradient against icefall's, on the same log-probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.losses.cr_ctc import consistency, cr_ctc
from couloir.losses.ctc import ctc_loss

GOLDEN = np.load(Path(__file__).parent / "data" / "crctc.npz", allow_pickle=False)


@pytest.fixture()
def log_probs() -> torch.Tensor:
    return torch.from_numpy(GOLDEN["logp"]).requires_grad_()


LENS, TARGETS, TARGET_LENS = (torch.from_numpy(GOLDEN[key]) for key in ("lens", "targets", "target_lens"))


def test_sums(log_probs):
    assert ctc_loss(log_probs, LENS, TARGETS, TARGET_LENS).item() == pytest.approx(float(GOLDEN["ctc_sum"]), rel=1e-6)
    assert consistency(log_probs, LENS).item() == pytest.approx(float(GOLDEN["cr_sum"]), rel=1e-6)


def test_both_terms_from_the_targets_of_one_view(log_probs):
    ctc, consistent = cr_ctc(log_probs, LENS, TARGETS[: int(TARGET_LENS[:2].sum())], TARGET_LENS[:2])
    assert 2 * ctc.item() == pytest.approx(float(GOLDEN["ctc_sum"]), rel=1e-6)
    assert 2 * consistent.item() == pytest.approx(float(GOLDEN["cr_sum"]), rel=1e-6)


def test_gradient(log_probs):
    loss = 0.5 * ctc_loss(log_probs, LENS, TARGETS, TARGET_LENS) + 0.1 * consistency(log_probs, LENS)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    # Observed 1e-7; sums of up to 20 float32 terms of size 1.
    assert np.abs(gradient.numpy() - GOLDEN["grad_half_ctc_plus_0p1cr"]).max() < 1e-6
