"""A person's own data: a Kaldi folder, a folder of recordings, and what the path may be."""

import os
from pathlib import Path

import pytest
from user_files import LONG, SHORT, grid, put

from couloir.data.corpora.base import Dropped, Phone, Utterance
from couloir.data.corpora.kaldi import read_kaldi
from couloir.data.corpora.recordings import read_folder
from couloir.data.corpora.user import UserData
from couloir.errors import UserError


def kept(found):
    return {item.id: item for item in found if isinstance(item, Utterance)}


def dropped(found):
    return {item.id: item.detail for item in found if isinstance(item, Dropped)}


def test_a_folder_of_recordings(tmp_path):
    put(tmp_path / "anna/a.wav")
    put(tmp_path / "anna/a.TextGrid", LONG)
    put(tmp_path / "b.FLAC")
    put(tmp_path / "b.txt", "\ufeffhabari ya asubuhi\n")
    put(tmp_path / "c.mp3")
    put(tmp_path / "c.ipa", "habari")
    put(tmp_path / "untranscribed.wav")
    a, b, c, untranscribed = read_folder(tmp_path, "sw")
    assert (a.id, a.speaker, a.text, a.start) == ("anna-a", "anna", 'say "no" 2', None)
    assert a.phones == (Phone("n", 0.5, 0.25), Phone("əʊ", 0.75, 0.5))
    assert (b.id, b.text, b.language, b.phones) == ("b", "habari ya asubuhi", "sw", None)
    assert (c.ipa, c.text) == ("habari", "")
    assert isinstance(untranscribed, Dropped) and "none is beside it" in untranscribed.detail


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("r.txt", "pata kami", "pata kami"), ("r.TXT", "pata\nkami\n", "pata kami"), ("r.Txt", "pata", "pata"),
        ("r.lab", "pata kami", "pata kami"), ("r.LAB", "pata", "pata"), ("r.wav.txt", "pata", "pata"),
        ("r.WAV.TXT", "pata", "pata"), ("R.txt", "pata", "pata"), ("r.trn", "pata kami (ann_r)\n", "pata kami"),
        ("r.trn", "pata kami", "pata kami"), ("r.txt", "0 46797 She had your dark suit.", "She had your dark suit."),
        ("r.txt", "12 apples", "12 apples"), ("r.txt", b"\xff\xfep\0a\0", "pa"), ("r.txt", "a\u2028b", "a\u2028b"),
        ("r.txt", "pa[1] ta", "pa[1] ta"), ("r.wav.lab", "pata", "pata"),
    ],
)  # fmt: skip
def test_transcripts_by_many_names(tmp_path, name, content, text):
    put(tmp_path / "r.wav")
    put(tmp_path / name, content)
    (found,) = read_folder(tmp_path, "sw")
    assert isinstance(found, Utterance) and (found.id, found.text) == ("r", text)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("r.srt", "x", "r.srt is empty"), ("r.mlf", "x", "r.mlf is not read"),
        ("r.eaf", "<x/>", "r.eaf is not read"), ("r.txt", "", "r.txt is empty"), ("r.txt", " \n\n", "r.txt is empty"),
        ("r.lab", "0 1000 pa\n1000 2000 ta\n", "words alone"), ("r.lab", "0.12 125 pau\n0.2 125 a\n", "words alone"),
        ("r.trn", "a (r1)\nb (r2)\n", "of one recording"), ("r.txt", "señor".encode("latin-1"), "UTF-8"),
        ("r.txt", b"\0\1\2", "UTF-8"), ("r.TextGrid", b"\xe9", "UTF-8"), ("r.TextGrid", "", "it ends too early"),
        ("r.TextGrid", grid([("words", [(0, 1, "\xe9")])]).encode("latin-1"), "UTF-8"),
        ("notes.md", "x", "none is beside it"), ("q.txt", "pata", "none is beside it"),
        ("r.TextGrid", SHORT.replace("utterances", "x").replace("phones", "y"), "named"),
    ],
)  # fmt: skip
def test_a_recording_without_a_usable_transcript_is_named_and_the_others_go_on(tmp_path, name, content, why):
    for recording in ("good.wav", "r.wav", "z.wav"):
        put(tmp_path / recording)
    put(tmp_path / "good.txt", "pata")
    put(tmp_path / "z.txt", "kami")
    put(tmp_path / name, content)
    found = list(read_folder(tmp_path, "sw"))
    assert sorted(kept(found)) == ["good", "z"]
    assert list(dropped(found)) == ["r"] and why in dropped(found)["r"]


