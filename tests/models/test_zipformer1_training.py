"""The first generation in training: schedules, draws, regularisers, memory, resuming, autocast."""

import copy
import gc
import random
from collections import Counter

import numpy as np
import pytest
import torch
from zipformer1_models import HEADS, SIZES, features, small_model

from couloir.models.common import activations
from couloir.models.common.activations import ActivationDropoutLinear, activate, activate_linear
from couloir.models.common.schedule import ScheduledFloat, set_batch_count
from couloir.models.common.state import get_training_state, set_training_state
from couloir.models.zipformer1.activations import DOUBLE_SWISH
from couloir.models.zipformer1.attention import whiten
from couloir.models.zipformer1.balancer import ActivationBalancer
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.encoder import Zipformer
from couloir.models.zipformer1.model import build_model
from couloir.models.zipformer1.modules import PoolingModule
from couloir.models.zipformer1.norm import BasicNorm
from couloir.models.zipformer1.positional import RelPositionalEncoding
from couloir.models.zipformer1.resampling import AttentionDownsample, SimpleCombiner, SimpleUpsample
from couloir.models.zipformer1.stack import layer_drop_schedule, layers_to_drop

FEATS, LENS = features(3, 120), torch.tensor([120, 100, 64])


def train_step(model):
    """Gradients of one training step, by name."""
    model.zero_grad(set_to_none=True)
    encoded, lens = model.forward_encoder(FEATS, LENS)
    mask = torch.arange(encoded.shape[1]) < lens[:, None]
    joined = model.joiner(encoded[:, :, None], model.decoder(torch.tensor([[0, 3, 4]] * 3))[:, None])
    (joined[mask].square().mean() + model.simple_am_proj(encoded)[mask].square().mean()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- schedules and draws


def test_windows_of_layer_drop():
    """Of five stacks: 667-1333, 1333-2000, ... 3333-4000, split among the layers."""
    for stack in range(5):
        first, last = layer_drop_schedule(stack, 5, 0, 4), layer_drop_schedule(stack, 5, 3, 4)
        assert first.points[2][0] == pytest.approx(4000 * (stack + 1) / 6)
        assert last.points[-1][0] == pytest.approx(4000 * (stack + 2) / 6)


@pytest.mark.parametrize("batch", [0.0, 0.5, 700.0, 750.0, 800.0, 833.3, 834.0, 5000.0])
def test_layer_drop_by_the_rule(batch):
    begin, end = 4000 / 6, 4000 / 6 * 1.25
    if batch == 0:
        expected = 0.0
    elif batch < begin:
        expected = 0.5
    elif batch > end:
        expected = 0.05
    else:
        expected = 0.5 + (batch - begin) / end * (0.05 - 0.5)
    schedule = layer_drop_schedule(0, 5, 0, 4)
    schedule.set_batch_count(batch)
    assert schedule() == pytest.approx(expected)


def test_as_many_layers_are_dropped_as_their_rates_say_and_by_their_rates():
    rates, draws = [0.5, 0.25, 0.0, 0.5], 4000
    random.seed(1)
    dropped = [layers_to_drop(rates, random.Random(seed)) for seed in range(draws)]
    assert {len(layers) for layers in dropped} == {1, 2}
    assert np.mean([len(layers) for layers in dropped]) == pytest.approx(1.25, abs=0.03)
    counts = Counter(layer for layers in dropped for layer in layers)
    assert counts[2] == 0 and counts[0] == pytest.approx(counts[3], rel=0.1) and counts[1] < 0.7 * counts[0]


def test_processes_drop_equally_many_layers():
    for seed in range(20):
        numbers = set()
        for process in range(4):
            random.seed(process)
            numbers.add(len(layers_to_drop([0.3, 0.4, 0.5], random.Random(seed))))
        assert len(numbers) == 1
    assert layers_to_drop([0.0, 0.0], random.Random(0)) == set()


def test_chunks_drawn_in_training():
    """With --short-chunk-size 50 and the published stacks: 8 to 48 frames, and a quarter of full context."""
    sizes = {"encoder_dims": (8,), "encoder_unmasked_dims": (8,), "attention_dims": (16,), "feedforward_dims": (8,)}
    encoder = Zipformer(Zipformer1Config(num_encoder_layers=(1,), **sizes)).train()
    random.seed(2)
    drawn = Counter(encoder.chunk_and_left_context(800) for _ in range(4000))
    assert set(drawn) == {(-1, -1), *((8 * c, 4) for c in range(1, 7))}
    assert drawn[-1, -1] / 4000 == pytest.approx(0.25, abs=0.03)
    assert encoder.eval().chunk_and_left_context(800) == (16, 4)


@pytest.mark.parametrize("frames", [9, 15, 38])
def test_short_utterances_train(frames):
    model = small_model().train()
    encoded, lens = model.forward_encoder(features(2, frames), torch.tensor([frames, 9]))
    encoded.sum().backward()
    assert lens.tolist() == [((frames - 7) // 2 + 1) // 2, 1]


def test_feature_masks_agree_between_stacks():
    torch.manual_seed(0)
    encoder = small_model().train().encoder
    fine, coarse, middle = encoder.feature_masks(torch.zeros(37, 50, 16))
    assert fine.shape == (37, 50, 16) and coarse.shape == (10, 50, 24) and middle.shape == (19, 50, 24)
    assert fine[..., :12].min() == coarse[..., :16].min() == middle[..., :16].min() == 1
    keep = coarse[..., 16]
    assert 0.8 < keep.mean() < 0.9
    assert torch.equal(fine[..., 12], keep.repeat_interleave(4, 0)[:37])
    assert torch.equal(middle[..., 23], keep.repeat_interleave(2, 0)[:19])
    assert encoder.eval().feature_masks(torch.zeros(37, 50, 16)) == [None] * 3


def test_modules_are_skipped_at_first_and_not_later(monkeypatch):
    model = small_model(num_encoder_layers=(1,)).train()
    layer, ran = model.encoder.encoders[0].layers[0], set()
    random.seed(3)
    for batch, expected in ((0.0, 0.8), (1000.0, 0.9), (2000.0, 1.0)):
        set_batch_count(model, batch)
        kept = sum(layer._keeps() for _ in range(4000)) / 4000
        assert kept == pytest.approx(expected, abs=0.02 if expected < 1 else 0)
    for name, module in layer.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    every = {name for name, module in layer.named_children() if not isinstance(module, ScheduledFloat)}
    skippable = {"pooling", "self_attn", "conv_module1", "conv_module2"}
    x, pos = torch.randn(8, 2, 16), RelPositionalEncoding(16)(torch.zeros(8, 1, 16))
    for keeps, expected in ((False, every - skippable), (True, every)):
        monkeypatch.setattr(layer, "_keeps", lambda keeps=keeps: keeps)
        ran.clear()
        layer(x, pos)
        assert ran & every == expected


# --- modules by brute force


def test_positions_are_sines_of_how_far_back_the_source_is():
    encoding = RelPositionalEncoding(6).eval()
    for left, frames in ((0, 5), (7, 3), (0, 1), (64, 16), (2, 4)):
        found = encoding(torch.zeros(frames, 2, 6), left)
        assert found.shape == (left + 2 * frames - 1, 6)
        for row, values in enumerate(found):
            back = left + frames - 1 - row
            angles = [back * 10000.0 ** (-2 * k / 6) for k in range(3)]
            expected = np.stack([np.sin(angles), np.cos(angles)], axis=1).ravel()
            np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)


def test_a_table_of_positions_made_in_inference_or_in_half_precision_serves_training():
    encoding, linear = RelPositionalEncoding(4), torch.nn.Linear(4, 2)
    with torch.inference_mode():
        half = encoding.eval()(torch.zeros(7, 1, 4, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    full = encoding.eval()(torch.zeros(7, 1, 4))
    torch.testing.assert_close(full, RelPositionalEncoding(4).eval()(torch.zeros(7, 1, 4)), atol=0, rtol=0)
    linear(encoding.train()(torch.zeros(7, 1, 4))).sum().backward()


@torch.no_grad()
def test_pooling_is_the_mean_of_the_frames_so_far():
    module, x = PoolingModule(6), torch.randn(9, 2, 6)
    lens = torch.tensor([9, 5])
    pooled = module(x, (torch.arange(9)[:, None] >= lens)[..., None])
    for item in range(2):
        for t in range(9):
            expected = module.proj(x[: t + 1, item].mean(0)) if t < lens[item] else torch.zeros(6)
            torch.testing.assert_close(pooled[t, item], expected, atol=1e-6, rtol=1e-5)
    count, mean, parts = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 6), []
    for chunk in x.split(4):
        part, count, mean = module.streaming_forward(chunk, count, mean)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts), module(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mean, x.mean(0), atol=1e-6, rtol=1e-5)
    assert count.tolist() == [9, 9] and count.dtype == torch.int64


@pytest.mark.parametrize("width", [5, 8])
@torch.no_grad()
def test_down_sampling_frame_by_frame(width):
    module, x, lens = AttentionDownsample(5, width, 3), torch.randn(10, 2, 5), torch.tensor([10, 7])
    merged = module(x, lens)
    assert merged.shape == (4, 2, width)
    for item, length in enumerate(lens.tolist()):
        for group in range(-(-length // 3)):
            frames = [x[min(3 * group + j, length - 1), item] for j in range(3)]
            weights = torch.tensor([float(frame @ module.query) for frame in frames]).softmax(0)
            expected = sum(w * frame for w, frame in zip(weights, frames))
            if width > 5:
                expected = torch.cat([expected, module.extra_proj(torch.cat(frames))])
            torch.testing.assert_close(merged[group, item], expected, atol=1e-6, rtol=1e-5)


def test_scores_of_down_sampling_beyond_ten_are_pulled_back():
    module, x = AttentionDownsample(1, 1, 1), torch.tensor([[[-11.0]], [[3.0]], [[12.0]]], requires_grad=True)
    with torch.no_grad():
        module.query.fill_(1.0)
    for training, expected in ((True, [-1e-4, 0.0, 1e-4]), (False, [0.0, 0.0, 0.0])):
        x.grad = None
        (module.train(training)(x) * 0.0).sum().backward()
        torch.testing.assert_close(x.grad.flatten(), torch.tensor(expected))


@torch.no_grad()
def test_up_sampling_and_combining():
    up, x = SimpleUpsample(4, 3), torch.randn(5, 2, 4)
    y = up(x)
    for t in range(15):
        torch.testing.assert_close(y[t], x[t // 3] + up.bias[t % 3])
    combine = SimpleCombiner(2, 4).eval()
    combine.weight1.fill_(0.3)
    narrow, wide = torch.randn(3, 2, 2), torch.randn(3, 2, 4)
    expected = 0.7 * wide
    expected[..., :2] += 0.3 * narrow
    torch.testing.assert_close(combine(narrow, wide), expected)


# --- regularisers


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_abs": 10.0, "max_positive": 1.0}, {"min_positive": 0.45, "max_positive": 0.55, "max_abs": 0.5}],
)
def test_balancer_by_the_rule(limits, monkeypatch):
    """grad - |grad| (sign + scale (1[x > 0] - 0.5)), in numpy."""
    monkeypatch.setattr(random, "random", lambda: 0.0)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(7, 5, 6)) * [0.01, 1, 1, 3, 0.1, 1] + [0, 3, -3, 0, 0.05, 0]
    grad = rng.normal(size=x.shape)
    module = ActivationBalancer(**limits)
    module.calls, prob = 2000, 0.5**1.5
    tensor = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    module(tensor).backward(torch.tensor(grad, dtype=torch.float32))
    assert module.calls == 2001

    low, high, least, most = module.min_positive, module.max_positive, module.min_abs, module.max_abs
    positive, magnitude = (x > 0).mean((0, 1)), np.abs(x).mean((0, 1))
    sign = np.clip((low - positive) * 0.01 / prob / low, 0, 0.04)
    if high < 1:
        sign = sign - np.clip((positive - high) * 0.01 / prob / (1 - high), 0, 0.04)
    scale = np.clip((least - magnitude) * 0.02 / prob / least, 0, 0.04)
    scale = scale - np.clip((magnitude - most) * 0.02 / prob / most, 0, 0.04)
    expected = grad - np.abs(grad) * (sign + scale * ((x > 0) - 0.5))
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - grad).max() > 1e-3


def test_the_balancer_acts_less_and_less_and_not_in_eval_mode():
    module = ActivationBalancer(min_prob=0.2)
    for calls, expected in ((0, 0.5), (4000, 0.25), (8000, 0.2), (10**6, 0.2)):
        module.calls = calls
        assert module.prob == pytest.approx(expected)
    x = torch.randn(5, 3)
    assert module(x) is x and module.calls == 10**6
    assert module.eval()(x.requires_grad_()).equal(x) and module.calls == 10**6


def test_calls_are_in_the_state_dict():
    module = ActivationBalancer()
    for _ in range(5):
        module(torch.randn(2, 3, requires_grad=True))
    state = module.state_dict()
    assert state["count"].dtype == torch.int64 and state["count"].shape == () and state["count"] == 5
    other = ActivationBalancer()
    other.load_state_dict(state)
    assert other.calls == 5
    assert copy.deepcopy(module).calls == 5


def test_one_active_whitening_in_four_moves_its_probability():
    module, moved = whiten(1, 1.5, grad_scale=0.01), 0
    random.seed(5)
    for _ in range(400):
        module.prob = 1.0
        module(torch.randn(50, 4, requires_grad=True)).sum().backward()
        moved += module.prob != 1.0
    assert moved / 400 == pytest.approx(0.25, abs=0.06)


# --- fused operations


def test_double_swish_and_its_derivative():
    """x / (1 + e^(1 - x)); its slope lies within the bounds -0.043637 and 1.2 that the reference's 8 bits span."""
    x = torch.linspace(-40, 40, 16001, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    y = activate(x, DOUBLE_SWISH)
    y.sum().backward()
    values = x.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), values / (1 + np.exp(1 - values)), atol=1e-12)
    numeric = np.gradient(y.detach().numpy().ravel(), values.ravel())
    np.testing.assert_allclose(x.grad.numpy().ravel()[1:-1], numeric[1:-1], atol=1e-5)
    assert x.grad.min() == pytest.approx(-0.043637, abs=1e-6) and 1.19 < x.grad.max() <= 1.2
    for extreme in (-1e4, 1e4):
        z = torch.full((1, 1), extreme, requires_grad=True)
        activate(z, DOUBLE_SWISH).sum().backward()
        assert z.grad.item() == (extreme > 0)


@pytest.mark.parametrize("training", [False, True])
def test_fused_operations_pass_gradcheck(training):
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    keep, gain = (torch.rand(3, 2, 5) > 0.3, 1.5) if training else (None, 1.0)
    inputs = (x, weight.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, w, b: activate_linear(a, w, b, DOUBLE_SWISH, keep, gain), inputs)
    norm = BasicNorm().double().eval()
    assert torch.autograd.gradcheck(lambda a, _: norm(a), (x, norm.eps))


def test_recomputing_as_on_a_gpu_changes_no_gradient(monkeypatch):
    x, weight, bias = torch.randn(7, 2, 5), torch.randn(4, 5), torch.randn(4)
    keep, grad, found = torch.rand(7, 2, 5) > 0.2, torch.randn(7, 2, 4), []
    for recompute in (False, True):
        monkeypatch.setattr(activations, "_saves_memory", lambda _, recompute=recompute: recompute)
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = activate_linear(*inputs, DOUBLE_SWISH, keep, 1.25)
        found.append([y.detach(), *torch.autograd.grad(y, inputs, grad)])
    for kept, recomputed in zip(*found):
        torch.testing.assert_close(kept, recomputed, atol=1e-6, rtol=1e-5)


def test_a_feed_forward_keeps_five_bytes_a_value_where_memory_counts(monkeypatch):
    """Its input, which backward needs in any case, and a byte for dropout; autograd would keep 16 and a mask."""
    monkeypatch.setattr(activations, "_saves_memory", lambda _: True)
    module, kept = ActivationDropoutLinear(50, 4, DOUBLE_SWISH, 1.0, shared_over_time=False), Counter()

    def pack(tensor):
        kept[tuple(tensor.shape)] += tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(torch.randn(20, 3, 50, requires_grad=True), 0.1)
    assert kept[20, 3, 50] == 5


def test_dropout_of_single_values():
    torch.manual_seed(6)
    module = ActivationDropoutLinear(400, 400, DOUBLE_SWISH, 1.0, shared_over_time=False)
    with torch.no_grad():
        module.weight.copy_(torch.eye(400))
        module.bias.zero_()
    x = torch.randn(10, 5, 400, requires_grad=True)
    y, plain = module(x, 0.1).detach(), activate(x.detach(), DOUBLE_SWISH)
    kept = y != 0
    assert kept.float().mean() == pytest.approx(0.9, abs=0.01)
    torch.testing.assert_close(y[kept], plain[kept] / 0.9)
    assert kept[:, 0, 0].sum() > 0 or kept.float().mean(0).std() > 0  # not one draw for all frames


# --- the whole model


def test_training_state_makes_the_next_steps_equal():
    model = small_model().train()
    set_batch_count(model, 300.0)
    for _ in range(4):
        train_step(model)
    resumed = build_model(Zipformer1Config(**SIZES), HEADS).train()
    resumed.load_state_dict(model.state_dict())
    set_training_state(resumed, copy.deepcopy(get_training_state(model)))
    states = torch.get_rng_state(), random.getstate()
    first = [train_step(model) for _ in range(3)]
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    second = [train_step(resumed) for _ in range(3)]
    assert get_training_state(model) == get_training_state(resumed)
    assert model.encoder.encoder_embed.conv["1"].calls == 7
    for a, b in zip(first, second):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_state_of_before_there_were_counts_is_read():
    model = small_model()
    state = get_training_state(model)
    del state["calls"]
    set_training_state(model, state)


def test_bfloat16_autocast_trains_and_evaluates():
    model = small_model().train()
    set_batch_count(model, 5000.0)
    torch.manual_seed(0)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        grads = train_step(model)
    assert grads and all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads.values())
    with torch.no_grad():
        expected, _ = model.eval().forward_encoder(FEATS, LENS)
        with torch.amp.autocast("cpu", dtype=torch.bfloat16):
            encoded, _ = model.forward_encoder(FEATS, LENS)
    assert (encoded.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_every_parameter_learns_once_nothing_is_skipped(monkeypatch):
    model = small_model().train()
    set_batch_count(model, 1e6)
    monkeypatch.setattr("couloir.models.zipformer1.stack.layers_to_drop", lambda *_: set())
    monkeypatch.setattr(random, "random", lambda: 0.99)
    grads = train_step(model)
    missing = {name for name, _ in model.named_parameters()} - set(grads)
    assert missing == {"simple_lm_proj.weight", "simple_lm_proj.bias"}  # no loss of this test uses it


def test_layers_of_a_stack_start_equal_and_small():
    torch.manual_seed(7)
    model = build_model(Zipformer1Config(**SIZES), HEADS)
    first, second = model.encoder.encoders[1].encoder.layers
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert first.bypass_scale == 0.5 and first.norm_final.eps.exp().item() == pytest.approx(0.25)
    bound = 1 / 40**0.5  # of torch's uniform initial weights, 40 inputs
    assert 0.9 * bound < first.feed_forward1.out_proj.weight.abs().max() / 0.01 <= bound
    assert first.feed_forward1.out_proj.bias.abs().max() <= 0.1 * 0.01
    assert model.encoder.skip_modules["2"].weight1 == 0


@pytest.mark.slow
def test_tensors_of_a_step_are_freed():
    model = small_model().train()
    set_batch_count(model, 100.0)

    def living():
        update = [module.prob for module in model.modules() if hasattr(module, "pending")]
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects()) + 0 * len(update)

    for _ in range(8):
        train_step(model)
    model.zero_grad(set_to_none=True)
    before = living()
    for _ in range(8):
        train_step(model)
    model.zero_grad(set_to_none=True)
    assert living() - before < 5
