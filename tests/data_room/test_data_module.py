import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shar_tools import module, noise, reason_to_skip, utterances
from torch.utils.data._utils import signal_handling

from couloir.data import folder
from couloir.data.config import DataConfig
from couloir.data.dataset import BatchDataset, Preparation
from couloir.data.folder import INDEX_FOLDER, folder_corpus
from couloir.data.shar import SharUtterance, iterate_shar, write_shar
from couloir.errors import UserError
from couloir.text.tokenizer import TokenTable


def contents(loader):
    return [(b.index, b.ids, b.audio, b.audio_lens) for b in loader]


def same(one, other):
    return len(one) == len(other) and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) and torch.equal(a[3], b[3]) for a, b in zip(one, other)
    )


def prepared(root):
    for name, count in (("train", 30), ("dev", 7), ("test-heldout", 5), ("test-unseen-languages", 4)):
        write_shar(utterances(count, name + "-"), root / name, shard_size=10)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_first_k_and_the_rest_are_the_epoch(flat_folder, workers):
    data = module(flat_folder, num_workers=workers)
    for rank, world_size, k in ((0, 1, 5), (1, 2, 3)):
        whole = contents(data.train_loader(3, rank, world_size))
        rest = contents(data.train_loader(3, rank, world_size, start_batch=k))
        assert same(whole[k:], rest) and rest[0][0] == k
        assert len(data.train_loader(3, rank, world_size, start_batch=k)) == len(rest)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_resume_law_for_any_epoch_rank_and_place(flat_folder, data):
    epoch, world_size = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 4))
    loaders = module(flat_folder)
    batches = len(loaders.train_loader(epoch, 0, world_size))
    k = data.draw(st.integers(0, batches))
    seen = []
    for rank in range(world_size):
        items = list(loaders.train_loader(epoch, rank, world_size).items)
        rest = list(module(flat_folder).train_loader(epoch, rank, world_size, k).items)
        assert len(items) == batches
        assert [(i, u.tolist()) for i, u in items[k:]] == [(i, u.tolist()) for i, u in rest]
        seen += [int(u) for _, numbers in items for u in numbers]
    held_out = [b.ids for b in loaders.valid_loader()]
    assert len(seen) == len(set(seen)) == 97 - sum(map(len, held_out))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_duration": 2.0}, "--max-duration"),
        ({"num_buckets": 3}, "--num-buckets"),
        ({"seed": 8}, "--seed"),
        ({"max_utterance_duration": 0.5}, "--max-utterance-duration the utterances"),
        ({"shuffle_shards": 2}, "--shuffle-shards"),
        ({"drop_last": True}, "--drop-last"),
        ({"shuffle": False}, "--shuffle"),
        ({"bucketing_sampler": False}, "--bucketing-sampler"),
    ],
)
def test_the_fingerprint_of_a_plan_names_what_changed_it(flat_folder, change, named):
    before, after = (module(flat_folder, **options).plan_fingerprint(2, 3) for options in ({}, change))
    assert before["plan"] != after["plan"]
    assert " ".join(name for name in after if after[name] != before[name]) == f"{named} plan"


def test_the_fingerprint_of_a_plan_is_of_its_batches_alone(flat_folder, tmp_path):
    here = module(flat_folder).plan_fingerprint(2)
    assert here["plan"] != module(flat_folder).plan_fingerprint(3)["plan"]
    assert here["plan"] != module(flat_folder).plan_fingerprint(2, 2)["plan"]
    # Not of where the data is, nor of who reads it; flags that come to the same batches are no change.
    shutil.copytree(flat_folder, tmp_path / "moved")
    assert module(tmp_path / "moved", num_workers=3).plan_fingerprint(2) == here
    assert module(flat_folder, max_utterances=1000).plan_fingerprint(2)["plan"] == here["plan"]
    write_shar(utterances(3, "more"), tmp_path / "moved" / "more")
    more = module(tmp_path / "moved").plan_fingerprint(2)
    assert {name for name in more if more[name] != here[name]} == {"the utterances", "plan"}


