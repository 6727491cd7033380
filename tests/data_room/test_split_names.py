"""Which split a folder, a file or a table's word names; what is trained on by default is said aloud."""

import gzip
import logging
import tarfile

import pytest

from couloir.data.folder import find_splits
from couloir.data.split_names import innermost, kind_of, own_name

KINDS = {
    "train": (
        "train Train TRAIN training trainset train-clean-100 train_other train1 TrainClean my.train "
        "960h-train traindata trn"
    ),
    "dev": (
        "dev Dev DEV valid validation Validation val VAL dev-clean dev_other devset development valid2 "
        "train-dev train_valid validate Val-Set fold1_dev"
    ),
    "test": (
        "test Test TEST testing test-clean test_other test1 TestSet testset eval evaluation eval2000 heldout "
        "held-out Held_Out holdout hold-out test-heldout dev-test test-unseen-speakers myTestSet tst "
        "Evaluation-1 test(1) data\\test TEST-2021.05"
    ),
    "": (
        "train-test-split test_train shar fold3 speech latest contest attest greatest trainer retrained devil "
        "device evaluator value valley tr et cv dt Trainor protest 2024 data kontest strain validity über"
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for kind, names in KINDS.items() for name in names.split()])
def test_what_a_name_says(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "own"),
    [("dev-clean", "dev-clean"), ("Dev_Other", "dev_other"), ("TEST-1", "test-1"), ("test2", "test2"), ("dev", ""),
     ("test", ""), ("valid-other", ""), ("eval2000", ""), ("dev-test", ""), ("train-dev", ""), ("test-train", ""),
     ("test-x.", ""), ("test-..", ""), ("test-a/b", ""), ("test " + "a", ""), ("test-" + "a" * 60, "")],
)  # fmt: skip
def test_sets_with_a_name_of_their_own(name, own):
    assert own_name(name) == own


def test_the_innermost_name_decides():
    assert innermost(["train-test-split", "test", "part1"]) == "test"
    assert innermost(["Test", "Train"]) == "Train" and innermost(["train", "Test-other", "x"]) == "Test-other"
    assert innermost(["a", "b"]) == "" and innermost([]) == ""


def shards(folder, *places, name="cuts.000000.jsonl.gz"):
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / name).write_bytes(gzip.compress(b"{}\n"))
        if name.startswith("cuts.0"):
            tarfile.open(folder / place / "recording.000000.tar", "w").close()


def found(folder, splits):
    return {str(s.cuts.parent.relative_to(folder)): split for split, some in splits.items() for s in some}


@pytest.mark.parametrize(
    "right",
    [
        {"Train": "train", "Dev": "dev", "Test": "Test"},
        {"TRAIN": "train", "VALID": "dev", "TEST": "TEST"},
        {"training": "train", "validation": "dev", "testing": "testing"},
        {"train-test-split/train": "train", "train-test-split/test": "test"},
        {"training-data/train": "train", "training-data/dev": "dev", "training-data/test-clean": "test-clean"},
        {"test_project/train/a": "train", "test_project/train/b": "train", "test_project/eval/a": "eval"},
        {"en/train": "train", "en/held-out": "held-out", "sw/train": "train", "sw/test1": "test1"},
        {"ipapack/train-shar": "train", "ipapack/Test (2)": "Test (2)"},
        {"train-clean-100": "train", "dev-clean": "dev-clean", "Dev_Other": "Dev_Other", "test-other": "test-other"},
        {"train": "train", "devset": "dev", "valid-other": "dev", "dev2": "dev2", "dev-test": "dev-test"},
    ],
    ids=str,
)
def test_folders_of_shards(tmp_path, right):
    shards(tmp_path, *right)
    assert found(tmp_path, find_splits([tmp_path])) == right


def test_several_folders_are_judged_by_their_own_names_too(tmp_path):
    shards(tmp_path, "Train", "Test")
    assert found(tmp_path, find_splits([tmp_path / "Train", tmp_path / "Test"])) == {"Train": "train", "Test": "Test"}
    assert found(tmp_path, find_splits([tmp_path / "Test"])) == {"Test": "train"}  # it alone was asked for


def test_what_is_trained_on_by_default_is_said(tmp_path, caplog):
    shards(tmp_path, "fold1", "fold2", "test")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, find_splits([tmp_path])) == {"fold1": "train", "fold2": "train", "test": "test"}
    assert (
        "2 shards are trained on, as no folder's name says train, dev or test" in caplog.text and "fold1" in caplog.text
    )
    caplog.clear()
    shards(tmp_path, "train")
    assert "fold1" not in found(tmp_path, find_splits([tmp_path]))
    assert "fold1" in caplog.text and "is left out" in caplog.text
    caplog.clear()
    find_splits([tmp_path / "fold1"])
    assert not caplog.text


def test_files_of_cuts_say_their_split_or_their_folder_does(tmp_path):
    shards(tmp_path, "x", name="librispeech_cuts_Test-Clean.jsonl.gz")
    shards(tmp_path, "test", name="my_cuts_all.jsonl.gz")
    shards(tmp_path, "train", name="my_cuts_all.jsonl.gz")
    assert found(tmp_path, find_splits([tmp_path])) == {"x": "Test-Clean", "test": "test", "train": "train"}