def test_a_transcript_that_is_a_pipe_or_a_folder_is_named(tmp_path):
    for name in ("a", "b", "good"):
        put(tmp_path / f"{name}.wav")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.TextGrid").mkdir()
    put(tmp_path / "good.txt", "pata")
    found = list(read_folder(tmp_path, "sw"))
    assert list(kept(found)) == ["good"] and "a" in dropped(found)


def test_what_macos_leaves_is_counted_and_no_recording(tmp_path, capsys):
    for name in ("a", "._a", ".trash/b", "__MACOSX/a", "__MACOSX/ann/._c"):
        put(tmp_path / f"{name}.wav")
        put(tmp_path / f"{name}.txt", "habari")
    assert [found.id for found in read_folder(tmp_path, "sw")] == ["a"]
    assert "6 files that macOS left" in capsys.readouterr().err


def test_folders_that_name_a_split_prescribe_it_and_are_nobodys_name(tmp_path, capsys):
    places = {
        "Train/ann/a": ("ann", "train"), "TEST/bob/b": ("bob", "test-heldout"), "test-clean/c": ("", "test-clean"),
        "Validation/ann/d": ("ann", "dev"), "train-test-split/test/cy/e": ("cy", "test-heldout"),
        "train/test1/f": ("", "test1"), "held_out/g": ("", "test-heldout"), "other/h": ("other", ""),
    }  # fmt: skip
    for place in places:
        put(tmp_path / f"{place}.wav")
        put(tmp_path / f"{place}.txt", "habari")
    found = kept(read_folder(tmp_path, "sw"))
    assert {place: (u.speaker, u.split) for place in places for u in [found[place.replace("/", "-")]]} == places
    assert "WARNING" in (said := capsys.readouterr().err) and "7 recordings lie in folders named" in said


def test_no_folder_that_names_a_split_needs_no_warning(tmp_path, capsys):
    put(tmp_path / "ann/a.wav")
    put(tmp_path / "ann/a.txt", "habari")
    assert [u.split for u in read_folder(tmp_path, "sw")] == [""]
    assert "WARNING" not in capsys.readouterr().err


def test_a_kaldi_folder(tmp_path):
    put(tmp_path / "wav.scp", "rec1 audio/r1.flac\nrec2\t/abs/r2.wav\nrec3 r3.wav\n")
    put(tmp_path / "audio/r1.flac")
    put(tmp_path / "segments", "u1 rec1 0.50 2.00\nu2 rec1 2.0 3.25\nu3 rec1 4 -1\nuntold rec1 1 2\n")
    put(tmp_path / "text", "u1 hello there\nu2 bye\nrec2 all of it\nnone no recording\nu3 a\u2028b\nrec1\n")
    put(tmp_path / "utt2spk", "u1 ann\nu2 bob\n")
    put(tmp_path / "utt2lang", "u2 de_DE\n")
    found = list(read_kaldi(tmp_path, "en"))
    u1, u2, whole, u3 = kept(found).values()
    assert (u1.audio, u1.start, u1.duration) == (str(tmp_path / "audio/r1.flac"), 0.5, 1.5)
    assert (u1.speaker, u1.language, u2.speaker, u2.language) == ("ann", "en", "bob", "de-de")
    assert (whole.audio, whole.start, whole.text) == ("/abs/r2.wav", None, "all of it")
    assert (u3.start, u3.duration, u3.text) == (4.0, None, "a\u2028b")
    assert set(dropped(found)) == {"none", "untold", "rec3", "rec1"}
    assert "must be in" in dropped(found)["none"] and "has no line of it" in dropped(found)["untold"]


SEGMENTS = [
    "u2 rec1", "u2 rec1 1.0", "u2 rec1 1.0 two", "u2 rec1 1.0 2.0 3.0", "u2 rec1 nan 2.0", "u2 rec1 0 inf",
    "u2 rec1 0x0 0x2", "u2 rec1 0,5 1,5", "u2 rec1 2.0 1.0", "u2 rec1 1 1", "u2 rec1 1 -2", "u2 nowhere 0 1",
    "u2 1.0 2.0 rec1", "u2 0.0 rec1 1.0",
    "u2 rec1 0:01 0:02", "u2 rec1 1s 2s", "u2", "u2 rec1 \uff11 \uff12", "u2 rec1 1e999 2",
]  # fmt: skip


@pytest.mark.parametrize("line", SEGMENTS)
def test_a_line_of_segments_that_cannot_be_is_named_and_the_others_go_on(tmp_path, line):
    put(tmp_path / "wav.scp", "rec1 r1.flac\n")
    put(tmp_path / "segments", f"u1 rec1 0.5 2.0\n{line}\n")
    put(tmp_path / "text", "u1 hello\nu2 bye\n")
    found = list(read_kaldi(tmp_path, "en"))
    assert list(kept(found)) == ["u1"] and list(dropped(found)) == ["u2"]


