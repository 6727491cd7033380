"""A model that was trained on speech in a file that can be kept: the demo's, with six bits for a weight.

    python tests/web/trained_model.py demo/exp/festvox-ru      # writes trained-model.npz again, beside this program

It stands in for the demo's run where there is none. The model is rounded, and checked to write what the demo's writes;
what tests compare is made of the rounded one on both sides.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from couloir.checkpoint import save_checkpoint
from couloir.config import as_plain, write_yaml
from couloir.features.config import FbankConfig
from couloir.files import atomic_write
from couloir.inference.recognizer import Recognizer

PACKED = Path(__file__).resolve().with_name("trained-model.npz")
LARGEST = 31
"""Weights are whole multiples, up to that many, of their row's unit."""
FEW = 1000
"""Tensors of fewer weights are kept as they are."""


def pack(run, path=PACKED):
    """Write the averaged model of a run directory, its sizes and its symbols into one file."""
    backend = Recognizer.from_pretrained(run).backend
    arrays = {}
    for name, weight in backend.model.state_dict().items():
        values = weight.numpy()
        if values.ndim < 2 or values.size < FEW:
            arrays[name] = values
            continue
        units = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / LARGEST
        arrays[name] = np.rint(values / np.maximum(units, 1e-12)).astype(np.int8)
        arrays[f"units of {name}"] = units
    sections = {"zipformer": as_plain(backend.model.zipformer_config), "heads": as_plain(backend.model.heads_config)}
    pieces = list(backend.vocabulary.pieces)
    arrays["about"] = np.array(json.dumps({"sections": sections, "pieces": pieces}, ensure_ascii=False))
    with atomic_write(path) as out:
        np.savez_compressed(out, **arrays)


def unpack(folder, path=PACKED):
    """The packed model as the run directory that a training would leave; gives that folder."""
    arrays = dict(np.load(path))
    about = json.loads(str(arrays.pop("about")))
    units = {name: arrays.pop(f"units of {name}") for name in [*arrays] if f"units of {name}" in arrays}
    weights = {name: torch.tensor(values * units.get(name, np.float32(1))) for name, values in arrays.items()}
    (folder / "lang").mkdir(parents=True)
    tokens = "".join(f"{piece} {i}\n" for i, piece in enumerate(about["pieces"]))
    (folder / "lang" / "tokens.txt").write_text(tokens, encoding="utf-8")
    sections = {"recipe": "zipformer_crctc", **about["sections"], "fbank": as_plain(FbankConfig())}
    write_yaml(folder / "config.yaml", sections | {"text": {"bpe_model": str(folder / "lang" / "tokens.txt")}})
    save_checkpoint(folder / "epoch-1.pt", {"model": weights, "batch_idx_train": 1})
    return folder


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
    print(f"{PACKED.name}: {PACKED.stat().st_size / 1e6:.2f} MB")
