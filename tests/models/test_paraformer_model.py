"""A Paraformer gives every recording what it gets alone; silence, sampler, precision, refusals."""

from dataclasses import replace

import pytest
import torch

from couloir.errors import UserError
from couloir.models.paraformer.config import PRESETS, ParaformerConfig
from couloir.models.paraformer.model import IGNORED, build_model, sentence_targets
from couloir.models.paraformer.sampler import glance, mix

SANM = ParaformerConfig(
    vocab_size=17,
    feature_dim=28,
    encoder_dim=16,
    encoder_feedforward_dim=32,
    num_encoder_layers=3,
    decoder_feedforward_dim=32,
    num_decoder_layers=3,
    num_decoder_attention_layers=2,
)
CONFORMER = replace(
    SANM,
    encoder="conformer",
    decoder="san",
    predictor="v1",
    feature_dim=80,
    encoder_kernel=7,
    num_decoder_attention_layers=3,
    predictor_bias=0,
    use_ctc=True,
)
CASES = {
    "sanm": SANM,
    "sanm_causal_memories": replace(SANM, encoder_shift=5, decoder_shift=5),
    "sanm_residual_first": replace(SANM, feature_dim=16, predictor="v1"),
    "conformer": CONFORMER,
    "conformer_sanm_decoder": replace(CONFORMER, decoder="sanm", predictor="v2"),
    "sanm_san_decoder": replace(SANM, decoder="san"),
}
LENS = [73, 101, 12, 40, 3]


