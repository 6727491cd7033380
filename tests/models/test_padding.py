"""Padding never changes an output: a batch gives what each of its items gives alone, in the reference's arithmetic."""

import pytest
import torch

from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import PRESETS, ZipformerConfig
from couloir.models.zipformer.model import build_model, num_subsampled_frames

SMALL = {
    "num_encoder_layers": (1, 2, 1),
    "downsampling_factor": (1, 2, 4),
    "feedforward_dim": (48, 64, 48),
    "num_heads": (2, 4, 2),
    "encoder_dim": (32, 48, 40),
    "query_head_dim": (8,),
    "value_head_dim": (6,),
    "pos_dim": 16,
    "encoder_unmasked_dim": (24, 32, 32),
    "cnn_module_kernel": (15, 7, 15),
    "frontend_channels": (4, 8, 16),
}
CASES = {
    "output_25hz": {},
    "output_50hz": {"output_downsampling_factor": 1},
    "published_shape": {
        "num_encoder_layers": (1,) * 6,
        "downsampling_factor": (1, 2, 4, 8, 4, 2),
        "feedforward_dim": (48,),
        "num_heads": (4,),
        "encoder_dim": (16, 24, 32, 40, 32, 24),
        "encoder_unmasked_dim": (16,),
        "cnn_module_kernel": (31, 31, 15, 15, 15, 31),
    },
    "causal": {"causal": True, "chunk_size": (8,), "left_context_frames": (64,)},
    "causal_full_context": {"causal": True, "chunk_size": (-1,), "left_context_frames": (64,)},
    "causal_chunk_longer_than_some": {"causal": True, "chunk_size": (32,), "left_context_frames": (64,)},
    "causal_50hz": {"causal": True, "chunk_size": (64,), "left_context_frames": (-1,), "output_downsampling_factor": 1},
}
LENS = [101, 73, 9, 40, 64]
HEADS = HeadsConfig(use_ctc=True, use_transducer=False, vocab_size=30)


def far_from_initial(config):
    """A model whose small initial weights were moved, so that every path carries signal."""
    torch.manual_seed(3)
    model = build_model(config, HEADS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (1.0 if "chunkwise_conv_scale" in name else 0.05))
    return model


def differences(model, padding):
    """Largest difference to the reference's single-item outputs, per item; features beyond a length are noise."""
    torch.manual_seed(4)
    feats, lens = torch.randn(len(LENS), max(LENS), 80) * 3.0, torch.tensor(LENS)
    with torch.no_grad():
        encoded, out_lens = model.forward_encoder(feats, lens, padding)
        assert torch.equal(out_lens, num_subsampled_frames(lens, model.zipformer_config))
        found = []
        for i, length in enumerate(LENS):
            alone, alone_lens = model.forward_encoder(feats[i : i + 1, :length], lens[i : i + 1], "reference")
            assert alone_lens.item() == alone.shape[1]
            found.append((encoded[i, : alone.shape[1]] - alone[0]).abs().max().item())
    return found


@pytest.mark.parametrize("case", CASES)
def test_batch_equals_single(case):
    # Outputs are of size 6 and float32 sums are taken in another order: noise is 4e-6.
    assert max(differences(far_from_initial(ZipformerConfig(**{**SMALL, **CASES[case]})), None)) < 1e-5


def test_reference_padding_is_there_and_leaks():
    leaks = differences(far_from_initial(ZipformerConfig(**SMALL)), "reference")
    assert leaks[0] < 1e-5 < 1e-3 < max(leaks)


def test_tiny_preset_batch_equals_single():
    assert max(differences(far_from_initial(PRESETS["tiny"]), None)) < 1e-5


def test_training_uses_the_reference_padding():
    model = far_from_initial(ZipformerConfig(**SMALL))
    feats, lens = torch.randn(2, 60, 80), torch.tensor([60, 41])
    seen = []
    model.encoder_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1] is None))
    for training in (True, False):
        model.train(training).forward_encoder(feats, lens)
    assert seen == [True, False]


def test_order_of_the_batch_does_not_matter():
    model = far_from_initial(ZipformerConfig(**SMALL))
    feats, lens = torch.randn(3, 80, 80), torch.tensor([80, 51, 33])
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        encoded, out_lens = model.forward_encoder(feats, lens)
        shuffled, _ = model.forward_encoder(feats[order], lens[order])
    for new, old in enumerate(order.tolist()):
        n = out_lens[old]
        torch.testing.assert_close(shuffled[new, :n], encoded[old, :n], atol=1e-5, rtol=0)
