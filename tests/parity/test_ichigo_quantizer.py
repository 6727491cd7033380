"""The quantizer against ichigo-asr 0.1.1 with vector-quantize-pytorch 1.6.22 (data/README.md)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ichigo_golden import arrays, features, golden_quantizer, golden_whisper, values, wave

from couloir.models.whisper.greedy import GreedyOptions, decode_greedily, language_probs
from couloir.models.whisper.special import special_tokens

# What a float32 implementation should meet; ours is 2e-6 from them.
ATOL, DECODED_ATOL = 1.0e-5, 2.0e-5


@pytest.fixture(scope="module")
def whisper():
    return golden_whisper().requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(whisper):
    feats, lens = features(wave())
    return whisper.encode(feats, lens)[0], lens


@torch.no_grad()
def test_stages(encoded):
    stored, model = arrays(), golden_quantizer()
    out, _ = encoded
    seen = []
    model.mlp.register_forward_hook(lambda _, __, y: seen.append(y))
    means = out.unflatten(1, (750, 2)).mean(dim=2)
    vectors = model.project(out)
    np.testing.assert_allclose(means[0, :50], stored["down_0_49"], atol=ATOL)
    np.testing.assert_allclose((means + seen[0])[0, :50], stored["pre_vq_0_49"], atol=ATOL)
    np.testing.assert_allclose(vectors[0, :50], stored["z_0_49"], atol=ATOL)
    assert vectors.std().item() == pytest.approx(0.249756, abs=2e-6)


@torch.no_grad()
def test_tokens_and_features_of_them(encoded):
    """The tokens exactly; of all the decoded window also its mean, spread and the frames around the padding."""
    stored, model = arrays(), golden_quantizer()
    out, lens = encoded
    tokens = model.quantize(out)
    assert tokens.shape == (1, 750)
    tokens = tokens[:, : int(model.token_lens(lens))]
    assert tokens.tolist() == stored["stoks"].tolist()
    decoded = model.dequantize(tokens)
    assert decoded.shape == (1, 1500, 128)
    np.testing.assert_allclose(decoded[0, :100], stored["deq_0_99"], atol=DECODED_ATOL)
    np.testing.assert_allclose(decoded[0, -10:], stored["deq_tail"], atol=DECODED_ATOL)
    assert decoded.mean().item() == pytest.approx(0.001906, abs=2e-6)
    assert decoded.std().item() == pytest.approx(1.007268, abs=2e-6)
    np.testing.assert_allclose(decoded[0, 99, :4], [-1.333713, -0.486308, 0.335782, 0.457702], atol=DECODED_ATOL)
    np.testing.assert_allclose(decoded[0, 100, :4], [-1.851522, 0.164244, 0.633301, 1.073817], atol=DECODED_ATOL)


def test_greedy_text_of_tokens(whisper, encoded):
    """Under OpenAI's rules, with times; and the likeliest language of the decoded features."""
    out, lens = encoded
    model = golden_quantizer()
    with torch.no_grad():
        decoded = model.dequantize(model.quantize(out)[:, : int(model.token_lens(lens))])
    special = special_tokens(51865)
    (found,) = decode_greedily(whisper.decoder, decoded, special, GreedyOptions(language=50259, max_tokens=12))
    assert found.tokens == [50382] + [24882] * 11
    assert found.average == pytest.approx(-1.49459, abs=1e-4)
    assert found.no_speech == pytest.approx(1.163e-3, abs=1e-6)
    probs = language_probs(whisper.decoder, decoded, special)[0]
    assert (int(probs.argmax()) + special.first_language) == 50337
    np.testing.assert_allclose(probs.topk(3).values, [0.21226, 0.17235, 0.16359], atol=1e-4)


SPECIAL = [50258, 50278, 50359, 50363]
TEXTS = [[1000, 2000, 3000], [400, 500, 600, 700, 800]]


