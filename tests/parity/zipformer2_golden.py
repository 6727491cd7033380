"""The two tiny models of the golden arrays, with the reference's weights."""

from pathlib import Path

import numpy as np
import torch

from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model

DATA = Path(__file__).parent / "data"
SIZES = {
    "num_encoder_layers": (1, 2, 1),
    "downsampling_factor": (1, 2, 4),
    "feedforward_dim": (48, 64, 48),
    "num_heads": (2, 4, 2),
    "encoder_dim": (32, 48, 40),
    "query_head_dim": (8,),
    "value_head_dim": (6,),
    "pos_head_dim": (4,),
    "pos_dim": 16,
    "encoder_unmasked_dim": (24, 32, 32),
    "cnn_module_kernel": (15, 7, 15),
}
CAUSAL = {"causal": True, "chunk_size": (8,), "left_context_frames": (64,)}
HEADS = HeadsConfig(use_ctc=True, vocab_size=30, decoder_dim=24, joiner_dim=28)


def arrays(name):
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def golden_model(tag):
    """(model in eval mode with the reference's weights, arrays) for ``nc`` or ``ca``."""
    stored = arrays(f"zipformer2_{tag}")
    config = ZipformerConfig(**SIZES, **(CAUSAL if tag == "ca" else {}))
    model = build_model(config, HEADS)
    model.load_state_dict({key[3:]: value for key, value in stored.items() if key.startswith("sd/")}, strict=True)
    return model.eval(), stored
