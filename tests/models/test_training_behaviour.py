"""Training-time behaviour: schedules, state, repeatability, autocast, tracing, unused parameters, bad sizes."""

import copy
import random
import re

import pytest
import torch

from couloir.errors import UserError
from couloir.models.common import activations
from couloir.models.common.activations import activate, activate_linear, activation_values
from couloir.models.common.balancer import Balancer
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import PROBABILITIES, Whiten
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.activations import SWOOSH_L, SWOOSH_R
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model, get_training_state, set_batch_count, set_training_state
from couloir.models.zipformer.norm import BiasNorm
from couloir.models.zipformer.stack import layer_skip_schedule
from couloir.models.zipformer.streaming import initial_states

SIZES = {
    "num_encoder_layers": (1, 2),
    "downsampling_factor": (1, 2),
    "feedforward_dim": (48,),
    "num_heads": (2,),
    "encoder_dim": (32, 48),
    "query_head_dim": (8,),
    "value_head_dim": (6,),
    "pos_dim": 16,
    "encoder_unmasked_dim": (24, 32),
    "cnn_module_kernel": (7,),
    "frontend_channels": (4, 8, 16),
}
HEADS = HeadsConfig(use_ctc=True, use_transducer=False, vocab_size=30)
FEATS, LENS = torch.randn(3, 120, 80, generator=torch.Generator().manual_seed(5)), torch.tensor([120, 100, 64])


def make(**overrides):
    return build_model(ZipformerConfig(**{**SIZES, **overrides}), HEADS)


def train_step(model):
    """Gradients of one training step, by name."""
    model.zero_grad(set_to_none=True)
    encoded, lens = model.forward_encoder(FEATS, LENS)
    mask = torch.arange(encoded.shape[1]) < lens[:, None]
    model.ctc_log_probs(encoded)[mask].square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_schedule_is_piecewise_linear_and_default_in_eval():
    value = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0), default=7.0)
    assert value() == 7.0
    for count, expected in ((-5, 0.2), (0, 0.2), (2000, 0.125), (4000, 0.05), (10000, 0.025), (16000, 0), (1e9, 0)):
        value.set_batch_count(count)
        assert value() == pytest.approx(expected)
        assert value.eval()() == 7.0
        value.train()


def test_layer_skip_windows_follow_one_another():
    schedules = [layer_skip_schedule(1, 6, layer, 2, factor=4) for layer in range(2)]
    assert [s.points[0] for s in schedules] == [(pytest.approx(8000 / 7), 0.5), (pytest.approx(10000 / 7), 0.5)]
    assert schedules[1].points[1] == (pytest.approx(12000 / 7), pytest.approx(0.07))


def test_training_state_makes_the_next_steps_equal():
    model = make()
    set_batch_count(model, 300.0)
    for _ in range(6):
        train_step(model)
    resumed = make()
    resumed.load_state_dict(model.state_dict())
    set_training_state(resumed, copy.deepcopy(get_training_state(model)))
    states = torch.get_rng_state(), random.getstate()
    first = [train_step(model) for _ in range(3)]
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    second = [train_step(resumed) for _ in range(3)]
    assert get_training_state(model) == get_training_state(resumed)
    for a, b in zip(first, second):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_whiten_probability_follows_its_metric():
    module = Whiten(1, limit=1.5, grad_scale=0.01)
    assert module.prob == PROBABILITIES[1]
    white, x = torch.randn(4000, 4), torch.randn(4000, 4)
    module.prob = 1.0
    module(white.requires_grad_()).sum().backward()
    assert module.prob == PROBABILITIES[0]
    module.prob = 1.0
    module((x @ torch.diag(torch.tensor([9.0, 1, 1, 1]))).requires_grad_()).sum().backward()
    assert module.prob == PROBABILITIES[1]


def test_identity_in_eval_mode():
    x, grad = torch.randn(50, 6).requires_grad_(), torch.randn(50, 6)
    for module in (Balancer(0.4, 0.6, 5.0, 6.0, prob=1.0).eval(), Whiten(1, 1.0, grad_scale=0.1).eval()):
        module.prob = 1.0
        x.grad = None
        module(x).backward(grad)
        assert torch.equal(x.grad, grad)


def test_a_scale_of_every_layer_that_checkpoints_hold_is_used_by_nothing():
    model = make()
    set_batch_count(model, 20000.0)
    with_gradient = set(train_step(model))
    without = {name for name, _ in model.named_parameters()} - with_gradient
    assert len(without) == 3 and all(re.search(r"layers\.\d+\.bypass_scale$", name) for name in without)


