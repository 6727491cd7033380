"""What is read of checkpoints without torch is what torch reads, and what only torch can judge is left to it."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from programs import ROOT
from torch import nn

from couloir.checkpoint import CheckpointReader, save_checkpoint
from couloir.checkpoint_headers import HeaderReader, NotPlain, TensorHeader
from couloir.inference.info import describe
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model

TINY = ZipformerConfig(
    num_encoder_layers=(1,), downsampling_factor=(1, 2), feedforward_dim=(32,), num_heads=(2,), encoder_dim=(24, 32),
    query_head_dim=(8,), value_head_dim=(6,), encoder_unmasked_dim=(24,), cnn_module_kernel=(7,),
    frontend_channels=(4, 8, 8),
)  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    heads = HeadsConfig(use_ctc=True, vocab_size=11, decoder_dim=16, joiner_dim=16)
    return build_model(TINY, heads).state_dict()


def wrapped(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


FORMS = {
    "a run's checkpoint": lambda w: {"model": w, "model_avg": w, "batch_idx_train": 7, "average_period": 2, "x": 0.5},
    "a bare state dict": lambda w: w,
    "of several processes": lambda w: {"model": wrapped(w)},
    "of parameters": lambda w: {
        "model": {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in w.items()}
    },
    "in half precision": lambda w: {"model": {name: t.bfloat16() for name, t in w.items()}},
    "with dtypes": lambda w: {"model": w, "dtype": torch.float32, "nested": {"a": [1, None, True, "x", (2, 3)]}},
    "of views": lambda w: {"model": {name: t.clone().expand(2, *t.shape)[0] for name, t in w.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_names_and_shapes_are_those_that_torch_reads(tmp_path, weights, form):
    path = tmp_path / "checkpoint-7.pt"
    torch.save(FORMS[form](weights), path)
    ours, theirs = HeaderReader().weights(path), CheckpointReader().weights(path)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].shape == tuple(tensor.shape) and ours[name].numel() == tensor.numel()
        assert not tensor.dim() or len(ours[name]) == len(tensor)


def test_plain_values_are_those_that_torch_reads(tmp_path, weights):
    path = tmp_path / "checkpoint-7.pt"
    values = {"batch_idx_train": 7, "config": {"family": "x", "list": [1, 2.5, None], "on": True}, "tuple": (1, "ä")}
    save_checkpoint(path, {"model": weights, **values})
    found = HeaderReader().look(path)
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize("config", [{"recipe": "r", "zipformer": {"pos_dim": 48}}, None])
def test_safetensors(tmp_path, weights, config):
    path = tmp_path / "model.safetensors"
    metadata = {"format": "pt", **({"config": json.dumps(config)} if config else {})}
    safetensors.torch.save_file({name: t.contiguous() for name, t in weights.items()}, path, metadata=metadata)
    ours = HeaderReader()
    assert ours.look(path).get("config") == config
    assert {name: t.shape for name, t in ours.weights(path).items()} == {n: tuple(t.shape) for n, t in weights.items()}


class Evil:
    """Runs a command where pickles are trusted."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def archive(path, payload):
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", payload)
        out.writestr("archive/version", "3\n")


def write_strange(path, weights, kind):
    if kind == "old format":
        torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    elif kind == "numpy":
        torch.save({"model": weights, "batch_idx_train": np.float64(3)}, path)
    elif kind == "torchscript":
        torch.jit.script(nn.Linear(2, 2)).save(path)
    elif kind == "evil":
        archive(path, pickle.dumps({"model": Evil()}, protocol=2))
    elif kind == "a list":
        torch.save([1, 2], path)
    elif kind == "no archive":
        path.write_bytes(b"\0" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "huge":
        archive(path, b"\x80\x02]" + b"N" * (65 << 20))
    elif kind == "cut":
        torch.save({"model": weights}, path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        archive(path, pickle.dumps({"model": "x" * 10}, protocol=2))


KINDS = ("old format", "numpy", "torchscript", "evil", "a list", "no archive", "empty", "huge", "cut", "no tensors")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unusual_is_left_to_torch(tmp_path, weights, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_strange(tmp_path / "x.pt", weights, kind)
    with pytest.raises(NotPlain):
        HeaderReader().weights(tmp_path / "x.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("size", [0, 1 << 40, (1 << 64) - 1, 64 << 20])
def test_sizes_of_headers_are_bounded(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(NotPlain):
        HeaderReader().weights(path)


def test_the_facts_are_the_same_by_either_reader(tmp_path, weights, monkeypatch):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (2, 4, 6, 8):
        content = {"model": weights, "model_avg": weights, "batch_idx_train": step, "average_period": 2}
        save_checkpoint(folder / f"checkpoint-{step}.pt", content)
    light = describe(folder)
    monkeypatch.setattr(HeaderReader, "look", lambda *_: (_ for _ in ()).throw(NotPlain))
    assert describe(folder) == light
    assert light["vocabulary"] == "11 symbols" and light["heads"] == "CTC, transducer"
    numbers = sum(tensor.numel() for tensor in weights.values())
    assert light["parameters"] == f"{numbers / 1e6:.2f} M"


def test_info_needs_no_torch(tmp_path, weights):
    save_checkpoint(tmp_path / "epoch-1.pt", {"model": weights})
    code = (
        "import sys; from couloir.inference.info import describe; "
        f"print(describe({str(tmp_path)!r})['family']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "zipformer\n", done.stderr


def test_a_header_has_a_size():
    assert TensorHeader((2, 3, 4)).numel() == 24 and TensorHeader(()).numel() == 1