def test_a_recording_before_its_utterance_is_said_so(tmp_path):
    put(tmp_path / "wav.scp", "rec1 r1.flac\n")
    put(tmp_path / "segments", "rec1 u1 0.5 2.0\n")
    put(tmp_path / "text", "rec1 hello\n")
    assert "with the recording first" in dropped(read_kaldi(tmp_path, "en"))["rec1"]


@pytest.mark.parametrize("table", ["text", "wav.scp", "segments", "utt2spk", "utt2lang"])
@pytest.mark.parametrize("keys", [("b", "b"), ("\u00e9", "e\u0301"), ("b", "\ufeffb")])
def test_a_repeated_key_is_refused_with_both_lines(tmp_path, table, keys):
    lines = {"wav.scp": ["r r.wav"], "text": ["a x"], "segments": ["a r 0 1"], "utt2spk": ["a s"], "utt2lang": ["a en"]}
    rest = lines[table][0].split(" ", 1)[1]
    lines[table] += [f"{keys[0]} {rest}", "", f"{keys[1]}\t{rest}"] if "\ufeff" not in keys[1] else []
    if "\ufeff" in keys[1]:
        lines[table] = [f"\ufeff{keys[0]} {rest}", "x y", "", f"{keys[0]} {rest}"]
    for name, rows in lines.items():
        put(tmp_path / name, "\r\n".join(rows))
    numbers = (1, 4) if "\ufeff" in keys[1] else (2, 4)
    with pytest.raises(
        UserError, match=rf"{table} must have each key once, but lines {numbers[0]} and {numbers[1]} both"
    ):
        list(read_kaldi(tmp_path, "en"))


def test_keys_of_one_look_belong_together(tmp_path):
    put(tmp_path / "wav.scp", "caf\u00e9 r.wav\n")
    put(tmp_path / "text", "cafe\u0301 hello\n")
    put(tmp_path / "utt2spk", "cafe\u0301 ann\n")
    (found,) = read_kaldi(tmp_path, "en")
    assert (Path(found.audio).name, found.speaker) == ("r.wav", "ann")


@pytest.mark.parametrize("command", ["touch {} |", "touch {} | ", "| touch {}", "touch {}|"])
def test_a_command_in_wav_scp_is_not_run(tmp_path, command):
    put(tmp_path / "wav.scp", f"u1 {command.format(tmp_path / 'ran')}\nu2 a.wav\n")
    put(tmp_path / "text", "u1 hello\nu2 bye\n")
    found = list(read_kaldi(tmp_path, "en"))
    assert "must be a path, but is a command" in dropped(found)["u1"] and list(kept(found)) == ["u2"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["text", "wav.scp", "table.csv"])
def test_what_is_not_utf8_is_named(tmp_path, name):
    put(tmp_path / "a.wav")
    if name != "table.csv":
        put(tmp_path / "wav.scp", "u1 a.wav\n")
        put(tmp_path / "text", "u1 x\n")
    (tmp_path / name).write_bytes("u1,x\nu1,señor,path\n".encode("latin-1"))
    data = UserData(tmp_path / name if name == "table.csv" else tmp_path, "es")
    with pytest.raises(UserError, match=rf"line 2 of .*{name}` must be UTF-8"):
        list(data.utterances(tmp_path))


def test_what_is_wrong_with_the_path_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        UserData(tmp_path / "nowhere", "en").fetch(tmp_path)
    put(tmp_path / "shar/cuts.000000.jsonl.gz")
    with pytest.raises(UserError, match="--manifest-dir"):
        UserData(tmp_path, "en").fetch(tmp_path)
    put(tmp_path / "empty/a.wav")
    with pytest.raises(UserError, match=r"x\.wav with x\.txt"):
        list(UserData(tmp_path / "empty", "en").utterances(tmp_path))
    put(tmp_path / "empty/a.txt", "words")
    with pytest.raises(UserError, match="--user-language"):
        list(UserData(tmp_path / "empty", "und").utterances(tmp_path))


@pytest.mark.parametrize("tag", ["SW", "sw_KE", "sw-KE", " sw "])
def test_the_language_flag_has_one_spelling(tmp_path, tag):
    put(tmp_path / "a.wav")
    put(tmp_path / "a.txt", "habari")
    (found,) = UserData(tmp_path, tag).utterances(tmp_path)
    assert found.language == tag.strip().lower().replace("_", "-")
