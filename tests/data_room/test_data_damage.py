"""Bad input is named: it ends in one clear line, or is skipped, counted and reported."""

import gzip
import logging

import numpy as np
import pytest
from shar_tools import encoded, module, noise, raw_shard, utterances

from couloir.data.shar import write_shar
from couloir.errors import UserError


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


def trained_on(data):
    return sorted(i for b in data.train_loader(1) for i in b.ids)


def shards(tmp_path):
    write_shar(utterances(12), tmp_path / "s", shard_size=4)
    return tmp_path / "s"


def test_a_missing_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere"):
        module(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no cuts"):
        module(tmp_path)


def test_only_test_sets_cannot_be_trained_on(tmp_path):
    write_shar(utterances(3), tmp_path / "test-x")
    data = module(tmp_path)
    assert sum(len(b) for b in data.test_loader("test-x")) == 3
    with pytest.raises(UserError, match=r"no train folder"):
        data.train_loader(1)


def test_a_manifest_without_its_tar_and_a_tar_without_its_manifest(tmp_path, caplog):
    folder = shards(tmp_path)
    (folder / "recording.000000.tar").unlink()
    (folder / "cuts.000002.jsonl.gz").unlink()
    assert trained_on(module(folder, valid_share=0.0)) == ["u4", "u5", "u6", "u7"]
    assert "cuts.000000.jsonl.gz has no recording.000000.tar beside it" in caplog.text
    assert "recording.000002.tar is left out" in caplog.text
    (folder / "recording.000001.tar").unlink()
    with pytest.raises(UserError, match=r"recording\.000000\.tar"):
        module(folder).train_loader(1)


@pytest.mark.parametrize("name", ["cuts.000001.jsonl.gz", "recording.000001.tar"])
@pytest.mark.parametrize("keep", ["nothing", "300 bytes", "half", "all but the end"])
def test_a_truncated_shard_is_named_and_the_others_used(tmp_path, caplog, name, keep):
    path = shards(tmp_path) / name
    content = path.read_bytes()
    # A tar ends in blocks that only fill it up: they may be missing.
    end = 11_000 if path.suffix == ".tar" else 5
    size = {"nothing": 0, "300 bytes": 300, "half": len(content) // 2, "all but the end": len(content) - end}[keep]
    path.write_bytes(content[:size])
    assert trained_on(module(path.parent, valid_share=0.0)) == sorted(f"u{i}" for i in (0, 1, 2, 3, 8, 9, 10, 11))
    assert f"{name} " in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"not json\n"), gzip.compress(b'{"id": "x"}\n')],
    ids=["not_gzip", "not_json", "not_a_cut"],
)
def test_a_manifest_of_something_else_is_named(tmp_path, caplog, content):
    path = shards(tmp_path) / "cuts.000001.jsonl.gz"
    path.write_bytes(content)
    assert len(trained_on(module(path.parent, valid_share=0.0))) == 8
    assert "cuts.000001.jsonl.gz" in caplog.text


def test_an_utterance_that_the_tar_lacks_is_counted(tmp_path, caplog):
    raw_shard(tmp_path / "s", [("a", "a", 0.5, "flac", encoded(noise(8000))), ("b", "a", 0.5, "nodata", b"")])
    assert trained_on(module(tmp_path / "s", valid_share=0.0)) == ["a"]
    assert "1 x no audio in the tar" in caplog.text


