"""Damaged, strange and malicious checkpoints: loaded and equal, or one line that names the file; never another."""

import json
import os
import random
import re
import shutil
import zipfile

import pytest
import torch
from fake_run import FakeData, fake_config, make_trainer
from torch import nn

from couloir.checkpoint import load_checkpoint, model_weights, save_checkpoint, verify_checkpoint
from couloir.checkpoint_headers import number
from couloir.errors import UserError
from couloir.integrity import CHECKSUM, checksum, is_plain
from couloir.training.averaging import load_averaged
from couloir.training.config import AveragingConfig
from couloir.training.random_state import seed_everything
from couloir.training.run_dir import newest_first

CONFIG = {"zipformer": {"encoder_dim": [24, 32]}, "heads": {"vocab_size": 5}, "recipe": "zipformer_crctc"}


def content(step=100):
    generator = torch.Generator().manual_seed(step)
    weights = {
        "encoder.weight": torch.randn(6, 5, generator=generator),
        "count": torch.tensor(step),
        "half": torch.ones(3).half(),
    }
    return {
        "model": weights,
        "model_avg": {name: tensor.clone() for name, tensor in weights.items()},
        "batch_idx_train": step,
        "sampler": {"epoch": 1, "batch": 3, "world_size": 2},
        "text": "длина",
        "values": [1.5, None, True, (2, 3)],
    }


def write_ours(path):
    save_checkpoint(path, content())


def write_bare(path):
    torch.save(content()["model"], path)


def write_safetensors(path):
    from safetensors.torch import save_file

    text = json.dumps(CONFIG)
    weights = content()["model"]
    save_file(weights, path, metadata={"format": "pt", "config": text, CHECKSUM: checksum(weights, text)})


def write_old(path):
    torch.save(content(), path, _use_new_zipfile_serialization=False)


WRITERS = {"ours.pt": write_ours, "bare.pth": write_bare, "model.safetensors": write_safetensors}


def mutated(data, draw):
    """``data`` as a bad disk, a cut transfer or a careless editor leaves it."""
    data, at = bytearray(data), draw.randrange(len(data))
    length = draw.choice((1, 2, 8, 64, 500))
    kind = draw.randrange(8)
    if kind <= 2:
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 3:
        data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("/"), 0x28))
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        data[at : at + length] = bytes(length)
    elif kind == 6:
        del data[at : at + length]
    else:
        data[at:at] = draw.randbytes(length)
    return bytes(data)


def same(one, two):
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return one == two


def said_of(path, load):
    """What loading came to: the content, or the error's line, which names the file."""
    try:
        return load(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert len(str(error)) < 500 + len(str(path))
        return None


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WRITERS)
def test_mutated_files_are_loaded_and_equal_or_named(tmp_path, name, count):
    path, draw = tmp_path / name, random.Random(f"{name} {count}")
    WRITERS[name](path)
    data, expected = path.read_bytes(), load_checkpoint(path)
    refused = 0
    for _ in range(count):
        path.write_bytes(mutated(data, draw))
        found = said_of(path, load_checkpoint)
        assert found is None or same(found, expected)
        refused += found is None
        said_of(path, lambda path: load_checkpoint(path, mmap=True))
    assert refused > count * 0.7


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_of_the_old_form_are_loaded_or_named(tmp_path, count):
    """They have no checksums, so a weight's bit cannot be seen."""
    path, draw = tmp_path / "old.pt", random.Random(count)
    write_old(path)
    data = path.read_bytes()
    assert same(load_checkpoint(path), content())
    for _ in range(count):
        path.write_bytes(mutated(data, draw))
        said_of(path, load_checkpoint)