@pytest.mark.parametrize("kind", [SWOOSH_L, SWOOSH_R])
def test_swoosh_gradients(kind):
    x = torch.tensor([[-120.0, -3.0, 0.0], [2.0, 60.0, 500.0]], dtype=torch.float64).requires_grad_()
    reference = activation_values(x, kind)
    (expected,) = torch.autograd.grad(reference.sum(), x)
    single = x.detach().float().requires_grad_()
    y = activate(single, kind)
    y.sum().backward()
    torch.testing.assert_close(y.double(), reference, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(single.grad.double(), expected, atol=1e-6, rtol=1e-6)


def test_fused_operations_pass_gradcheck():
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    scale = torch.rand(1, 2, 5, dtype=torch.float64)
    inputs = (x, weight.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, w, b: activate_linear(a, w, b, SWOOSH_L, scale), inputs)
    norm = BiasNorm(5).double().eval()
    assert torch.autograd.gradcheck(norm, (x,))


def test_recomputing_as_on_a_gpu_changes_no_gradient(monkeypatch):
    x, weight, bias = torch.randn(7, 2, 5), torch.randn(4, 5), torch.randn(4)
    scale, grad, found = torch.rand(1, 2, 5), torch.randn(7, 2, 4), []
    for recompute in (False, True):
        monkeypatch.setattr(activations, "_saves_memory", lambda _, recompute=recompute: recompute)
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        found.append(torch.autograd.grad(activate_linear(*inputs, SWOOSH_L, scale), inputs, grad))
    for kept, recomputed in zip(*found):
        torch.testing.assert_close(kept, recomputed, atol=1e-6, rtol=1e-5)


def test_bfloat16_autocast_trains():
    model = make()
    set_batch_count(model, 0.0)
    torch.manual_seed(0)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        encoded, _ = model.forward_encoder(FEATS, LENS)
        loss = model.ctc_log_probs(encoded).float().square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_bfloat16_autocast_evaluates(causal):
    """As in validation, where no gradient is wanted and other branches are taken than in training."""
    model = make(causal=causal, chunk_size=(16,), left_context_frames=(32,)).eval()
    expected, _ = model.forward_encoder(FEATS, LENS)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        encoded, _ = model.forward_encoder(FEATS, LENS)
    assert (encoded.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["exact", "reference"])
@torch.no_grad()
def test_traced_encoder_follows_other_shapes(padding):
    model = make().eval()

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, feats, lens):
            return self.model.forward_encoder(feats, lens, padding)

    traced = torch.jit.trace(Encoder(), (FEATS[:1, :101], torch.tensor([101])))
    for batch, frames in ((1, 101), (3, 120), (2, 57)):
        lens = torch.full((batch,), frames) - torch.arange(batch) * 9
        ours, theirs = (
            model.forward_encoder(FEATS[:batch, :frames], lens, padding),
            traced(FEATS[:batch, :frames], lens),
        )
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.slow
@torch.no_grad()
def test_traced_streaming_encoder_follows_the_batch():
    model = make(causal=True, chunk_size=(8,), left_context_frames=(32,)).eval()

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, feats, *states):
            return self.model.streaming_forward(feats, list(states))

    config = model.zipformer_config
    traced = torch.jit.trace(Step(), (FEATS[:1, :29], *initial_states(config, 1, 32)))
    states = initial_states(config, 3, 32)
    theirs_states = states
    for i in range(3):
        chunk = FEATS[:, 16 * i : 16 * i + 29]
        ours, states = model.streaming_forward(chunk, states)
        theirs, theirs_states = traced(chunk, *theirs_states)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"encoder_dim": (32, 48, 64)}, "--encoder-dim"),
        ({"encoder_unmasked_dim": (64,)}, "--encoder-unmasked-dim"),
        ({"cnn_module_kernel": (8,)}, "--cnn-module-kernel"),
        ({"causal": True, "chunk_size": (7,)}, "--chunk-size"),
        ({"causal": True, "chunk_size": (2,), "left_context_frames": (2,)}, "--left-context-frames"),
        ({"output_downsampling_factor": 3}, "--output-downsampling-factor"),
    ],
)
def test_contradicting_sizes_are_refused_by_name(values, word):
    with pytest.raises(UserError, match=word):
        ZipformerConfig(**{**SIZES, **values})


def test_heads_are_checked():
    with pytest.raises(UserError, match="--use-ctc"):
        HeadsConfig(use_transducer=False)
    with pytest.raises(UserError, match="--decoder-dim"):
        HeadsConfig(decoder_dim=6)


def test_attention_decoder_ignores_padding():
    heads = HeadsConfig(
        use_transducer=False,
        use_ctc=True,
        use_attention_decoder=True,
        vocab_size=30,
        attention_decoder_dim=16,
        attention_decoder_num_layers=2,
        attention_decoder_attention_dim=16,
        attention_decoder_num_heads=2,
        attention_decoder_feedforward_dim=32,
    )
    model = build_model(ZipformerConfig(**SIZES), heads).eval()
    encoded, lens = torch.randn(2, 20, 48), torch.tensor([20, 11])
    tokens = [[3, 4, 5, 6], [7, 8]]
    together = model.attention_decoder(encoded, lens, tokens)
    alone = sum(model.attention_decoder(encoded[i : i + 1, : lens[i]], lens[i : i + 1], [tokens[i]]) for i in range(2))
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
