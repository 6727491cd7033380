"""The tiny Whisper and quantizer of the golden arrays, with the weights that a rule gives."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from couloir.features.log_mel import LogMel
from couloir.models.quantizer.config import QuantizerConfig
from couloir.models.quantizer.model import build_model as build_quantizer
from couloir.models.whisper.config import WhisperConfig
from couloir.models.whisper.model import build_model

DATA = Path(__file__).parent / "data"
WHISPER = WhisperConfig(
    encoder_dim=128,
    encoder_num_heads=2,
    num_encoder_layers=1,
    decoder_dim=128,
    decoder_num_heads=2,
    num_decoder_layers=1,
)
QUANTIZER = QuantizerConfig(encoder_dim=128, num_heads=2, codebook_dim=16)


def arrays():
    with np.load(DATA / "ichigo.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def values(name, count):
    """``count`` numbers in [-1, 1) by a hash of the name and the place."""
    code, prime, mask = zlib.crc32(name.encode()), np.uint64(0x45D9F3B), np.uint64(0xFFFFFFFF)
    h = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(code)) & mask
    for _ in range(2):
        h ^= h >> np.uint64(16)
        h = (h * prime) & mask
    h ^= h >> np.uint64(16)
    return 2 * (h / 2**32) - 1


def filled(name, tensor):
    """What a tensor of that name holds."""
    v = values(name, tensor.numel()).reshape(tensor.shape)
    if name.endswith(("positional_embedding", "positional_embedding.weight")):
        v = 0.1 * v
    elif name.endswith("token_embedding.weight"):
        v = 0.5 * v
    elif tensor.dim() >= 2:
        v = np.sqrt(3 / np.prod(tensor.shape[1:])) * v
    elif name.endswith(".weight"):
        v = 1 + 0.1 * v
    else:
        v = 0.1 * v
    return torch.from_numpy(v.astype(np.float32))


def wave(seconds=2.0, name="wav"):
    """A tone, a chirp and noise: (N,) float32."""
    t = np.arange(int(seconds * 16000)) / 16000
    tones = 0.30 * np.sin(2 * np.pi * 220 * t) + 0.20 * np.sin(2 * np.pi * (300 * t + 400 * t**2))
    return (tones + 0.10 * values(name, len(t))).astype(np.float32)


def features(samples):
    """(N,) -> (1, T, 80), (1,)."""
    return LogMel()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))


def golden_whisper():
    """In eval mode; the encoder's positions keep their sinusoids."""
    model = build_model(WHISPER)
    own = model.state_dict()
    kept = "encoder.positional_embedding"
    model.load_state_dict({key: t if key == kept else filled(f"whisper.{key}", t) for key, t in own.items()})
    return model.eval()


def golden_quantizer(**changes):
    """In eval mode; ``changes`` of its configuration."""
    model = build_quantizer(replace(QUANTIZER, **changes))
    rows = torch.from_numpy(values("codebook", 2561 * 16).astype(np.float32)).view(1, 2561, 16)
    rows = torch.nn.functional.normalize(rows, dim=-1)
    weights = {}
    for key, tensor in model.state_dict().items():
        *_, last = key.split(".")
        kept = {"embed": rows, "embed_avg": rows, "cluster_size": torch.ones(1, 2561), "inv_freq": tensor}
        counter = last in ("_codebook_usage", "val_true", "val_total", "initted")
        weights[key] = tensor if counter else kept[last] if last in kept else filled(f"q.{key}", tensor)
    model.load_state_dict(weights)
    return model.eval()
