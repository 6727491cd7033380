"""Checkpoints of neural language models: what they hold beside weights, and how foreign ones are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from couloir.checkpoint import Weights, load_checkpoint, model_weights, save_checkpoint
from couloir.config import flag_name
from couloir.decoding.lm import NeuralLm, RnnLm, TransformerLm
from couloir.decoding.lm_config import LM_KINDS
from couloir.errors import UserError, must_be, unknown_name
from couloir.text.tokenizer import check_same_pieces

KINDS: dict[str, type[RnnLm] | type[TransformerLm]] = dict(zip(LM_KINDS, (RnnLm, TransformerLm)))
DEFAULT_HEADS = 8
"""Heads of a transformer whose checkpoint holds weights alone: they do not show in them."""


def lm_entry(lm: NeuralLm, pieces: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says of its model: kind, sizes and tokens."""
    return {"kind": lm.kind, "sizes": dict(lm.sizes), "pieces": list(pieces)}


def save_lm(path: Path, lm: NeuralLm, pieces: Sequence[str], **more: Any) -> None:
    """Write a checkpoint that tells what it is; ``more`` is written beside it."""
    save_checkpoint(path, {"model": lm.state_dict(), "lm": lm_entry(lm, pieces), **more})


def load_lm(kind: str, path: str | Path, pieces: Sequence[str], **given: int | bool) -> NeuralLm:
    """Read an LM's checkpoint, ready for decoding.

    Args:
        kind: ``--lm-type``. path: of this project's checkpoint, of icefall's RNN LM, or of a bare state dict.
        pieces: the acoustic model's tokens. given: sizes that were given as flags; the others are the checkpoint's.

    Raises:
        UserError: when the file is missing or damaged, or holds an LM of another kind, of other tokens, or of other
            sizes than were given.
    """
    if kind not in KINDS:
        raise unknown_name("--lm-type", kind, list(KINDS))
    path = Path(path)
    if not path.is_file():
        raise UserError(f"language model {path} does not exist; train it with train_lm.py or give --lm-exp-dir")
    checkpoint = load_checkpoint(path)
    state, said = model_weights(checkpoint, str(path)), checkpoint.get("lm")
    try:
        if isinstance(said, Mapping) and said["kind"] != kind:
            raise must_be("--lm-type", f"{said['kind']}, which {path} is", kind)
        sizes: dict[str, Any] = _sizes_of(kind, state, path)
        if isinstance(said, Mapping):
            check_same_pieces(said["pieces"], pieces, str(path))
            sizes = _same_sizes(said["sizes"], sizes, path)
        elif kind != "rnn":
            sizes["nhead"] = given.get("nhead", DEFAULT_HEADS)
        for name, value in given.items():
            if sizes[name] != value:
                raise must_be(flag_name(f"{kind}_lm_{name}"), f"{sizes[name]}, as {path} has it", value, "leave it out")
        if len(state["input_embedding.weight"]) != len(pieces):
            found = len(state["input_embedding.weight"])
            raise must_be(f"vocabulary of {path}", f"of the model's vocabulary size {len(pieces)}", found)
        lm = KINDS[kind](len(pieces), **sizes)
        lm.load_state_dict(state)
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, ArithmeticError, AssertionError) as error:
        reason = ([line.strip() for line in str(error).split("\n") if line.strip()] or [""])[:2][-1]
        raise must_be(str(path), f"a whole {kind} language model", reason or type(error).__name__) from None
    return lm.eval()


def _same_sizes(said: Mapping[str, Any], found: dict[str, Any], path: Path) -> dict[str, Any]:
    """The sizes that a checkpoint says, once its weights have them too: they decide how much memory is taken."""
    for name, value in found.items():
        if name != "tie_weights" and said[name] != value:
            raise must_be(f"{name} of {path}", f"{value}, as its weights have it", said[name])
    return dict(said)


def _sizes_of(kind: str, state: Weights, path: Path) -> dict[str, int | bool]:
    """The sizes that weights tell, as arguments of `RnnLm` or `TransformerLm`."""
    embedding, output = state.get("input_embedding.weight"), state.get("output_linear.weight")
    first = "rnn.weight_hh_l0" if kind == "rnn" else "encoder.layers.0.linear1.weight"
    if embedding is None or output is None or first not in state:
        remedy = ""
        if kind == "transformer" and embedding is not None:
            remedy = "icefall's transformer has another architecture: train one with train_lm.py, or use an RNN LM"
        raise must_be(str(path), f"a checkpoint of a {kind} language model", "something else", remedy)
    tied = torch.equal(embedding, output)
    if kind == "rnn":
        layers = _count(state, r"rnn\.weight_hh_l(\d+)")
        return {"embedding_dim": embedding.shape[1], "hidden_dim": output.shape[1], "num_layers": layers,
                "tie_weights": tied}  # fmt: skip
    layers = _count(state, r"encoder\.layers\.(\d+)\.linear1\.weight")
    return {"embedding_dim": embedding.shape[1], "dim_feedforward": len(state[first]), "num_layers": layers,
            "tie_weights": tied, "max_length": len(state["positions"])}  # fmt: skip


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)