@pytest.mark.parametrize("step", [101, pytest.param(11, marks=pytest.mark.slow)])
def test_resume_goes_on_from_the_one_before_or_from_what_is_whole(tmp_path, step, caplog):
    """One bit after another of what says where the tensors are; a step of 11 takes every place within a byte."""
    for number_of_batches in (100, 200):
        save_checkpoint(tmp_path / f"checkpoint-{number_of_batches}.pt", content(number_of_batches))
    newest = tmp_path / "checkpoint-200.pt"
    data = newest.read_bytes()
    with zipfile.ZipFile(newest) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    begin, before = data.find(pickled), 0
    for bit in range(0, 8 * len(pickled), step):
        damaged = bytearray(data)
        damaged[begin + bit // 8] ^= 1 << bit % 8
        newest.write_bytes(damaged)
        found = next(newest_first(tmp_path))
        before += found.name == "checkpoint-100.pt"
    assert before == len(range(0, 8 * len(pickled), step))
    assert "checkpoint-200.pt is damaged or cut off (Bad CRC-32" in caplog.text
    assert "; trying the one before" in caplog.text


def with_a_changed_weight(path):
    """Flip one bit of a float of the file's tensors."""
    data = bytearray(path.read_bytes())
    values = content()["model"]["encoder.weight"].numpy().tobytes()
    at = data.find(values)
    assert at > 0
    data[at + 41] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_one_bit_of_a_weight_is_seen(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    with_a_changed_weight(path)
    with pytest.raises(UserError, match=r"is damaged or cut off \((Bad CRC-32|its checksum differs)"):
        load_checkpoint(path)


def test_a_changed_weight_is_neither_resumed_from_nor_averaged_nor_published(tmp_path):
    for name in ("checkpoint-100.pt", "epoch-1.pt"):
        write_ours(tmp_path / name)
    with_a_changed_weight(tmp_path / "epoch-1.pt")
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-100.pt"]
    with pytest.raises(UserError, match=r"epoch-1\.pt is damaged"):
        verify_checkpoint(tmp_path / "epoch-1.pt")
    for averaging in (AveragingConfig(epoch=1), AveragingConfig(epoch=1, avg=1, use_averaged_model=False)):
        with pytest.raises(UserError, match=r"epoch-1\.pt is damaged"):
            load_averaged(tmp_path, averaging)


def test_a_safetensors_file_of_another_program_has_no_checksum_and_loads(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"config": "[" * 5000})
    assert same(load_checkpoint(tmp_path / "x.safetensors"), {"model": {"a": torch.ones(2)}})


@pytest.mark.parametrize("value", ["many", None, [1], float("nan"), float("inf"), {}, torch.ones(2), 10**400])
def test_a_step_that_is_no_number_is_passed_over(tmp_path, value, caplog):
    save_checkpoint(tmp_path / "checkpoint-1.pt", content(1))
    save_checkpoint(tmp_path / "checkpoint-2.pt", {**content(2), "batch_idx_train": value})
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-1.pt"]
    assert "checkpoint-2.pt holds no number `batch_idx_train`" in caplog.text
    with pytest.raises(UserError, match="x holds no number `n`"):
        number({"n": value}, "n", "x")


def test_numbers_of_other_kinds_count():
    assert [number({"n": n}, "n", "x") for n in (3, "3", 3.0, torch.tensor(3), True)] == [3, 3, 3, 3, 1]
    assert number({}, "n", "x", 5) == 5


HOLLOW = {
    "expanded": torch.zeros(1).expand(1 << 40),
    "strided": torch.zeros(4).as_strided((1 << 20, 1 << 20), (0, 0)),
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.empty(1 << 40, device="meta"),
    "complex": torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", HOLLOW)
def test_a_tensor_whose_values_are_not_there_is_refused(tmp_path, kind):
    """A file of some hundred bytes would take terabytes where it is averaged."""
    torch.save({"model": {"encoder.weight": HOLLOW[kind]}}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 20000
    with pytest.raises(UserError, match=r"x\.pt (is refused: the values of its `encoder.weight`|is damaged)"):
        model_weights(load_checkpoint(tmp_path / "x.pt"), str(tmp_path / "x.pt"))


def test_views_of_whole_tensors_are_plain():
    whole = torch.randn(1000, 1000)
    assert all(map(is_plain, (whole, whole.t(), whole[::2], nn.Parameter(whole), torch.zeros(3).expand(4, 3))))


@pytest.mark.parametrize("weights", [{1: torch.ones(1)}, {"a": 1}, {}, [], "x", None, {"a": [torch.ones(1)]}])
def test_what_is_no_state_dict_is_named(weights):
    with pytest.raises(UserError, match="checkpoint x holds no `model` state dict"):
        model_weights({"model": weights}, "x")


def test_an_archive_that_expands_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    write_ours(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr(f"{folder}/data/99", bytes(65 << 20))
    for mmap in (False, True):
        with pytest.raises(UserError, match=r"bomb\.pt is damaged or cut off \(its entries come to 65 MiB\)"):
            load_checkpoint(path, mmap=mmap)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing", "empty", "text", "link"])
def test_what_is_no_file_of_weights_is_named(tmp_path, kind):
    path = tmp_path / "x.pt"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "nothing": lambda: None,
        "empty": path.touch,
        "text": lambda: path.write_text("hello\n" * 50),
        "link": lambda: path.symlink_to(path),
    }
    make[kind]()
    with pytest.raises(UserError, match=r"x\.pt") as refused:
        load_checkpoint(path)
    assert "\n" not in str(refused.value)


PLACE = {"epoch": 1, "batch": 1, "world_size": 1}
STRANGE = {
    "optimizer": ["x", {"state": 1}, {"state": {}, "param_groups": [{}]}, [1]],
    "scheduler": ["x", {"batch": "y"}, [1]],
    "sampler": ["x", [1], {"epoch": "x", "batch": 1, "world_size": 1}, {**PLACE, "plan": 3}],
    "ranks": ["x", [1], [{}], [{"random": 1, "training": {}, "total": {}}], 3],
    "recovery": ["x", {}, {"skipped": "x", "rollbacks": 0, "lr_scale": 1}],
    "elapsed_s": ["x", None],
    "model": ["x", {}, {"layers.0.weight": torch.ones(1)}],
    "model_avg": ["x", {"layers.0.weight": 3}],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    seed_everything(1)
    make_trainer(
        fake_config(folder / "exp", {"max_steps": 4, "save_every_n": 2, "final_decay": 0, "log_interval": 1}),
        FakeData(),
    ).fit()
    return folder / "exp"


@pytest.mark.parametrize(("entry", "value"), [(entry, value) for entry in STRANGE for value in STRANGE[entry]])
def test_a_checkpoint_of_strange_content_ends_in_one_line_or_goes_on(tmp_path, trained, train, entry, value):
    (tmp_path / "exp").mkdir()
    for name in ("config.yaml", "checkpoint-4.pt"):
        shutil.copy(trained / name, tmp_path / "exp" / name)
    path = tmp_path / "exp/checkpoint-4.pt"
    save_checkpoint(path, {**load_checkpoint(path), entry: value})
    try:
        assert train(max_steps=6, final_decay=0).state.step == 6
    except UserError as error:
        assert re.search(r"checkpoint-4\.pt", str(error)) and "\n" not in str(error)


def test_a_run_whose_newest_weights_are_changed_equals_one_that_was_never_stopped(tmp_path, trained, train, caplog):
    whole = train(max_steps=6, final_decay=0)
    expected = (tmp_path / "exp/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "exp")
    shutil.copytree(trained, tmp_path / "exp")
    for name in ("checkpoint-4.pt", "last.pt"):
        if (tmp_path / "exp" / name).is_file():
            path = tmp_path / "exp" / name
            data = bytearray(path.read_bytes())
            weights = load_checkpoint(path)["model"]["layers.0.weight"].numpy().tobytes()
            data[data.find(weights) + 3] ^= 4
            path.write_bytes(data)
    again = train(max_steps=6, final_decay=0)
    assert "resumed from" in caplog.text and "checkpoint-2.pt: epoch 1, batch 2" in caplog.text
    assert all(torch.equal(one, two) for one, two in zip(whole.model.parameters(), again.model.parameters()))
    found, straight = ([json.loads(line) for line in text.splitlines()] for text in
                       ((tmp_path / "exp/metrics.jsonl").read_text(), expected))  # fmt: skip
    assert [row["loss"] for row in found] == [row["loss"] for row in straight]