def training_batch(length=16):
    """Two clips of 3 and 5.5 s in windows, whose features share one greatest value as in the reference."""
    waves = [wave(seconds, name) for seconds, name in ((3.0, "wav0"), (5.5, "wav1"))]
    feats = [features(np.pad(w / np.abs(w).max(), (0, 480000 - len(w))))[0] for w in waves]
    feats = torch.cat(feats)
    feats = feats.clamp(min=feats.max() - 2)
    speech = torch.arange(1500) < torch.tensor([[150], [275]])
    inputs, targets = torch.full((2, length), 50257), torch.full((2, length), -100)
    for row, text in enumerate(TEXTS):
        tokens = torch.tensor(SPECIAL + text)
        inputs[row, : len(tokens)] = tokens
        targets[row, : len(tokens)] = torch.tensor([*tokens[1:].tolist(), 50257])
    return feats, speech, inputs, targets


def losses(whisper, model, length=16, masked=True):
    """Cross-entropy, and the reference's divergence, to which padded places contribute a uniform teacher."""
    feats, speech, inputs, targets = training_batch(length)
    with torch.no_grad():
        encoded, _ = whisper.encode(feats, torch.tensor([3000, 3000]))
        teacher = whisper.decoder(inputs, encoded).masked_fill((targets == -100)[..., None], 0.0)
    found = model(encoded, speech if masked else None)
    student = whisper.decoder(inputs, found.features)
    entropy = F.cross_entropy(student.transpose(1, 2), targets, ignore_index=-100)
    divergence = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    return entropy, divergence, found


def test_training_step(whisper):
    """Losses, gradient norms and the codebook after a step of phase 1, whose numbers are given to six places or so."""
    model = golden_quantizer(mask_code=-1).train()
    entropy, divergence, found = losses(whisper, model)
    total = entropy + divergence + found.commitment
    assert entropy.item() == pytest.approx(16.076567, abs=1e-4)
    assert divergence.item() == pytest.approx(79.261215, rel=1e-5)
    assert found.commitment.item() == pytest.approx(0.02923234, abs=1e-6)
    assert total.item() == pytest.approx(95.367020, rel=1e-5)
    total.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    expected = {
        "mlp.0.weight": 23.43365,
        "rq.layers.0.project_in.weight": 48.90741,
        "rq.layers.0.project_out.weight": 45.65340,
        "positional_embedding.weight": 3.16979,
        "_out_blocks.0.attn.query.weight": 38.59571,
    }
    for name, norm in expected.items():
        assert norms[name] == pytest.approx(norm, rel=1e-3), name
    assert np.sqrt(sum(norm**2 for norm in norms.values())) == pytest.approx(263.29452, rel=1e-3)
    book = model.vector_quantizer.codebook
    counts = (book.cluster_size[0] - 0.9) / 0.1
    assert len(found.ids.unique()) == int((counts > 0.5).sum()) == 176
    assert book.cluster_size.sum().item() == pytest.approx(2454.89966, abs=1e-2)
    top = book.cluster_size[0].topk(3)
    assert top.indices.tolist() == [834, 1401, 1893]
    np.testing.assert_allclose(top.values, [14.3, 10.2, 9.1], atol=1e-4)
    np.testing.assert_allclose(book.embed[0, 834, :4], [-0.351650, 0.117244, 0.279833, -0.092538], atol=ATOL)


@torch.no_grad()
def test_losses_in_eval_mode(whisper):
    entropy, divergence, found = losses(whisper, golden_quantizer(mask_code=-1))
    assert entropy.item() == pytest.approx(16.774918, abs=1e-4)
    assert divergence.item() == pytest.approx(78.866852, rel=1e-5)
    assert found.commitment.item() == 0.0


@torch.no_grad()
def test_padding_of_texts_counts_in_the_reference(whisper):
    """64 places in place of 16."""
    _, divergence, _ = losses(whisper, golden_quantizer(mask_code=-1).train(), length=64)
    assert divergence.item() == pytest.approx(339.802063, rel=1e-5)


def test_the_rule_of_the_weights():
    np.testing.assert_allclose((values("codebook", 3) + 1) / 2, [0.13492414, 0.11316929, 0.26152223], atol=1e-8)
    np.testing.assert_allclose((values("q.mlp.0.weight", 2) + 1) / 2, [0.59350035, 0.95480388], atol=1e-8)
