"""Where a person's recordings lie: names of other systems, recipes of several Kaldi folders, tables by split."""

import os

import pytest
from user_files import hum, put

from couloir.data.corpora.base import Dropped, Utterance
from couloir.data.corpora.manifest import read_dropped, read_manifest
from couloir.data.corpora.places import beside
from couloir.data.corpora.stages import make_manifest
from couloir.data.corpora.tables import read_table
from couloir.data.corpora.user import UserData
from couloir.errors import UserError


def splits(found):
    return {item.id: item.split for item in found if isinstance(item, Utterance)}


NAMED = [
    ("clips\\é x.wav", "clips/e\u0301 x.wav"), ("E\u0301.WAV", "é.wav"), ("sub/Имя файла.wav", "sub/имя файла.wav"),
    ("北京/한.wav", "北京/\u1112\u1161\u11ab.wav"), ("./a/../b.wav", "b.wav"), ("a\\b.wav", "a\\b.wav"),
    ("x.mp3", "clips/x.mp3"), ("X.mp3", "clips/x.mp3"), ("Straße.wav", "STRASSE.wav"),
]  # fmt: skip


@pytest.mark.parametrize(("named", "there"), NAMED)
def test_names_of_other_systems_are_found(tmp_path, named, there):
    (tmp_path / "a").mkdir(exist_ok=True)
    put(tmp_path / there)
    assert os.path.samefile(beside(tmp_path, named), tmp_path / there)
    put(tmp_path / "t.csv", f"path,text\n{named},x\n")
    (found,) = read_table(tmp_path / "t.csv", "en")
    assert os.path.samefile(found.audio, tmp_path / there)


def test_a_name_that_may_mean_two_files_is_none(tmp_path):
    put(tmp_path / "a.wav")
    put(tmp_path / "A.wav")
    assert beside(tmp_path, "a.wav").name == "a.wav" and beside(tmp_path, "A.wav").name == "A.wav"
    assert beside(tmp_path, "a.WAV") == tmp_path / "a.WAV"
    for none in ("gone.wav", "a/" * 5000 + "x", "x" * 5000, "C:\\gone\\a.wav", "n\0.wav", "\udcff.wav", "..", "/", ""):
        assert not os.path.isfile(beside(tmp_path, none))


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_spreadsheet_saves(tmp_path, code):
    put(tmp_path / "é 1.wav")
    rows = 'path\ttext\n"e\u0301 1.wav"\t"He said ""go""; ""no"""\n'
    put(tmp_path / "t.tsv", rows.replace("\n", "\r\n").encode(code))
    put(tmp_path / "t.csv", rows.replace("\t", ";").encode(code))
    for name in ("t.tsv", "t.csv"):
        (found,) = read_table(tmp_path / name, "en")
        assert found.text == 'He said "go"; "no"' and os.path.isfile(found.audio)


def test_quotes_that_are_no_marks_of_a_spreadsheet_stay(tmp_path):
    put(tmp_path / "t.tsv", 'path\tsentence\na.wav\t"Go" and "no"\nb.wav\t"Go\nc.wav\tGo "no"\n')
    assert [u.text for u in read_table(tmp_path / "t.tsv", "en")] == ['"Go" and "no"', '"Go', 'Go "no"']


def test_a_transcript_by_another_form_of_the_name(tmp_path):
    put(tmp_path / "e\u0301.wav")
    put(tmp_path / "é.txt", "go")
    (found,) = UserData(tmp_path, "en").utterances(tmp_path)
    assert found.text == "go"


def kaldi(folder, ids):
    put(folder / "wav.scp", "".join(f"{id} audio/{id}.wav\n" for id in ids))
    put(folder / "text", "".join(f"{id} hello\n" for id in ids))


def test_the_kaldi_folders_of_a_recipe(tmp_path, capsys):
    kaldi(tmp_path / "data/train_nodev", ["a", "b", "t"])
    kaldi(tmp_path / "data/train_dev", ["d"])
    kaldi(tmp_path / "data/Test", ["t"])
    kaldi(tmp_path / "data/extra", ["e"])
    put(tmp_path / "data/lang/phones.txt", "x 1")
    for id in "abdet":
        hum(tmp_path / f"audio/{id}.wav", 1)
    data = UserData(tmp_path / "data", "en")
    assert splits(data.utterances(tmp_path))["d"] == "dev"
    make_manifest(data, tmp_path, tmp_path / "out", None)
    found = splits(read_manifest(tmp_path / "out/manifests/user.jsonl.gz"))
    assert found == {
        "user_t": "test-heldout", "user_d": "dev", "user_a": "train", "user_b": "train", "user_e": ""
    }  # fmt: skip
    (dropped,) = read_dropped(tmp_path / "out/dropped/manifests-user.jsonl")
    assert dropped.reason == "another utterance has its id"
    assert "no split is named by extra" in capsys.readouterr().err


def test_one_kaldi_folder_prescribes_nothing(tmp_path):
    kaldi(tmp_path / "train", ["a"])
    assert splits(UserData(tmp_path / "train", "en").utterances(tmp_path)) == {"a": ""}


HEADING = "client_id\tpath\tsentence\tup_votes\tlocale\n"


def test_common_voices_folder(tmp_path):
    for name, id in (("train", "a"), ("dev", "d"), ("test", "t"), ("validated", "a"), ("other", "o")):
        put(tmp_path / f"{name}.tsv", f'{HEADING}s{id}\tcv_{id}.mp3\tHej "du"\t2\tsv-SE\n')
        put(tmp_path / f"clips/cv_{id}.mp3")
    put(tmp_path / "test_notes.tsv", "what\twhy\tx\n")
    found = list(UserData(tmp_path, "und").utterances(tmp_path))
    assert splits(found) == {"cv_t": "test-heldout", "cv_d": "dev", "cv_a": "train"}
    assert {(u.language, u.text) for u in found} == {("sv-se", 'Hej "du"')}


def test_a_table_with_splits_of_its_own_keeps_them(tmp_path):
    put(tmp_path / "train.csv", "path,text,split\na.wav,x,dev\nb.wav,y,\n")
    assert splits(UserData(tmp_path, "en").utterances(tmp_path)) == {"a": "dev", "b": "train"}


def test_a_folder_with_other_tables_names_one(tmp_path):
    put(tmp_path / "clips/a.mp3")
    put(tmp_path / "validated.tsv", HEADING)
    with pytest.raises(UserError, match=r"--user-data .*validated\.tsv"):
        [item for item in UserData(tmp_path, "en").utterances(tmp_path) if not isinstance(item, Dropped)]
