"""``--rnnt-backend``: the objective through another module with k2's functions."""

import random
import sys
import types
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_objective import HEADS, batch, objective

from couloir.errors import UserError
from couloir.losses import rnnt

END = "boundary rnnt_type delay_penalty reduction"
K2 = {
    "rnnt_loss_smoothed": f"lm am symbols termination_symbol lm_only_scale am_only_scale {END} return_grad",
    "rnnt_loss_pruned": f"logits symbols ranges termination_symbol {END}",
    "get_rnnt_prune_ranges": "px_grad py_grad boundary s_range",
    "do_rnnt_pruning": "am lm ranges",
}
"""The functions that training needs, with the arguments that k2 1.23.4 has for them."""


def stand_in(name, called):
    """A module with k2's functions and no more arguments than k2's, whose losses take float32 alone."""

    def restricted(function, known):
        def call(*args, **kwargs):
            called.add(function)
            arguments = dict(zip(known, args)) | kwargs
            assert len(args) <= len(known) and set(arguments) <= set(known), arguments.keys()
            floating = [v for v in arguments.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
            assert "loss" not in function or all(value.dtype == torch.float32 for value in floating)
            return getattr(rnnt, function)(**arguments)

        return call

    module = types.ModuleType(name)
    for function, arguments in K2.items():
        setattr(module, function, restricted(function, arguments.split()))
    return module


def trained_with(backend, half=False, **loss):
    """The loss of a batch and the gradient of the encoder's first layer, its augmentation and dropout the same."""
    ours = objective(HEADS[0], rnnt_backend=backend, attention_decoder_loss_scale=0.6, **loss).train()
    torch.manual_seed(5)
    random.seed(5)  # the Balancers draw from it
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        total, stats = ours(batch(), 500)
    total.backward()
    return total.item(), {k: float(v) for k, v in stats.items()}, ours.model.encoder_embed.conv["0"].weight.grad


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("backend", ["k2", "fast_rnnt"])
def test_the_named_module_computes_the_losses(monkeypatch, backend, half):
    called = set()
    monkeypatch.setitem(sys.modules, backend, stand_in(backend, called))
    theirs, own = trained_with(backend, half), trained_with("couloir", half)
    assert called == set(K2)
    # In half precision the logits of a foreign module are widened before, ours are not: an ulp of bfloat16 apart.
    tolerance = 2e-2 if half else 1e-6
    assert theirs[0] == pytest.approx(own[0], rel=tolerance) and theirs[1] == pytest.approx(own[1], rel=tolerance)
    assert float((theirs[2] - own[2]).norm() / own[2].norm()) < tolerance


def test_a_module_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "k2", None)
    with pytest.raises(UserError, match="`--rnnt-backend` k2 cannot be imported"):
        trained_with("k2")


def test_fast_rnnt_gives_the_same_loss_and_gradient():
    """The real one, where it is installed: k2's own kernels."""
    pytest.importorskip("fast_rnnt", reason="fast_rnnt is not installed", exc_type=ImportError)
    theirs, own = trained_with("fast_rnnt"), trained_with("couloir")
    assert theirs[0] == pytest.approx(own[0], rel=1e-4) and theirs[1] == pytest.approx(own[1], rel=1e-4)
    assert float((theirs[2] - own[2]).norm() / own[2].norm()) < 1e-3
