"""Data that fine-tuning mixes in: all of it once per epoch, none of it in validation or tests."""

import pytest
from shar_tools import module, utterances

from couloir.data.shar import write_shar
from couloir.errors import UserError


def ids(batches):
    return [id for batch in batches for id in batch.ids]


@pytest.mark.parametrize("own_dev", [True, False])
def test_an_epoch_has_both_and_validation_only_the_new_data(tmp_path, own_dev):
    write_shar(utterances(20, "new-"), tmp_path / "new/train", shard_size=5)
    write_shar(utterances(40, "old-"), tmp_path / "old/train", shard_size=5)
    write_shar(utterances(5, "old-dev-"), tmp_path / "old/dev")
    write_shar(utterances(5, "old-test-"), tmp_path / "old/test-clean")
    if own_dev:
        write_shar(utterances(3, "dev-"), tmp_path / "new/dev")
    data = module(tmp_path / "new", use_mux=True, mux_manifest_dir=str(tmp_path / "old"), valid_share=0.2)
    trained, validated = ids(data.train_loader(1)), ids(data.valid_loader())
    assert len(validated) == (3 if own_dev else 4) and all(not id.startswith("old") for id in validated)
    everything = [f"new-{i}" for i in range(20)] + [f"old-{i}" for i in range(40)]
    assert sorted(trained) == sorted(set(everything) - set(validated))
    shuffled = [id.startswith("old") for id in trained]
    assert any(shuffled[:20]) and not all(shuffled[-20:])
    assert data.test_sets() == [] and sum(1 for _ in data.train_texts()) == len(trained)
    assert ids(data.train_loader(1, start_batch=3)) == ids(list(data.train_loader(1))[3:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_mux": True}, "--mux-manifest-dir"),
        ({"mux_manifest_dir": "x"}, "--use-mux"),
        ({"use_mux": True, "mux_manifest_dir": "missing"}, "`--mux-manifest-dir` must be .*missing, not there"),
        ({"use_mux": True, "mux_manifest_dir": "old"}, "no shards to train on"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    write_shar(utterances(5, "new-"), tmp_path / "new/train")
    write_shar(utterances(5, "old-"), tmp_path / "old/dev")
    with pytest.raises(UserError, match=words):
        module(tmp_path / "new", **options).train_loader(1)
