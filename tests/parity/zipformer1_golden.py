"""The tiny first-generation model of the golden arrays, with the reference's weights."""

from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import torch

from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.model import build_model

DATA = Path(__file__).parent / "data"


@cache
def arrays():
    with np.load(DATA / "zipformer1.npz", allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def names_and_shapes():
    """[(name, shape)] of the reference's state dict, in its order."""
    lines = arrays()["sd_names"].numpy().tobytes().decode().splitlines()
    pairs = [line.split("\t") for line in lines]
    return [(name, tuple(int(n) for n in shape.split(",") if n)) for name, shape in pairs]


def state_dict():
    stored, weights, used = arrays(), {}, 0
    counts = iter(stored["sd_counts"])
    for name, shape in names_and_shapes():
        if name.endswith(".count"):
            weights[name] = next(counts).clone()
            continue
        size = int(np.prod(shape))
        weights[name] = stored["sd_values"][used : used + size].reshape(shape).clone()
        used += size
    assert used == len(stored["sd_values"])
    return weights


def golden_config(**changes):
    stored, values = arrays(), {}
    for field in fields(Zipformer1Config):
        array = stored[f"cfg/{field.name}"]
        values[field.name] = tuple(array.tolist()) if array.ndim else int(array)
    return Zipformer1Config(**{**values, **changes})


HEADS = HeadsConfig(vocab_size=30, decoder_dim=32, joiner_dim=28)


def golden_model(**changes):
    """(model in eval mode with the reference's weights, arrays)."""
    model = build_model(golden_config(**changes), HEADS)
    model.load_state_dict(state_dict(), strict=True)
    return model.eval(), arrays()
