"""Small first-generation models whose every path carries signal."""

import torch

from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.model import build_model

SIZES = {
    "num_encoder_layers": (1, 2, 1),
    "feedforward_dims": (24, 40, 32),
    "nhead": (2, 4, 2),
    "encoder_dims": (16, 24, 24),
    "attention_dims": (16,),
    "encoder_unmasked_dims": (12, 16, 16),
    "zipformer_downsampling_factors": (1, 4, 2),
    "cnn_module_kernels": (7, 5, 7),
    "decode_chunk_len": 16,
    "num_left_chunks": 2,
    "short_chunk_size": 8,
}
HEADS = HeadsConfig(vocab_size=30, decoder_dim=16, joiner_dim=12)


def small_model(**changes):
    """In eval mode, moved away from its small initial weights."""
    torch.manual_seed(3)
    model = build_model(Zipformer1Config(**{**SIZES, **changes}), HEADS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def features(batch, frames):
    return torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(5)) * 2.0
