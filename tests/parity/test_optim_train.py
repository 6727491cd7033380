"""Twenty steps of training a CTC Zipformer with ScaledAdam under Eden, against icefall's."""

import numpy as np
import pytest
import torch
from zipformer2_golden import DATA, golden_model

from couloir.losses.ctc import ctc_loss
from couloir.optim.eden import Eden
from couloir.optim.scaled_adam import ScaledAdam

TRAINED = ("encoder_embed.", "encoder.", "ctc_output.")


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "optim_train.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def train(golden, loss_scale):
    """(losses, learning rates, model, optimizer, scheduler) after the golden's twenty steps."""
    model, _ = golden_model("nc")
    named = [(name, p) for name, p in model.named_parameters() if name.startswith(TRAINED)]
    assert [name for name, _ in named] == list(golden["param_names"])
    optimizer = ScaledAdam(named, lr=float(golden["base_lr"]), clipping_scale=float(golden["clipping_scale"]))
    scheduler = Eden(optimizer, 7500, 3.5, warmup_batches=500, warmup_start=0.1)
    scheduler.step_epoch(0)
    losses, rates = [], []
    for step in range(1, 21):
        i = (step - 1) % 4
        x, x_lens = torch.from_numpy(golden["x"][i]), torch.from_numpy(golden["x_lens"][i])
        targets = [row[:n].tolist() for row, n in zip(golden["targets"][i], golden["target_lens"][i])]
        encoded, lens = model.forward_encoder(x, x_lens, padding="reference")
        loss = ctc_loss(model.ctc_log_probs(encoded), lens, targets)
        (loss * float(loss_scale[step - 1])).backward()
        scheduler.step_batch(step)
        rates.append(scheduler.last_lr())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, rates, model, optimizer, scheduler


@pytest.mark.parametrize("case", ["", pytest.param("clipcase/", marks=pytest.mark.slow)])
def test_twenty_steps_equal_icefall(golden, case):
    scale = golden["clipcase/loss_scale"] if case else np.ones(20)
    losses, rates, model, optimizer, scheduler = train(golden, scale)
    # The bounds of the golden arrays' README; float32 against float64 of the reference moves losses by 3e-6.
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-12)
    np.testing.assert_allclose(losses, golden[f"{case}loss_f64"], rtol=1e-4)
    named = dict(model.named_parameters())
    finals = [key for key in golden if key.startswith(f"{case}final_f64/")]
    assert finals
    for key in finals:
        np.testing.assert_allclose(named[key.split("final_f64/")[1]].detach().numpy(), golden[key], atol=1e-5)

    state = optimizer.state_dict()["state"]
    assert len(state) == int(golden["num_state_entries"])
    clipping = next(entry for entry in state.values() if "model_norms" in entry)
    prefix = case or "clip/"
    np.testing.assert_allclose(clipping["model_norms"].numpy(), golden[f"{prefix}model_norms_f64"], rtol=1e-3)
    np.testing.assert_allclose(clipping["model_norm_threshold"], golden[f"{prefix}threshold_f64"], rtol=1e-3)
    assert clipping["num_clipped"] == int(golden[f"{prefix}num_clipped"])
    assert [scheduler.state_dict()[key] for key in ("batch", "epoch")] == list(golden["scheduler_state"])
