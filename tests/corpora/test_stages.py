"""The stages on three real utterances, as a person's own folder: repeated, killed, damaged; and prepare.sh itself."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from programs import ROOT, run_program

from couloir.audio import load_audio
from couloir.data.corpora import stages
from couloir.data.corpora.base import Phone, Utterance
from couloir.data.corpora.config import CorporaConfig, FilterConfig, SharConfig, SplitConfig
from couloir.data.corpora.festvox import read_labels
from couloir.data.corpora.manifest import Dropped, read_dropped, read_manifest, write_manifest
from couloir.data.corpora.page import as_html
from couloir.data.corpora.registry import save_choice
from couloir.data.corpora.statistics import as_text, collect, read_cuts
from couloir.data.corpora.user import UserData
from couloir.data.corpora.validation import validate
from couloir.errors import UserError

DATA = ROOT / "tests/data"
NAMES = sorted(path.stem for path in DATA.glob("ru_*.flac"))
FILTERS, SHAR = FilterConfig(), SharConfig(shard_size=2)
SPLITS = SplitConfig(dev_share=0.2, heldout_share=0.3)


@pytest.fixture
def speech(tmp_path) -> Path:
    """Three utterances by `nsh`, with IPA of their gold labels, and a recording that is none."""
    folder = tmp_path / "speech"
    (folder / "nsh").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(DATA / f"{name}.flac", folder / "nsh")
        phones = read_labels(DATA / f"{name}.lab")
        (folder / f"nsh/{name}.ipa").write_text("".join(phone.symbol for phone in phones), encoding="utf-8")
        shutil.copy(DATA / f"{name}.txt", folder / "nsh")
    (folder / "nsh/broken.wav").write_bytes(b"RIFF")
    (folder / "nsh/broken.txt").write_text("сломано")
    return folder


def prepare(speech: Path, data: Path, nj: int = 1) -> None:
    corpus = UserData(speech, "ru")
    stages.make_manifest(corpus, data / "download", data, CorporaConfig(user_data=speech))
    stages.make_phones("user", data, nj)
    stages.make_shar(["user"], data, FILTERS, SPLITS, SHAR, nj)


def content(data: Path) -> dict[str, bytes]:
    return {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.rglob("*")) if p.is_file()}


def without_stamps(folder: Path) -> dict[str, bytes]:
    """Files by name; stamps name times and places, which differ."""
    return {name: data for name, data in content(folder).items() if not name.endswith(".done")}


def test_lhotse_reads_what_was_prepared(speech, tmp_path):
    from lhotse import CutSet

    prepare(speech, tmp_path / "data")
    seen = {}
    for split in ("train", "dev", "test-heldout"):
        for cut in CutSet.from_shar(in_dir=tmp_path / "data/shar" / split):
            supervision = cut.supervisions[0]
            name = cut.id.rpartition("-")[2]
            assert supervision.text == "".join(phone.symbol for phone in read_labels(DATA / f"{name}.lab"))
            assert (supervision.language, supervision.speaker) == ("ru", "user_nsh")
            assert supervision.custom["orthography"] == (DATA / f"{name}.txt").read_text().strip()
            np.testing.assert_allclose(cut.load_audio()[0], load_audio(DATA / f"{name}.flac"), atol=1e-7)
            seen[name] = split
    assert sorted(seen) == NAMES and sorted(seen.values()) == ["dev", "test-heldout", "train"]
    (dropped,) = read_dropped(tmp_path / "data/dropped/manifests-user.jsonl")
    assert dropped.reason == "cannot be read" and "broken.wav" in dropped.detail
    assert validate(tmp_path / "data", 1).problems == []


def test_gold_phones_keep_their_times(tmp_path):
    utterances = [
        Utterance(name, str(DATA / f"{name}.flac"), name, "ru", "nsh", read_labels(DATA / f"{name}.lab"))
        for name in NAMES
    ]
    utterances[0] = Utterance(
        "no_silence", utterances[0].audio, "x", "ru", "nsh", (Phone("ˈɡː", 0.5, 0.1), Phone("", 0, 0))
    )
    write_manifest(tmp_path / "manifests/gold.jsonl.gz", utterances)
    stages.make_phones("gold", tmp_path, 1)
    first, *rest = read_manifest(tmp_path / "phones/gold.jsonl.gz")
    assert (first.ipa, first.phones) == ("gː", (Phone("gː", 0.5, 0.1),))  # normal form, empty ones dropped
    assert [(u.phones, u.ipa) for u in rest] == [
        (u.phones, "".join(p.symbol for p in u.phones)) for u in utterances[1:]
    ]


def test_utterances_are_cut_out_of_long_recordings(tmp_path):
    whole = load_audio(DATA / f"{NAMES[0]}.flac")
    parts = [
        Utterance(f"part{i}", str(DATA / f"{NAMES[0]}.flac"), "", "ru", "", ipa="abcdefgh", start=i * 1.0, duration=1.0)
        for i in range(2)
    ]
    write_manifest(tmp_path / "phones/cut.jsonl.gz", parts)
    stages.make_shar(["cut"], tmp_path, FILTERS, SplitConfig(dev_share=0, heldout_share=0), SHAR, 1)
    from lhotse import CutSet

    for cut in CutSet.from_shar(in_dir=tmp_path / "shar/train"):
        start = 16000 * int(cut.id[-1])
        np.testing.assert_allclose(cut.load_audio()[0], whole[start : start + 16000], atol=1e-7)


def test_repeating_changes_nothing_and_a_new_file_is_noticed(speech, tmp_path):
    data = tmp_path / "data"
    prepare(speech, data)
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    prepare(speech, data)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == times
    shutil.copy(DATA / f"{NAMES[0]}.flac", speech / "nsh/again.flac")
    (speech / "nsh/again.ipa").write_text("a" * 40)
    prepare(speech, data)
    assert sum(len(list(read_cuts(path))) for path in (data / "shar").iterdir() if path.is_dir()) == 4


@pytest.mark.parametrize("where", ["write_manifest", "mark_done", "write_dropped", "write_shards", "_write_split"])
@pytest.mark.parametrize("time", [0, 1, 2])
def test_a_run_that_dies_anywhere_is_continued_to_the_same_result(speech, tmp_path, monkeypatch, where, time):
    prepare(speech, tmp_path / "straight")
    real, calls = getattr(stages, where), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == time + 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(stages, where, dies)
    with contextlib.suppress(KeyboardInterrupt):
        prepare(speech, tmp_path / "broken")
    monkeypatch.undo()
    prepare(speech, tmp_path / "broken")
    assert without_stamps(tmp_path / "broken") == without_stamps(tmp_path / "straight")
    assert content(tmp_path / "broken").keys() == content(tmp_path / "straight").keys()


def test_the_filter_says_why():
    config = FilterConfig()
    utterances = [
        Utterance(f"u{i}", "x", "", "ru", "", ipa="a" * phones, duration=seconds)
        for i, (seconds, phones) in enumerate([(0.2, 3), (21, 200), (10, 20), (1, 30), (1, 10), (0.3, 6), (20, 60)])
    ]
    kept, dropped = stages.apply_filter(utterances, config)
    assert [u.id for u in kept] == ["u4", "u5", "u6"]
    assert [(d.id, d.reason) for d in dropped] == [
        ("u0", "shorter than 0.3 s"),
        ("u1", "longer than 20 s"),
        ("u2", "fewer than 3 phones per second"),
        ("u3", "more than 20 phones per second"),
    ]


def test_a_corpus_that_mostly_cannot_be_read_stops_the_run(speech, tmp_path):
    for name in NAMES:
        (speech / f"nsh/{name}.flac").write_bytes(b"")
    with pytest.raises(UserError, match=r"4 of 4 utterances of user cannot be used: .*broken"):
        prepare(speech, tmp_path / "data")


def test_when_nothing_is_left_it_is_said(speech, tmp_path):
    for name in NAMES:
        (speech / f"nsh/{name}.ipa").write_text("a")
    with pytest.raises(UserError, match="no utterance is left for training"):
        prepare(speech, tmp_path / "data")


def damage_tar(shar: Path) -> None:
    path = shar / "recording.000000.tar"
    path.write_bytes(path.read_bytes()[:5000])


def change_cuts(shar: Path, **changes) -> None:
    path = shar / "cuts.000000.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for cut in cuts:
        cut["supervisions"][0].update({k: v for k, v in changes.items() if k != "duration"})
        cut["duration"] += changes.get("duration", 0)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(cut) + "\n" for cut in cuts)


@pytest.mark.parametrize(
    "damage, problem",
    [
        (damage_tar, "has no audio in its shard"),
        (lambda shar: change_cuts(shar, duration=0.5), "must last"),
        (lambda shar: change_cuts(shar, text=""), "has no phones"),
        (lambda shar: change_cuts(shar, alignment={"phone": [["a", 0.1, 0.1, None]]}), "differ from its text"),
        (lambda shar: change_cuts(shar, text="a", alignment={"phone": [["a", 99.0, 0.1, None]]}), "outside its"),
        (lambda shar: shutil.copytree(shar, shar.parent / "dev", dirs_exist_ok=True), "is in train and in dev"),
        (
            lambda shar: shutil.copytree(shar, shar.parent / "test-unseen-languages"),
            "the language ru is in train as well",
        ),
    ],
)
def test_validation_finds(speech, tmp_path, damage, problem):
    prepare(speech, tmp_path / "data")
    damage(tmp_path / "data/shar/train")
    assert any(problem in found for found in validate(tmp_path / "data", 2).problems)


def table_of_speech(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """A person's table; each of its rows is a copy of a real utterance."""
    folder.mkdir()
    lines = ["path\tid\tipa\tspeaker\tlanguage\tsplit"]
    for i, (ipa, speaker, language, split) in enumerate(rows):
        lines.append(f"{DATA / NAMES[i % 3]}.flac\tu{i}\t{ipa * 40}\t{speaker}\t{language}\t{split}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "table.tsv"


def test_speakers_of_two_languages_are_kept_out_of_both(tmp_path):
    rows = [(f"a{chr(97 + i)}", f"s{i % 8}", ("ru", "cs")[i // 8 % 2], "") for i in range(24)]
    prepare(table_of_speech(tmp_path / "speech", rows), tmp_path / "data")
    assert (tmp_path / "data/shar/test-unseen-speakers").is_dir()
    findings = validate(tmp_path / "data", 1)
    assert findings.problems == [] and findings.warnings == []


@pytest.mark.slow
def test_a_split_that_the_data_prescribes_may_repeat_sentences_and_is_warned_of(tmp_path):
    rows = [("a", "one", "ru", "train"), ("a", "one", "ru", "test-heldout"), ("b", "two", "ru", "train")]
    rows += [("c", "two", "ru", "test-unseen-speakers"), ("d", "three", "ru", "")]
    prepare(table_of_speech(tmp_path / "speech", rows), tmp_path / "data")
    run_program(tmp_path, "local/train_tokenizer.py", "--data-dir data")
    done = run_program(tmp_path, "local/validate_data.py", "--data-dir data --nj 1")
    assert "problems: none" in done.stdout and "warnings: 3" in done.stdout
    said = ("test-heldout: the sentence", "test-heldout: 1 speakers", "test-unseen-speakers: the speaker user_two")
    for what in said:
        assert what in done.stdout
    numbers = json.loads((tmp_path / "data/statistics.json").read_text())
    assert all(line.endswith("as the data itself prescribes") for line in numbers["warnings"])
    assert "as the data itself prescribes" in (tmp_path / "data/statistics.html").read_text()


def test_the_report_counts_what_is_there_and_what_was_dropped(speech, tmp_path):
    prepare(speech, tmp_path / "data")
    statistics = collect(tmp_path / "data", ["a <problem>"])
    numbers = statistics.to_dict()
    seconds = sum(soundfile.info(DATA / f"{name}.flac").duration for name in NAMES)
    phones = sum(len(read_labels(DATA / f"{name}.lab")) for name in NAMES)
    assert sum(row["phones"] for row in numbers["splits"].values()) == phones == sum(numbers["phones"].values())
    assert sum(amount.seconds for amount in statistics.amounts.values()) == pytest.approx(seconds, abs=1e-3)
    assert numbers["dropped"] == {"user": {"cannot be read": 1}}
    assert "cannot be read" in as_text(statistics) and "test-heldout" in as_text(statistics)
    page = as_html(statistics, "Speech & more")
    assert "Speech &amp; more" in page and "a &lt;problem&gt;" in page and "data:image/png;base64," in page
    assert "http" not in page


def test_what_was_dropped_of_corpora_and_splits_of_before_is_not_counted(speech, tmp_path):
    prepare(speech, tmp_path / "data")
    for name in ("manifests-festvox-ru", "filter-user", "shar-dev", "shar-test-unseen-speakers"):
        stages.write_dropped(tmp_path / f"data/dropped/{name}.jsonl", [Dropped("a", name)])
    save_choice(tmp_path / "data", CorporaConfig(user_data=speech))
    assert collect(tmp_path / "data").dropped == {
        "user": {"cannot be read": 1, "filter-user": 1},
        "dev": {"shar-dev": 1},
    }


def test_a_dropped_list_is_read_back(tmp_path):
    stages.write_dropped(tmp_path / "x.jsonl", [Dropped("a", "b", "ц")])
    assert read_dropped(tmp_path / "x.jsonl") == [Dropped("a", "b", "ц")]


@pytest.mark.parametrize("damage", [b"", b"no gzip", None])
def test_a_damaged_manifest_is_named(tmp_path, damage):
    path = tmp_path / "manifests/x.jsonl.gz"
    if damage is not None:
        path.parent.mkdir()
        path.write_bytes(damage)
    if damage == b"":
        assert list(read_manifest(path)) == []
        return
    with pytest.raises(UserError, match=r"x\.jsonl\.gz"):
        list(read_manifest(path))


# prepare.sh


def run(*words: object, expect: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [ROOT / "prepare.sh", *map(str, words)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def test_the_stages_programs_make_a_report_of_a_folder(speech, tmp_path):
    flags = {"fetch_corpora": ["--user-data", speech, "--user-language", "ru"], "make_shar": ["--dev-share", 0.2]}
    for stage in ("fetch_corpora", "make_manifests", "make_phones", "make_shar", "train_tokenizer", "validate_data"):
        words = [*flags.get(stage, ()), "--data-dir", "data", "--nj", 1]
        done = run_program(tmp_path, f"local/{stage}.py", words)
    assert "problems: none" in done.stdout + done.stderr
    assert (tmp_path / "data/lang/tokens.txt").read_text().startswith("<blk> 0\n")
    assert {"statistics.txt", "statistics.json", "statistics.html"} <= {p.name for p in (tmp_path / "data").iterdir()}


@pytest.mark.slow
def test_prepare_runs_from_a_folder_to_a_report_and_repeats(speech, tmp_path):
    words = ("--user-data", speech, "--user-language=ru", "--data-dir", tmp_path / "data", "--nj", 1)
    said = run(*words, "--dev-share", 0.2, "--min_seconds", 0.5)
    assert "Stage 5: validation and report" in said and "problems: none" in said
    assert (tmp_path / "data/lang/tokens.txt").read_text().startswith("<blk> 0\n")
    assert {"statistics.txt", "statistics.json", "statistics.html"} <= {p.name for p in (tmp_path / "data").iterdir()}
    before = content(tmp_path / "data/shar")
    said = run(
        "--stage", 1, "--stop-stage", 4, "--data-dir", tmp_path / "data", "--dev-share", 0.2, "--min-seconds", 0.5
    )
    assert said.count("already") == 4 and "Stage 5" not in said and "Stage 0" not in said
    assert content(tmp_path / "data/shar") == before


@pytest.mark.parametrize(
    "words, message",
    [
        (("--corpora", "festvox"), "unknown corpus `festvox`; did you mean `festvox-ru`?"),
        (("--colour", "red"), "unknown flag `--colour`"),
        (("--nj", "1", "--stage"), "`--stage` must be followed by a value"),
        (("--stage", "1", "--hours", "2"), "`--hours` belongs to stage 0"),
        (("--stage", "3"), "run stage 0 of prepare.sh (fetch) first"),
        (("--nj", "0"), "`--nj` must be at least 1"),
        (("--user-data", "/nowhere"), "`--user-data` /nowhere does not exist"),
    ],
)
def test_prepare_refuses_mistakes_in_one_line(tmp_path, words, message):
    said = run("--data-dir", tmp_path / "data", *words, expect=2)
    assert message in said and "Traceback" not in said


def test_prepare_teaches():
    said = run("--help")
    for word in ("--stop-stage", "fetch", "tokenizer", "--unseen-languages", "--hours", "--vocab-size"):
        assert word in said
    assert "festvox-ru" in run("--list") and "tuxpaint" in run("--list")


@pytest.mark.slow
def test_without_apt_synthetic_speech_takes_the_place(tmp_path):
    pytest.importorskip("espeakng_loader")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "date", "nproc", "cat", "sh", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    words = ("--hours", 0.02, "--synthetic-languages", "de fi tr", "--unseen-languages", "tr", "--nj", 2)
    places = ("--data-dir", tmp_path / "data", "--download-dir", tmp_path / "down")
    said = run(*words, *places, PATH=str(tools))
    assert "festvox-ru is left out" in said and "taking synthetic speech instead" in said
    statistics = json.loads((tmp_path / "data/statistics.json").read_text())
    assert statistics["problems"] == [] and "test-unseen-languages" in statistics["splits"]
    assert {part["language"] for part in statistics["parts"] if part["split"] == "train"} == {"de", "fi"}
    run(
        *words,
        "--fallback",
        "False",
        "--data-dir",
        tmp_path / "other",
        "--corpora",
        "tuxpaint",
        expect=2,
        PATH=str(tools),
    )


@pytest.mark.slow
def test_prepare_survives_being_killed_again_and_again(speech, tmp_path):
    words = ("--user-data", speech, "--user-language", "ru", "--nj", "1", "--dev-share", "0.2", "--stop-stage", "4")
    run(*words, "--data-dir", tmp_path / "straight")
    command = [ROOT / "prepare.sh", *map(str, words), "--data-dir", tmp_path / "killed"]
    for seconds in (0.3, 0.8, 1.4, 2.0, 2.7):
        process = subprocess.Popen(command, env={**os.environ, "PYTHON": sys.executable}, start_new_session=True)
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run(*words, "--data-dir", tmp_path / "killed")
    assert without_stamps(tmp_path / "killed/shar") == without_stamps(tmp_path / "straight/shar")
    assert without_stamps(tmp_path / "killed/lang") == without_stamps(tmp_path / "straight/lang")
    assert not [path for path in (tmp_path / "killed/shar").rglob("*") if ".tmp" in path.name]