def test_order_does_not_depend_on_loader_processes_or_random_states(flat_folder):
    reference = contents(module(flat_folder).train_loader(1))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    for options in ({"num_workers": 1}, {"num_workers": 3, "prefetch": 1}):
        assert same(reference, contents(module(flat_folder, **options).train_loader(1)))
    assert not same(reference, contents(module(flat_folder).train_loader(2)))
    assert not same(reference, contents(module(flat_folder, seed=8).train_loader(1)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_random_states_alone(flat_folder, workers):
    """A checkpoint's random states are restored before the loader starts; it must not move them."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for _ in module(flat_folder, num_workers=workers).train_loader(1):
        pass
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_signals_that_stop_a_run_leave_the_loader_processes_to_the_trainer(flat_folder):
    """A scheduler signals every process of a job; batches still come while the trainer saves."""
    expected = contents(module(flat_folder).train_loader(1))
    batches = iter(module(flat_folder, num_workers=2, prefetch=1).train_loader(1))
    found = [next(batches), next(batches)]  # one of each process: before that it may not have its handlers yet
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(worker.pid, number)
    assert same(expected, contents([*found, *batches]))
    assert not any(worker.is_alive() for worker in workers)


def test_signals_that_reach_a_loader_process_while_it_starts_do_not_end_it(flat_folder, monkeypatch):
    """torch's own handler, which comes before ours, leaves on SIGTERM; the run would end before it is saved."""
    set_handlers = signal_handling._set_worker_signal_handlers

    def signalled():
        set_handlers()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches = contents(module(flat_folder, num_workers=2, prefetch=1).train_loader(1))
    assert same(contents(module(flat_folder).train_loader(1)), batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == held


def test_the_dataset_can_be_handed_to_a_spawned_process(flat_folder, tokenizer):
    corpus = folder_corpus([flat_folder])
    dataset = BatchDataset(corpus, Preparation(tokenizer, reason_to_skip=reason_to_skip))
    item = (0, np.array([3, 50]))
    before = dataset[item]
    text = pickle.dumps(dataset)
    assert len(text) < 20_000  # the paths, not the mapped arrays
    after = pickle.loads(text)[item]
    assert before.ids == after.ids and torch.equal(before.audio, after.audio)


def test_batches_hold_what_was_written(tmp_path, tokenizer):
    write_shar(utterances(40, shortest=0.3), tmp_path / "s", shard_size=9)
    written = {u.id: u for u in iterate_shar(tmp_path / "s")}
    data = module(tmp_path / "s", tokenizer)
    batches = list(data.train_loader(1))
    for batch in batches:
        assert batch.audio.dtype == torch.float32 and batch.audio_lens.dtype == torch.int64
        assert len(batch) == len(batch.ids) and not batch.skipped
        for i, name in enumerate(batch.ids):
            expected, length = written[name], int(batch.audio_lens[i])
            assert np.array_equal(batch.audio[i, :length].numpy(), expected.audio)
            assert not batch.audio[i, length:].any()
            assert (batch.texts[i], batch.languages[i]) == ("a b", "ru") and batch.speakers[i] == expected.speaker
            assert batch.tokens[i] == tokenizer.encode("a b")
    assert [b.index for b in batches] == list(range(len(data.train_loader(1))))
    moved = batches[0].to("cpu")
    assert moved.ids == batches[0].ids and moved.index == 0


def test_a_prepared_folder_has_its_splits(tmp_path):
    data = module(prepared(tmp_path))
    assert data.test_sets() == ["test-heldout", "test-unseen-languages"]
    assert sorted(i for b in data.test_loader("test-heldout") for i in b.ids) == [f"test-heldout-{i}" for i in range(5)]
    assert sorted(i for b in data.valid_loader() for i in b.ids) == sorted(f"dev-{i}" for i in range(7))
    assert sorted(i for b in data.train_loader(1) for i in b.ids) == sorted(f"train-{i}" for i in range(30))
    with pytest.raises(UserError, match=r"test-helout.*did you mean `test-heldout`"):
        data.test_loader("test-helout")


@pytest.mark.parametrize("names", [("dev-clean", "dev_other"), ("dev-clean",), ("dev", "Dev-Other"), ("dev",)])
def test_several_development_sets_are_validated_on_together_and_decoded_apart(tmp_path, names):
    write_shar(utterances(20, "train-"), tmp_path / "train")
    for name in names:
        write_shar(utterances(3, name + "-"), tmp_path / name)
    data = module(tmp_path)
    ids = {name: [f"{name}-{i}" for i in range(3)] for name in names}
    everything = sorted(id for some in ids.values() for id in some)
    assert sorted(i for b in data.valid_loader() for i in b.ids) == everything
    assert sorted(i for b in data.test_loader("dev") for i in b.ids) == everything
    assert data.dev_sets() == sorted(name for name in names if name != "dev") and data.test_sets() == []
    for name in data.dev_sets():
        assert sorted(i for b in data.test_loader(name) for i in b.ids) == ids[name]
    assert sum(len(b) for b in data.train_loader(1)) == 20


def test_long_utterances_of_a_test_are_left_out_and_named_unless_the_bound_is_lifted(tmp_path, caplog):
    write_shar(utterances(5), tmp_path / "test-x")
    long = SharUtterance("long", noise(16000), "a b")
    write_shar([*utterances(14, "v", shortest=0.8, longest=0.9), long], tmp_path / "test-y")
    data = module(tmp_path, max_test_utterance_duration=0.7)
    assert sum(len(b) for b in data.test_loader("test-x")) == 5 and not caplog.records
    assert not list(data.test_loader("test-y"))
    assert "test-y: 15 of 15 utterances left out" in caplog.text and caplog.text.count("v") >= 9
    everything = module(tmp_path, max_test_utterance_duration=0).test_loader("test-y")
    assert sum(len(b) for b in everything) == 15


def test_validation_is_dealt_to_ranks_from_long_to_short(tmp_path):
    data = module(prepared(tmp_path), max_duration=1.0)
    ranks = [list(data.valid_loader(rank, 2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    ids = [i for batches in ranks for b in batches for i in b.ids]
    assert sorted(ids) == sorted(f"dev-{i}" for i in range(7))
    longest = [int(b.audio_lens.max()) for b in data.valid_loader()]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("special", [["<blk>", "<unk>"], ["<blk>"]], ids=["unk", "no unk"])
def test_what_the_vocabulary_lacks_is_said_once_with_its_fate(tmp_path, caplog, special):
    for name in ("train", "dev", "test-x"):
        write_shar([*utterances(9, f"{name}a", text="a c"), *utterances(3, f"{name}b", text="a é")], tmp_path / name)
    tokenizer = TokenTable([*special, "a", "'"])
    data = module(tmp_path, tokenizer)
    data.test_loader("test-x")
    said = "outside the vocabulary, and never recognised in test-x (texts of 12 looked at): c (9), é (3)"
    assert about_the_vocabulary(caplog) == [said]
    caplog.clear()
    for epoch in (1, 2):
        data.train_loader(epoch)
    kept = "kept as <unk>" if len(special) > 1 else "left out of their texts: there is no <unk>"
    said = f"outside the vocabulary, and {kept} (texts of 12 looked at): c (9), é (3)"
    assert about_the_vocabulary(caplog) == [said]
    caplog.clear()
    module(tmp_path, tokenizer, unknown_symbols="skip").train_loader(1)
    assert [line.split(" (")[0] for line in about_the_vocabulary(caplog)] == ["outside the vocabulary, and left out"]


def about_the_vocabulary(caplog):
    return [line for line in caplog.messages if line.startswith("outside the vocabulary")]


def test_an_utterance_longer_than_a_batch_is_trained_on_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    data = module(prepared(tmp_path), max_duration=0.2, max_utterance_duration=20.0)
    batches = list(data.train_loader(1))
    assert sorted(i for b in batches for i in b.ids) == sorted(f"train-{i}" for i in range(30))
    assert max(len(b.ids) for b in batches) == 1
    assert "longer than --max-duration are batches of their own" in caplog.text


def test_few_validation_utterances_for_many_ranks(tmp_path):
    write_shar(utterances(3), tmp_path / "dev")
    loaders = [module(tmp_path).valid_loader(rank, 5) for rank in range(5)]
    assert [len(loader) for loader in loaders] == [1] * 5
    assert sorted(len(b) for loader in loaders for b in loader) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(("drop_last", "named"), [(True, "or leave out `--drop-last`"), (False, "`--max-duration`$")])
def test_fewer_batches_than_ranks_are_refused(tmp_path, drop_last, named):
    write_shar(utterances(4), tmp_path / "s")
    data = module(tmp_path / "s", valid_share=0.0, max_duration=60.0, drop_last=drop_last)
    with pytest.raises(UserError, match=rf"4 utterances make fewer batches than `--world-size` 5.*{named}"):
        data.train_loader(1, 0, 5)


def test_shards_beside_a_train_folder_are_left_out_by_name(tmp_path, caplog):
    write_shar(utterances(3, "a"), tmp_path / "ipapack_train_1")
    write_shar(utterances(3, "b"), tmp_path / "ipapack_test_doreco")
    write_shar(utterances(3, "c"), tmp_path / "old")
    data = module(tmp_path, valid_share=0.0)
    assert {i for b in data.train_loader(1) for i in b.ids} == {"a0", "a1", "a2"}
    assert data.test_sets() == ["ipapack_test_doreco"]
    assert "old/cuts.000000.jsonl.gz is left out" in caplog.text


def test_a_loader_process_that_dies_is_one_clear_line(flat_folder):
    batches = iter(module(flat_folder, num_workers=1, prefetch=1).train_loader(1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"lower --num-workers"):
        list(batches)


def test_shards_at_any_depth_train_and_a_share_is_held_out_by_id(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_shar(utterances(60, "x"), tmp_path / "pack" / "part_1", shard_size=20)
    write_shar(utterances(40, "y"), tmp_path / "pack" / "deep" / "er", shard_size=20)
    data = module(tmp_path / "pack", valid_share=0.1)
    valid = {i for b in data.valid_loader() for i in b.ids}
    train = {i for b in data.train_loader(1) for i in b.ids}
    assert len(valid) == 10 and len(train) == 90 and not valid & train
    assert "10 of 100 utterances" in caplog.text
    assert {i for b in data.test_loader("dev") for i in b.ids} == valid
    write_shar([*utterances(60, "x")][::-1], tmp_path / "again" / "one", shard_size=7)
    write_shar(utterances(40, "y"), tmp_path / "again" / "two")
    assert {i for b in module(tmp_path / "again", valid_share=0.1).valid_loader() for i in b.ids} == valid


def test_several_folders_are_one_set(tmp_path):
    prepared(tmp_path / "a")
    write_shar(utterances(10, "more-"), tmp_path / "b")
    data = module(f"{tmp_path / 'a'}, {tmp_path / 'b'}")
    assert sum(len(b) for b in data.train_loader(1)) == 40
    assert sum(len(b) for b in data.valid_loader()) == 7


def test_icefalls_manifest_names_say_the_split(tmp_path):
    """train-all-shuf holds train-clean-100 as well; musan is no speech."""
    import soundfile
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    def cuts(prefix, count):
        for i in range(count):
            path = tmp_path / f"{prefix}{i}.wav"
            soundfile.write(path, noise(4800, i), 16000)
            supervision = SupervisionSegment(f"{prefix}{i}", f"{prefix}{i}", 0, 0.3, text="a")
            recording = Recording.from_file(path)
            yield MonoCut(f"{prefix}{i}", 0, 0.3, 0, supervisions=[supervision], recording=recording)

    for name, prefix, count in (
        ("librispeech_cuts_train-clean-100", "train", 4),
        ("librispeech_cuts_train-all-shuf", "train", 6),
        ("librispeech_cuts_dev-clean", "dev", 3),
        ("librispeech_cuts_test-other", "test", 2),
        ("musan_cuts", "musan", 2),
    ):
        CutSet.from_cuts(cuts(prefix, count)).to_file(tmp_path / f"{name}.jsonl.gz")
    data = module(tmp_path)
    assert sorted(i for b in data.train_loader(1) for i in b.ids) == [f"train{i}" for i in range(6)]
    assert data.test_sets() == ["test-other"]
    assert sum(len(b) for b in data.valid_loader()) == 3


def test_hardest_batches_have_the_longest_utterance(flat_folder):
    data = module(flat_folder)
    longest = max(int(b.audio_lens.max()) for b in data.train_loader(1))
    worst = data.hardest_batches()
    assert max(int(b.audio_lens.max()) for b in worst) == longest
    assert 1 <= len(worst) <= 4


def test_an_index_is_made_once_and_again_when_a_shard_changes(tmp_path):
    write_shar(utterances(6), tmp_path / "s", shard_size=3)
    module(tmp_path / "s").train_loader(1)
    indexes = sorted((tmp_path / "s" / INDEX_FOLDER).iterdir())
    times = [p.stat().st_mtime_ns for p in indexes]
    module(tmp_path / "s").train_loader(1)
    assert [p.stat().st_mtime_ns for p in indexes] == times
    indexes[0].write_bytes(indexes[0].read_bytes()[:40])  # a damaged index is made again
    assert sum(len(b) for b in module(tmp_path / "s", valid_share=0.0).train_loader(1)) == 6


def test_indexes_can_lie_elsewhere(tmp_path):
    write_shar(utterances(6), tmp_path / "s")
    module(tmp_path / "s", index_dir=str(tmp_path / "indexes")).train_loader(1)
    assert not (tmp_path / "s" / INDEX_FOLDER).exists()
    assert len(list((tmp_path / "indexes").rglob("*.index"))) == 1


def test_indexing_in_processes_gives_the_same(flat_folder, tmp_path):
    one, two = (folder_corpus([flat_folder], index_dir=str(tmp_path / str(jobs)), jobs=jobs) for jobs in (1, 2))
    assert np.array_equal(one.column("hash"), two.column("hash")) and len(one) == 97


def test_ranks_begin_at_different_shards_whatever_their_numbers(monkeypatch):
    """Processes of several machines, each in its container, may have one number."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    begun = []
    monkeypatch.setattr(folder, "_built", lambda stale, jobs: begun.append(stale[0]) or [])
    for _ in range(10):
        folder._build_all(list(range(100)), 1)
    assert len(set(begun)) > 1


def test_utterances_too_short_for_their_text_are_named(tmp_path, tokenizer):
    texts = {"fits": "a b", "long": "a" * 40, "repeats": "a a", "empty": ""}
    items = [SharUtterance(name, noise(4000), text) for name, text in texts.items()]
    write_shar(items, tmp_path / "s")
    data = module(tmp_path / "s", tokenizer, valid_share=0.0, max_skipped_share=0.9)
    assert reason_to_skip([1] * 40, 4000) == "is too short for its 40 tokens: 5 frames, 79 needed"  # 5 of 25
    (batch,) = list(data.train_loader(1))
    reasons = dict(batch.skipped)
    assert set(batch.ids) == {"fits", "repeats"}
    assert "40 tokens" in reasons["long"] and "no transcript" in reasons["empty"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_duration": 0.0}, "--max-duration"),
        ({"num_workers": -1}, "--num-workers"),
        ({"max_utterance_duration": 0.5}, "--max-utterance-duration"),
        ({"valid_share": 1.0}, "--valid-share"),
        ({"manifest_dir": " "}, "--manifest-dir"),
    ],
)
def test_contradicting_flags_are_refused_by_name(options, word):
    with pytest.raises(UserError, match=word):
        DataConfig(**options)
