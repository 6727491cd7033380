"""Seeded damage to every file of a shard: a cut is read and equal, or left out by name, or all is one line."""

import gzip
import json
import os

import numpy as np
import pytest
from shar_tools import encoded, noise, tar_of

from couloir.data.folder import INDEX_FOLDER, folder_corpus
from couloir.data.reading import AudioReader
from couloir.errors import UserError

IDS = ["first", "x", "last"]
PIECES = [b"NaN", b"Infinity", b"-1", b"null", b"true", b"[]", b"{}", b'""', b"1e400", b"\\ud800", b"\\u0000", b"\n",
          b'"', b",", b"9" * 30, b"\xff", b"\0", b"command", b"MixedCut", b"../" * 9, b"[" * 2000]  # fmt: skip
SEEDS = [
    pytest.param(range(100), id="fast"),
    *(pytest.param(range(n, n + 380), id=f"from_{n}", marks=pytest.mark.slow) for n in range(100, 2000, 380)),
]


def mutated(content, rng):
    """Bytes with one to four kinds of damage."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(found) + 1))
        length = int(rng.integers(1, 60))
        kind = int(rng.integers(0, 7))
        if kind == 0 and at < len(found):
            found[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            found[at:at] = PIECES[int(rng.integers(0, len(PIECES)))]
        elif kind == 2:
            piece = PIECES[int(rng.integers(0, len(PIECES)))]
            found[at : at + len(piece)] = piece
        elif kind == 3:
            del found[at : at + length]
        elif kind == 4:
            found[at:at] = found[at : at + length]
        elif kind == 5:
            found[at : at + length] = rng.bytes(length)
        elif int(rng.integers(0, 4)) == 0:
            del found[at:]
    return bytes(found)


def mutated_value(line, rng):
    """The line with one value of the JSON exchanged, so that it still is JSON."""
    values = json.loads(line)
    places = [(values, key) for key in values]
    for inner in (values["recording"], values["supervisions"][0]):
        places += [(inner, key) for key in inner]
    strange = [None, True, -1, 0, 1e300, float("nan"), float("inf"), "", "1.0", "\ud800", [], {}, [1], {"a": []}, 70000]
    holder, key = places[int(rng.integers(0, len(places)))]
    if rng.integers(0, 4):
        holder[key] = strange[int(rng.integers(0, len(strange)))]
    else:
        del holder[key]
    return json.dumps(values).encode()


def cut_line(name):
    supervision = {"id": name, "recording_id": name, "start": 0, "duration": 0.1, "text": f"text of {name}"}
    recording = {"id": name, "sources": [{"type": "shar", "channels": [0], "source": ""}], "sampling_rate": 16000}
    made = {"id": name, "start": 0, "duration": 0.1, "channel": 0, "supervisions": [supervision], "custom": {"a": 1}}
    return json.dumps({**made, "recording": {**recording, "num_samples": 1600}, "type": "MonoCut"}).encode()


def level(name):
    return np.full(1600, 0.1 * (1 + IDS.index(name)), np.float32)


@pytest.fixture
def shard(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of indexes, none of which outlives the test
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(b"\n".join(map(cut_line, IDS)) + b"\n", mtime=0))
    tar_of(folder / "recording.000000.tar", [(f"{n}.wav", encoded(level(n), kind="WAV", subtype="FLOAT")) for n in IDS])
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # indexes hold the time: each run damages the same bytes
    return folder


def read_all(folder):
    """Id -> samples of what can be read."""
    try:
        corpus = folder_corpus([folder])
    except UserError as error:
        assert "\n" not in str(error)
        return {}
    reader = AudioReader(corpus)
    read = [reader.read(number) for number in range(len(corpus))]
    reader.close()
    return {utterance.id: samples for utterance, samples in read if not isinstance(samples, UserError)}


def outcome(folder):
    """Id -> (text, whether the audio is its own) of what was read; None where all ended in one line."""
    try:
        corpus = folder_corpus([folder])
    except UserError as error:
        assert "\n" not in str(error)
        return None
    assert all("\n" not in problem for problem in corpus.problems)
    reader, found = AudioReader(corpus), {}
    for number in range(len(corpus)):
        utterance, samples = reader.read(number)
        assert isinstance(samples, UserError) or np.isfinite(samples).all()
        if not isinstance(samples, UserError):
            own = utterance.id in IDS and np.array_equal(samples, level(utterance.id)[: len(samples)])
            found[utterance.id] = utterance.text, own
    reader.close()
    return found


WHOLE = {name: (f"text of {name}", True) for name in IDS}


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_line_is_read_or_left_out_and_the_others_are_as_they_were(shard, seeds):
    lines = list(map(cut_line, IDS))
    outcomes = set()
    for seed in seeds:
        rng = np.random.default_rng((1, seed))
        changed = mutated_value(lines[1], rng) if seed % 2 else mutated(lines[1], rng)
        content = b"\n".join([lines[0], changed, lines[2]]) + b"\n"
        (shard / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(content, 1))
        found = outcome(shard)
        assert found is not None and found["first"] == WHOLE["first"] and found["last"] == WHOLE["last"], (
            seed,
            changed,
        )
        assert set(found) <= set(IDS) and all(own for _, own in found.values()), (seed, changed)
        outcomes.add(len(found))
    assert outcomes == {2, 3}


@pytest.mark.parametrize("seeds", SEEDS)
def test_an_index_is_believed_only_whole(shard, seeds):
    assert outcome(shard) == WHOLE
    (path,) = (shard / INDEX_FOLDER).glob("*.index")
    content = path.read_bytes()
    for seed in seeds:
        changed = mutated(content, np.random.default_rng((2, seed)))
        path.write_bytes(changed)
        assert outcome(shard) == WHOLE, seed
        found = path.read_bytes()  # made again, or left where its first line says the same in other bytes
        assert found == content or found.partition(b"\n")[2] == content.partition(b"\n")[2], seed


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_packed_manifest_is_read_whole_or_its_lines_are_left_out(shard, seeds):
    path = shard / "cuts.000000.jsonl.gz"
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(mutated(content, np.random.default_rng((3, seed))))
        found = outcome(shard)
        assert found is None or found.items() <= WHOLE.items(), seed


@pytest.mark.parametrize("seeds", SEEDS)
def test_audio_of_a_damaged_tar_is_never_that_of_another_cut(shard, seeds):
    """FLAC's frames have sums: what is read is what was written, or the zeros that stand for a lost frame."""
    path = shard / "recording.000000.tar"
    waves = {name: noise(1600, number) for number, name in enumerate(IDS)}
    tar_of(path, [(f"{name}.flac", encoded(wave)) for name, wave in waves.items()])
    content, whole = path.read_bytes(), read_all(shard)
    assert set(whole) == set(IDS) and all(np.abs(whole[name] - waves[name]).max() < 1e-4 for name in IDS)
    for seed in seeds:
        path.write_bytes(mutated(content, np.random.default_rng((4, seed))))
        found = read_all(shard)
        for name, samples in found.items():
            assert name in IDS and np.array_equal(samples, whole[name][: len(samples)]), (seed, name)
