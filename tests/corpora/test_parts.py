"""Stage 3 shared among parts: in any order, repeated, killed and at the same time, the bytes are those of one run."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT, assert_one_line, run_program

from couloir.audio import load_audio
from couloir.data import shar as shar_module
from couloir.data.corpora import stages
from couloir.data.corpora.base import Utterance
from couloir.data.corpora.config import CorporaConfig, FilterConfig, SharConfig, SplitConfig
from couloir.data.corpora.manifest import read_dropped, write_manifest
from couloir.data.corpora.parts import Part, PendingSplit, parse_part
from couloir.data.corpora.registry import save_choice
from couloir.data.folder import find_splits
from couloir.errors import UserError

SPEECH = sorted((ROOT / "tests/data").glob("ru_*.flac"))[0]
FILTERS = FilterConfig(min_seconds=0.25)
SHAR = SharConfig(shard_size=2)
NAME = "user"


def manifest(data: Path, count: int = 20) -> Path:
    """Quarters of a second of a recording, four that cannot be decoded (shards without files), one for the filter."""
    utterances = [
        Utterance(f"u{i:02d}", str(SPEECH), f"word {i}", "ru", "s", ipa="abc", start=i / 20, duration=0.25)
        for i in range(count)
    ]
    nowhere = str(ROOT / "nowhere.wav")
    utterances[3:3] = [Utterance(f"no{i}", nowhere, "no", "ru", "s", ipa="abc", duration=0.25) for i in range(4)]
    utterances.append(Utterance("short", str(SPEECH), "x", "ru", "s", ipa="a", start=0, duration=0.1))
    write_manifest(data / f"phones/{NAME}.jsonl.gz", utterances)
    return data


def make(data: Path, part: str = "", **changes) -> None:
    splits = SplitConfig(**{"dev_share": 0.2, "heldout_share": 0.2, **changes})
    stages.make_shar([NAME], data, FILTERS, splits, SHAR, 1, parse_part(part, {}))


def content(data: Path) -> dict[str, bytes]:
    """Files by name; stamps name times and places, which differ."""
    files = {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.rglob("*")) if p.is_file()}
    return {name: b"" if name.endswith(".done") else found for name, found in files.items() if "phones" not in name}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, bytes]:
    data = manifest(tmp_path_factory.mktemp("straight") / "data")
    make(data)
    names = sorted(path.name for path in (data / "shar/train").glob("cuts.*"))
    assert names == [f"cuts.{number:06d}.jsonl.gz" for number in range(2, 7)]
    assert len(read_dropped(data / "dropped/shar-train.jsonl")) == 4
    return content(data)


def dies_after(monkeypatch, where: object, name: str, calls: int) -> None:
    real, seen = getattr(where, name), []

    def dies(*args, **kwargs):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, dies)


@pytest.mark.parametrize("order", ["0 1 2", "2 0 1 0", "1 1 0 2"])
def test_parts_in_any_order_make_the_bytes_of_one_run(straight, tmp_path, order):
    data = manifest(tmp_path / "data")
    for part in order.split():
        make(data, f"{part}/3")
        assert [path.name for path in (data / "shar").iterdir()] == [".parts"]  # nothing that a reader would take
    make(data)
    assert content(data) == straight


@pytest.mark.parametrize(
    "where, name", [(shar_module, "encode_flac"), (PendingSplit, "mark"), (shar_module, "_write_shard")]
)
def test_a_part_that_is_killed_makes_only_the_rest(straight, tmp_path, monkeypatch, where, name):
    data = manifest(tmp_path / "data")
    make(data, "0/3")
    dies_after(monkeypatch, where, name, calls=1)
    with pytest.raises(KeyboardInterrupt):
        make(data, "1/3")
    monkeypatch.undo()
    marks = {path: path.stat().st_mtime_ns for path in data.rglob("*.marks/*.json")}
    (pending,) = (data / "shar/.parts").glob("*/train")
    (pending / ".recording.000001.tar.77.tmp").write_bytes(b"of a process that had no time to remove it")
    for part in ("1/3", "2/3"):
        make(data, part)
    assert marks.items() <= {path: path.stat().st_mtime_ns for path in data.rglob("*.marks/*.json")}.items()
    make(data)
    assert content(data) == straight


def test_a_missing_part_is_named_and_an_older_folder_stays_until_all_is_there(straight, tmp_path):
    data = manifest(tmp_path / "data", count=9)
    make(data)
    old = content(data / "shar")
    manifest(data)
    make(data, "0/3")
    with pytest.raises(UserError, match=r"\d shards are missing, of part 1/3, 2/3; run prepare.sh --stage 3 "):
        make(data)
    make(data, "2/3")
    with pytest.raises(UserError, match="4 shards are missing, of part 1/3; run"):
        make(data)
    assert {name: found for name, found in content(data / "shar").items() if ".parts" not in name} == old
    assert all(".parts" not in str(s.cuts) for found in find_splits([data / "shar"]).values() for s in found)
    make(data, "0/1")  # whatever is missing
    make(data)
    assert content(data) == straight


@pytest.mark.parametrize("where, name", [(stages, "forget_parts"), (stages, "mark_done"), (Path, "rename")])
def test_a_completion_that_is_killed_is_repeated(straight, tmp_path, monkeypatch, where, name):
    data = manifest(tmp_path / "data")
    for part in ("0/2", "1/2"):
        make(data, part)
    for calls in (0, 1, 2):
        dies_after(monkeypatch, where, name, calls)
        with contextlib.suppress(KeyboardInterrupt):
            make(data)
        monkeypatch.undo()
    make(data)
    assert content(data) == straight


def test_one_run_that_is_killed_goes_on_where_it_was(straight, tmp_path, monkeypatch):
    data = manifest(tmp_path / "data")
    dies_after(monkeypatch, shar_module, "_write_shard", calls=4)
    with pytest.raises(KeyboardInterrupt):
        make(data)
    monkeypatch.undo()
    dies_after(monkeypatch, shar_module, "_write_shard", calls=7 + 3 + 3 - 4)  # as many as are left
    make(data)
    assert content(data) == straight


def test_recordings_that_are_nowhere_to_be_found_do_not_make_an_empty_folder(straight, tmp_path, monkeypatch):
    """As when paths are relative and the program was started elsewhere; from the right place it goes on."""
    data = manifest(tmp_path / "data")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(shar_module, "load_audio", lambda *_, **__: load_audio(tmp_path / "nowhere.wav"))
        elsewhere.setattr(stages, "load_audio", lambda *_, **__: load_audio(tmp_path / "nowhere.wav"))
        stages._samples.cache_clear()
        with pytest.raises(UserError, match="none of the .* recordings of train can be decoded; .*nowhere.wav"):
            make(data)
    stages._samples.cache_clear()
    assert not (data / "shar/train").exists()
    make(data)
    assert content(data) == straight


def test_parts_with_other_flags_are_refused(tmp_path):
    data = manifest(tmp_path / "data")
    make(data, "0/2")
    for part in ("1/2", ""):
        with pytest.raises(UserError, match=r"\.parts/\w+ was made by parts with other flags or data; give all"):
            make(data, part, split_seed=5)


SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}


@pytest.mark.parametrize(
    "text, environment, part",
    [
        ("", SLURM, None),
        ("0/1", {}, Part(0, 1)),
        ("5/8", SLURM, Part(5, 8)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_PROCID": "0"}, Part(3, 8)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "4"}, Part(1, 4)),
        ("auto", {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}, Part(2, 3)),
    ],
)
def test_which_part_this_is(text, environment, part):
    assert parse_part(text, environment) == part


@pytest.mark.parametrize(
    "text, environment, message",
    [
        ("8/8", {}, "`--part` must be K/N .*but is 8/8"),
        ("3", {}, "but is 3"),
        ("-1/8", {}, "but is -1/8"),
        ("auto", {}, "but is auto"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "4"}, "`--array` must be 0-N .*give --part 3/N instead"),
    ],
)
def test_what_is_no_part(text, environment, message):
    with pytest.raises(UserError, match=message):
        parse_part(text, environment)


def test_the_programs_say_it_in_one_line(tmp_path):
    save_choice(manifest(tmp_path / "data"), CorporaConfig(user_data=tmp_path))
    flags = ["--data-dir", "data", "--nj", 1, "--shard-size", 2, "--min-seconds", 0.25]
    run_program(tmp_path, "local/make_shar.py", [*flags, "--part", "auto"], RANK="0", WORLD_SIZE="2")
    assert_one_line(run_program(tmp_path, "local/make_shar.py", flags, check=False), "of part 1/2", "--part K/2")
    assert_one_line(run_program(tmp_path, "local/make_shar.py", [*flags, "--shard-size", 0], check=False), "at least 1")


def test_the_batch_script_makes_a_task_of_an_array_a_part(tmp_path):
    stub = tmp_path / "prepare.sh"
    stub.write_text('#!/usr/bin/env bash\necho "$@"\n')
    stub.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path), "CONTAINER": ""}

    def said(**more: str) -> str:
        command = ["bash", str(ROOT / "egs/slurm/prepare.sbatch"), "--max-seconds", "15"]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True).stdout

    assert said() == "--nj 8 --max-seconds 15\n"
    assert said(SLURM_ARRAY_TASK_ID="3") == "--nj 8 --stage 3 --stop-stage 3 --part auto --max-seconds 15\n"
    done = subprocess.run([ROOT / "prepare.sh", "--part", "0/2"], capture_output=True, text=True)
    assert done.returncode == 2 and "`--part` belongs to stage 3, give --stage 3 --stop-stage 3" in done.stderr


@pytest.mark.slow
def test_parts_at_the_same_time_one_of_them_twice(straight, tmp_path):
    data = manifest(tmp_path / "data")
    save_choice(data, CorporaConfig(user_data=tmp_path))
    shape = ["--shard-size", "2", "--min-seconds", "0.25", "--dev-share", "0.2", "--heldout-share", "0.2"]
    command = [sys.executable, str(ROOT / "local/make_shar.py"), *shape, "--nj", "1", "--data-dir", str(data), "--part"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([*command, f"{part}/2"], env=environment) for part in "011"]
    codes = [process.wait() for process in running]
    assert codes[0] == 0 and sorted(codes[1:]) in ([0, 2], [0, 0])  # refused, or started when the other had ended
    (data / "corpora.yaml").unlink()
    make(data)
    assert content(data) == straight