def model_of(config, seed=3):
    """In eval mode, its weights moved so that every path carries signal and different recordings differ."""
    torch.manual_seed(seed)
    model = build_model(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "num_batches" not in name:
                value.add_(torch.rand_like(value) * 0.2 if "running_var" in name else torch.randn_like(value) * 0.1)
    return model


def features(config, seed=4):
    torch.manual_seed(seed)
    return torch.randn(len(LENS), max(LENS), config.feature_dim) * 2.0, torch.tensor(LENS)


def alone(model, feats, lens, item, padding="exact"):
    return model(feats[item : item + 1, : lens[item]], lens[item : item + 1], padding)


def same(one, other, item, of):
    """Item ``of`` of a batch is the only one of another."""
    frames, tokens = one.encoder_lens[of], one.token_num[of]
    assert other.encoder_lens[item] == frames
    assert other.token_num[item] == tokens
    # Values are of size 1 to 10, and float32 sums are taken in another order.
    close = {"atol": 3e-5, "rtol": 1e-5}
    torch.testing.assert_close(one.encoder_out[of, :frames], other.encoder_out[item, :frames], **close)
    alphas = one.prediction.alphas[of, : frames + 1], other.prediction.alphas[item, : frames + 1]
    torch.testing.assert_close(*alphas, **close)
    torch.testing.assert_close(one.log_probs[of, :tokens], other.log_probs[item, :tokens], **close)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_batch_equals_single(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    together = model(feats, lens)
    for item in range(len(LENS)):
        same(together, alone(model, feats, lens, item), 0, item)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_single_equals_the_references_single(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    for item in range(4):
        same(alone(model, feats, lens, item), alone(model, feats, lens, item, "reference"), 0, 0)


@pytest.mark.parametrize("name", ["sanm", "conformer"])
@torch.no_grad()
def test_neither_order_nor_what_lies_behind_an_item_matters(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    together = model(feats, lens)
    behind = torch.arange(120) >= lens[:, None]
    padded = torch.nn.functional.pad(feats, (0, 0, 0, 120 - feats.shape[1]))
    noisy = torch.where(behind.unsqueeze(-1), torch.randn_like(padded) * 50.0, padded)
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled = model(noisy[order], lens[order])
    for new, old in enumerate(order.tolist()):
        same(together, shuffled, new, old)


@pytest.mark.parametrize("name", ["sanm", "conformer"])
@torch.no_grad()
def test_reference_padding_is_there_and_leaks(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    leaking, exact = model(feats, lens, "reference"), model(feats, lens)
    assert (leaking.prediction.alphas[0] - exact.prediction.alphas[0]).abs().max() > 1e-3
    torch.testing.assert_close(leaking.log_probs[1], exact.log_probs[1][: leaking.log_probs.shape[1]])  # the longest


@pytest.mark.parametrize("name", ["sanm", "conformer"])
def test_training_is_by_item_too(name):
    model = model_of(CASES[name])
    feats, lens = features(CASES[name])
    tokens = [[5, 6, 7], [3], [4, 4], [9, 8, 7, 6, 5], []]
    together = model.teach(feats[:4], lens[:4], tokens[:4])
    for item in range(4):
        single = model.teach(feats[item : item + 1, : lens[item]], lens[item : item + 1], [tokens[item]])
        length = single.target_lens[0]
        torch.testing.assert_close(together.logits[item, :length], single.logits[0, :length], atol=3e-5, rtol=1e-5)
        torch.testing.assert_close(together.raw_sum[item], single.raw_sum[0])


@pytest.mark.parametrize("name", ["sanm", "conformer"])
@torch.no_grad()
def test_a_silent_recording_has_no_token_and_costs_the_others_nothing(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    model.predictor.cif_output.bias.fill_(-30.0)
    silent = model(feats, lens)
    assert silent.token_num.tolist() == [0] * 5
    assert torch.isfinite(silent.log_probs).all()
    model.predictor.cif_output.bias.fill_(0.0)
    lens = lens.clone()
    lens[3] = 0
    mixed = model(feats, lens)
    assert mixed.token_num[3] == 0
    assert torch.isfinite(mixed.log_probs).all()
    for item in (0, 1, 2):
        same(mixed, alone(model, feats, lens, item), 0, item)


@pytest.mark.parametrize("name", ["sanm", "conformer"])
def test_gradients_are_finite_beside_an_empty_recording_and_an_empty_transcript(name):
    model, (feats, lens) = model_of(CASES[name]).train(), features(CASES[name])
    lens[4] = 0
    lesson = model.teach(feats, lens, [[5, 6], [7], [8, 9], [], [3]], sampling_ratio=0.5)
    (lesson.logits[:, :2].square().sum() + lesson.raw_sum.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["sanm", "conformer"])
@torch.no_grad()
def test_eval_mode_never_draws(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    first = model(feats, lens)
    assert torch.equal(first.log_probs, model(feats, lens).log_probs)


@pytest.mark.parametrize("name", ["sanm", "conformer"])
@torch.no_grad()
def test_half_precision_counts_the_same_tokens(name):
    model, (feats, lens) = model_of(CASES[name]), features(CASES[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded, encoded_lens = model.encode(feats, lens)
        prediction = model.predictor(encoded, encoded_lens)
        log_probs = model(feats, lens).log_probs
    assert prediction.alphas.dtype == prediction.acoustic.dtype == log_probs.dtype == torch.float32
    exact = model.predictor(encoded.float(), encoded_lens)
    assert torch.equal(prediction.alphas, exact.alphas)


def test_positions_longer_than_the_table_and_tables_that_grow():
    model = model_of(CONFORMER)
    table = model.encoder.embed.out[1].table
    short, long = table(torch.zeros(1, 7, 1)), table(torch.zeros(1, 4000, 1))
    assert torch.equal(short, long[:7])
    # Row r stands for position 4999 - r, and in a longer input for the number of rows behind it.
    assert short[0, 0].item() == pytest.approx(torch.tensor(4999.0).sin().item(), abs=1e-6)
    beyond = table(torch.zeros(1, 5003, 1))
    assert beyond[5002].tolist() == pytest.approx([0.0, 1.0] * 8)
    assert torch.equal(table(torch.zeros(1, 7, 1)), short)


def test_as_many_positions_are_drawn_as_wrong_ones_times_the_ratio():
    torch.manual_seed(5)
    targets = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, IGNORED, IGNORED, IGNORED], [7, 7, 7, 7, 7, IGNORED]])
    predicted = torch.tensor([[1, 2, 3, 9, 9, 9], [9, 9, 9, 3, 3, 3], [7, 7, 7, 7, 7, 7]])
    lens = torch.tensor([6, 3, 5])
    drawn = torch.stack([glance(predicted, targets, lens, 0.75) for _ in range(2000)])
    assert (drawn.sum(dim=2) == torch.tensor([2, 2, 0])).all()  # floor(3 x 0.75), floor(3 x 0.75), nothing wrong
    shares = drawn.float().mean(dim=0)
    # Any valid position, right ones included; 5 standard deviations of 2000 draws.
    torch.testing.assert_close(shares[0], torch.full((6,), 2 / 6), atol=0.053, rtol=0)
    torch.testing.assert_close(shares[1, :3], torch.full((3,), 2 / 3), atol=0.053, rtol=0)
    assert shares[1, 3:].max() == 0.0


def test_what_is_drawn_is_the_embedding_and_nothing_stands_behind():
    acoustic, embedded = torch.ones(1, 4, 2), torch.full((1, 4, 2), 2.0)
    mixed = mix(acoustic, embedded, torch.tensor([[False, True, False, True]]), torch.tensor([3]))
    assert mixed[0, :, 0].tolist() == [1.0, 2.0, 1.0, 0.0]


def test_one_seed_gives_one_sample():
    model, (feats, lens) = model_of(SANM).train(), features(SANM)
    seen = []
    for _ in range(2):
        torch.manual_seed(8)
        seen.append(model.teach(feats, lens, [[5, 6, 7]] * 5, sampling_ratio=0.75).logits)
    assert torch.equal(*seen)


def test_shared_embeddings_are_the_output_layers_rows():
    model = model_of(replace(SANM, share_embedding=True))
    tokens = torch.tensor([[3, 5]])
    assert torch.equal(model.embed_tokens(tokens)[0], model.decoder.output_layer.weight[[3, 5]])


@pytest.mark.parametrize(
    ("bias", "ids", "lens"), [(1, [[4, 5, 2], [2, -1, -1]], [3, 1]), (0, [[4, 5], [-1, -1]], [2, 0])]
)
def test_targets(bias, ids, lens):
    padded, found = sentence_targets([[4, 5], []], bias, torch.device("cpu"))
    assert padded.tolist() == ids
    assert found.tolist() == lens


def test_rows_that_are_all_empty_have_a_column():
    assert sentence_targets([[]], 0, torch.device("cpu"))[0].tolist() == [[IGNORED]]


def test_without_a_ctc_head_there_are_no_ctc_scores():
    with pytest.raises(ValueError, match="no CTC head"):
        model_of(SANM).ctc_log_probs(torch.zeros(1, 2, 16))


def test_geometry_is_the_encoders():
    assert SANM.geometry.output_frames(17) == 17
    for frames, expected in ((60, 14), (41, 9), (7, 1), (6, 0)):
        assert CONFORMER.geometry.output_frames(frames) == expected


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"encoder": "blstm"}, "--encoder"),
        ({"predictor": "v4"}, "--predictor"),
        ({"num_encoder_layers": 0}, "--num-encoder-layers"),
        ({"encoder_dim": 30}, "--encoder-dim"),
        ({"encoder_kernel": 10}, "--encoder-kernel"),
        ({"decoder_shift": 9}, "--decoder-shift"),
        ({"num_decoder_attention_layers": 13}, "--num-decoder-attention-layers"),
        ({"feature_dim": 27}, "--feature-dim"),
        ({"predictor_bias": 2}, "--predictor-bias"),
        ({"dropout": 1.0}, "--dropout"),
        ({"tail_threshold": -0.1}, "--tail-threshold"),
    ],
)
def test_values_out_of_range_are_refused_by_their_flag(values, flag):
    with pytest.raises(UserError, match=f"`{flag}` must be"):
        replace(PRESETS["small"], **values)


@pytest.mark.parametrize("predictor", ["v2", "v3"])
@torch.no_grad()
def test_times_of_tokens_are_in_order_within_the_recording_and_by_item(predictor):
    config = replace(SANM, predictor=predictor)
    model, (feats, lens) = model_of(config), features(config)
    together = model(feats, lens)
    times = model.token_times(together)
    for item, count in enumerate(together.token_num.tolist()):
        single = model.token_times(alone(model, feats, lens, item))
        torch.testing.assert_close(times[item, :count], single[0, :count], atol=1e-3, rtol=0)
        assert (times[item, :count, 0] <= times[item, :count, 1]).all()
        assert torch.equal(times[item, 1:count, 0], times[item, : max(count - 1, 0), 1])
        assert times[item].max() <= LENS[item]


def test_weights_of_the_head_for_times_sum_up_to_the_tokens():
    model = model_of(replace(SANM, predictor="v3", time_factor=2))
    predictor, lens = model.predictor, torch.tensor([4, 2])
    weights = predictor.time_weights(torch.randn(2, 4, 16), lens, torch.tensor([3, 0]))
    assert weights.shape == (2, 8)
    assert weights.sum(dim=1).tolist() == pytest.approx([3.0, 0.0])
    assert weights[1, 4:].abs().max() == 0.0


@torch.no_grad()
def test_weights_of_the_head_for_times_by_a_recurrence_written_out():
    model = model_of(replace(SANM, predictor="v3"))
    predictor, lens = model.predictor, torch.tensor([5, 3])
    hidden = torch.randn(2, 5, 16)
    found = predictor.time_weights(hidden, lens, torch.tensor([4, 2]))
    net = predictor.blstm
    for item, length in enumerate(lens.tolist()):
        kernel = predictor.upsample_cnn.weight  # (D, D, 3)
        finer = torch.einsum("tc,cdk->tkd", hidden[item, :length], kernel).flatten(0, 1) + predictor.upsample_cnn.bias
        outs = []
        for suffix, frames in (("", finer), ("_reverse", finer.flip(0))):
            w, r, b, c = (getattr(net, f"{n}_l0{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            state, cell, states = torch.zeros(16), torch.zeros(16), []
            for frame in frames:
                i, f, g, o = (w @ frame + b + r @ state + c).chunk(4)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                state = o.sigmoid() * cell.tanh()
                states.append(state)
            outs.append(torch.stack(states if not suffix else states[::-1]))
        logits = torch.cat(outs, dim=1) @ predictor.cif_output2.weight[0] + predictor.cif_output2.bias
        alphas = (logits.sigmoid() * 0.25 - 0.01).clamp(min=0)
        expected = alphas * ((4, 2)[item] / alphas.sum())
        torch.testing.assert_close(found[item, : 3 * length], expected, atol=1e-5, rtol=0)
