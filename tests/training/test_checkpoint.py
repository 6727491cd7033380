"""Checkpoints from here and elsewhere load; files that would run code, or do not fit, are refused in one line."""

import os
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

from couloir.checkpoint import load_checkpoint, load_weights, model_weights, save_checkpoint
from couloir.errors import UserError
from couloir.files import atomic_path


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture
def model():
    return nn.ModuleDict({"encoder": nn.Linear(3, 4), "ctc_output": nn.Linear(4, 5)})


def saved(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_two_who_write_one_file_do_not_meet(tmp_path, monkeypatch):
    """Processes of two machines may have one number, and their folder be one."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic_path(tmp_path / "x.pt") as one:
        one.write_text("one")
        with atomic_path(tmp_path / "x.pt") as two:
            two.write_text("two")
        assert (tmp_path / "x.pt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"] and (tmp_path / "x.pt").read_text() == "one"


def test_an_icefall_checkpoint_loads(tmp_path, model):
    content = {
        "model": {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
        "exp_dir": pathlib.PosixPath("zipformer/exp"),
        "dtype": torch.float16,
        "best_valid_loss": np.float64(0.25),
        "sampler": {"kept": np.arange(3)},
        "batch_idx_train": 4000,
    }
    loaded = load_checkpoint(saved(tmp_path, content))
    assert str(loaded["exp_dir"]) == "zipformer/exp"
    assert loaded["dtype"] == torch.float16
    assert loaded["best_valid_loss"] == 0.25
    assert load_weights(model, model_weights(loaded, "x"), "x") == []


def test_a_bare_state_dict_loads(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "zipa.pth")
    weights = model_weights(load_checkpoint(tmp_path / "zipa.pth"), "zipa.pth")
    assert weights.keys() == model.state_dict().keys()


def test_a_file_that_would_run_code_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"x\.pt is refused.*system"):
        load_checkpoint(saved(tmp_path, {"model": {}, "exp_dir": RunsCode()}))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("protocol", "word"), [(2, "builtins.eval"), (4, "protocol")])
def test_a_builtin_is_refused_by_name_too(tmp_path, protocol, word):
    class Evaluates:
        def __reduce__(self):
            return eval, ("1",)

    torch.save({"model": Evaluates()}, tmp_path / "x.pt", pickle_protocol=protocol)
    with pytest.raises(UserError, match=rf"x\.pt is refused.*{word}"):
        load_checkpoint(tmp_path / "x.pt")


def test_an_unknown_class_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="randomstate_ctor"):
        load_checkpoint(saved(tmp_path, {"state": np.random.RandomState(0)}))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("size", [0, 10, 1000, -100, -10])
def test_a_cut_file_is_named(tmp_path, model, size, mmap):
    path = saved(tmp_path, {"model": model.state_dict()})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"x\.pt is damaged or cut off"):
        load_checkpoint(path, mmap=mmap)


def test_a_missing_file_and_another_kind_of_file_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no checkpoint at all")
    with pytest.raises(UserError, match=r"text\.pt is damaged or"):
        load_checkpoint(tmp_path / "text.pt")


def test_another_vocabulary_names_the_tensor_both_shapes_and_the_remedy(model):
    weights = {**model.state_dict(), "ctc_output.weight": torch.zeros(500, 4)}
    with pytest.raises(UserError, match=r"ctc_output\.weight` must be \(5, 4\), but is \(500, 4\); .*--bpe-model"):
        load_weights(model, weights, "epoch-1.pt")


def test_another_size_names_the_tensor_and_the_remedy(model):
    with pytest.raises(UserError, match=r"encoder\.weight` must be \(4, 3\), but is \(4, 9\); .*model flags"):
        load_weights(model, {**model.state_dict(), "encoder.weight": torch.zeros(4, 9)}, "epoch-1.pt")
    with pytest.raises(UserError, match=r"encoder\.extra"):
        load_weights(model, {**model.state_dict(), "encoder.extra": torch.zeros(1)}, "epoch-1.pt")
    weights = model.state_dict()
    del weights["encoder.bias"]
    with pytest.raises(UserError, match=r"no tensor `encoder\.bias`"):
        load_weights(model, weights, "epoch-1.pt")


def test_heads_that_the_model_lacks_are_left_out(model):
    weights = {**model.state_dict(), "decoder.embedding.weight": torch.zeros(5, 2)}
    assert load_weights(model, weights, "epoch-1.pt") == ["decoder.embedding.weight"]


def test_what_is_saved_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "epoch-1.pt"
    save_checkpoint(path, {"model": {"w": torch.ones(3)}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"model": {"w": torch.zeros(3)}})
    assert load_checkpoint(path)["model"]["w"].sum() == 3
    assert os.listdir(tmp_path) == ["epoch-1.pt"]