def test_damaged_utterances_are_skipped_with_the_reason(tmp_path, caplog):
    whole = encoded(noise(16000))
    nan = noise(8000)
    nan[100] = np.nan
    good = [(f"good{i}", "a", 0.5, "flac", encoded(noise(8000, i))) for i in range(12)]
    bad = [
        ("truncated", "a", 1.0, "flac", whole[: len(whole) // 2]),
        ("nan", "a", 0.5, "wav", encoded(nan, kind="WAV", subtype="FLOAT")),
        ("empty", "a", 0.5, "flac", b""),
        ("text", "a", 0.5, "flac", b"this is no audio at all"),
        ("shorter", "a", 2.0, "flac", encoded(noise(8000))),
        ("zero", "a", 0.0, "flac", encoded(np.zeros(0))),
    ]
    raw_shard(tmp_path / "s", good + bad)
    data = module(tmp_path / "s", valid_share=0.0, max_skipped_share=0.5)
    loader = data.train_loader(1)
    batches = list(loader)
    reasons = dict(skip for b in batches for skip in b.skipped)
    assert sorted(i for b in batches for i in b.ids) == sorted(name for name, *_ in good)
    assert set(reasons) == {name for name, *_ in bad}
    assert (loader.num_seen, loader.num_skipped) == (18, 6)
    assert "truncated" in reasons["truncated"] or "damaged" in reasons["truncated"]
    assert "NaN" in reasons["nan"] and "0.50 s, its manifest says 2.00 s" in reasons["shorter"]
    assert "skipped nan" in caplog.text


def test_stereo_and_44_khz_become_mono_at_16_khz(tmp_path):
    stereo = np.stack([noise(44100, 1), noise(44100, 2)], axis=1)
    raw_shard(tmp_path / "s", [("x", "a", 1.0, "flac", encoded(stereo, 44100))])
    (batch,) = module(tmp_path / "s", valid_share=0.0).train_loader(1)
    assert batch.audio.shape == (1, 16000)


def test_too_short_and_too_long_utterances_are_left_out_and_counted(tmp_path, caplog):
    entries = [
        (n, "a", seconds, "flac", encoded(noise(8000))) for n, seconds in (("ok", 0.5), ("ten_min", 600), ("z", 0))
    ]
    raw_shard(tmp_path / "s", entries)
    assert trained_on(module(tmp_path / "s", valid_share=0.0, min_utterance_duration=0.1)) == ["ok"]
    assert "1 utterances shorter than 0.1 s, 1 longer than 20 s" in caplog.text
    with pytest.raises(UserError, match="--max-utterance-duration"):
        module(tmp_path / "s", valid_share=0.0, min_utterance_duration=0.6).train_loader(1)


def test_symbols_outside_the_vocabulary(tmp_path, caplog, tokenizer):
    items = [(n, text, 0.5, "flac", encoded(noise(8000))) for n, text in (("in", "a b"), ("out", "a ʘ"))]
    raw_shard(tmp_path / "s", items)
    (batch,) = module(tmp_path / "s", tokenizer, valid_share=0.0).train_loader(1)
    assert dict(zip(batch.ids, batch.tokens))["out"] == [3, tokenizer.unk_id]
    assert "ʘ (1)" in caplog.text and "<unk>" in caplog.text
    (batch,) = module(tmp_path / "s", tokenizer, valid_share=0.0, unknown_symbols="skip").train_loader(1)
    assert batch.ids == ["in"] and "ʘ" in dict(batch.skipped)["out"]


def test_too_many_unusable_utterances_stop_the_run(tmp_path):
    good = [(f"good{i}", "a", 0.5, "flac", encoded(noise(8000, i))) for i in range(20)]
    bad = [(f"bad{i}", "a", 0.5, "flac", b"no audio") for i in range(15)]
    raw_shard(tmp_path / "s", good + bad)
    with pytest.raises(UserError, match=r"15 of 35 utterances are unusable.*--max-skipped-share"):
        trained_on(module(tmp_path / "s", valid_share=0.0, num_workers=1))


def test_what_the_loss_cannot_use_counts_too(tmp_path, caplog):
    """It is added to a batch by what takes it, and is judged like what the loader has left out."""
    good = [(f"good{i}", "a", 0.5, "flac", encoded(noise(8000, i))) for i in range(20)]
    bad = [(f"bad{i}", "a", 0.5, "flac", b"no audio") for i in range(3)]
    raw_shard(tmp_path / "s", good + bad)
    loader = module(tmp_path / "s", valid_share=0.0, max_skipped_share=0.5).train_loader(1)
    for number, batch in enumerate(loader):
        if number == 1:
            batch.to("cpu").skipped.append((batch.ids[0], "has no path"))
            named = f"skipped {batch.ids[0]}: has no path"
    assert (loader.num_seen, loader.num_skipped) == (23, 4)
    assert named in caplog.text
    with pytest.raises(UserError, match=r"23 of 23 utterances are unusable"):
        for batch in loader:
            batch.skipped += [(name, "has no path") for name in batch.ids]


def test_validation_without_a_usable_utterance_is_a_warning(tmp_path, caplog):
    raw_shard(tmp_path / "s/dev", [("bad", "a", 0.5, "flac", b"no audio")])
    (batch,) = module(tmp_path / "s").valid_loader()
    assert not len(batch) and "none of 1 utterances is usable" in caplog.text


def test_only_a_whole_pass_of_training_says_that_nothing_is_usable(tmp_path, caplog):
    """The rest of an epoch, or a few utterances that are a rank's share of it, say nothing of the data."""
    raw_shard(tmp_path / "few", [(f"bad{i}", "a", 0.5, "flac", b"no audio") for i in range(8)])
    few = module(tmp_path / "few", valid_share=0.0, max_duration=1.0)
    assert not any(map(len, few.train_loader(1, 0, 2)))
    with pytest.raises(UserError, match="none of 8 utterances is usable"):
        trained_on(few)
    raw_shard(tmp_path / "s", [(f"bad{i}", "a", 0.5, "flac", b"no audio") for i in range(15)])
    data = module(tmp_path / "s", valid_share=0.0, max_skipped_share=1.0)
    assert not any(map(len, data.train_loader(1, start_batch=1)))
    assert "none of" in caplog.text
    with pytest.raises(UserError, match="none of 15 utterances is usable"):
        trained_on(data)


def test_a_batch_with_nothing_usable_is_an_empty_batch(tmp_path):
    """Ranks stay in step: the batch is delivered, with its reasons."""
    good = [(f"good{i}", "a", 0.5, "flac", encoded(noise(8000, i))) for i in range(3)]
    raw_shard(tmp_path / "s", [*good, ("bad", "a", 2.9, "flac", b"no audio")])
    batches = list(module(tmp_path / "s", valid_share=0.0).train_loader(1))
    (empty,) = [b for b in batches if not len(b)]
    assert empty.audio.shape == (0, 0) and [name for name, _ in empty.skipped] == ["bad"]
