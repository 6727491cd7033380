from pathlib import Path

import pytest

from couloir.data.corpora.base import Phone
from couloir.data.corpora.textgrid import read_textgrid
from couloir.data.corpora.user import UserData, read_folder, read_kaldi, read_table
from couloir.errors import UserError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "anna - words"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "say ""no"" 2"
        intervals [3]:
            xmin = 1.25
            xmax = 2.3
            text = "sil"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 1.5
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "anna - phones"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0.5
            xmax = 0.75
            text = "n"
        intervals [2]:
            xmin = 0.75
            xmax = 1.25
            text = "əʊ"
        intervals [3]:
            xmin = 1.25
            xmax = 2.3
            text = "<p:>"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
9.5
<exists>
2
"IntervalTier"
"utterances"
0
9.5
3
0
2.0
"first one"
2.0
4.5
""
4.5
9.5
"second"
"IntervalTier"
"phones"
0
9.5
3
0.25
0.5
"f"
1.9
2.1
"n"
5.0
5.5
"s"
"""


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_long_form_of_a_textgrid(tmp_path, encoding):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG, encoding=encoding)
    words, phones = read_textgrid(path)
    assert [tuple(interval) for interval in words.intervals] == [
        (0, 0.5, ""),
        (0.5, 1.25, 'say "no" 2'),
        (1.25, 2.3, "sil"),
    ]
    assert [interval.label for interval in phones.spoken()] == ["n", "əʊ"]


def test_the_short_form_is_the_same_values(tmp_path):
    sentences, phones = read_textgrid(put(tmp_path / "a.TextGrid", SHORT))
    assert [interval.label for interval in sentences.intervals] == ["first one", "", "second"]
    assert phones.intervals[2] == (5.0, 5.5, "s")


@pytest.mark.parametrize("content", ["", "hello", LONG[:400], SHORT[:150], LONG.replace("0.75", "x")])
def test_a_damaged_textgrid_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.TextGrid is not a TextGrid"):
        read_textgrid(put(tmp_path / "a.TextGrid", content))


def test_a_folder_of_recordings(tmp_path):
    put(tmp_path / "anna/a.wav")
    put(tmp_path / "anna/a.TextGrid", LONG)
    put(tmp_path / "b.FLAC")
    put(tmp_path / "b.txt", "\ufeffhabari ya asubuhi\n")
    put(tmp_path / "c.mp3")
    put(tmp_path / "c.ipa", "habari")
    put(tmp_path / "untranscribed.wav")
    a, b, c = read_folder(tmp_path, "sw")
    assert (a.id, a.speaker, a.text, a.start) == ("anna-a", "anna", 'say "no" 2', None)
    assert a.phones == (Phone("n", 0.5, 0.25), Phone("əʊ", 0.75, 0.5))
    assert (b.id, b.text, b.language, b.phones) == ("b", "habari ya asubuhi", "sw", None)
    assert (c.ipa, c.text) == ("habari", "")


def test_a_long_recording_is_cut_at_its_utterances(tmp_path):
    put(tmp_path / "a.wav")
    put(tmp_path / "a.TextGrid", SHORT)
    first, second = read_folder(tmp_path, "en")
    assert (first.text, first.start, first.duration) == ("first one", 0.0, 2.0)
    assert (second.text, second.start, second.duration) == ("second", 4.5, 5.0)
    assert first.phones == (Phone("f", 0.25, 0.25),)  # the middle of "n" is not in it
    assert second.phones == (Phone("s", 0.5, 0.5),)
    assert first.id != second.id


def test_phones_that_are_no_ipa_are_refused(tmp_path):
    put(tmp_path / "a.wav")
    put(tmp_path / "a.TextGrid", LONG.replace("əʊ", "OW1"))
    with pytest.raises(UserError, match=r"must be IPA, but is `OW1`; export it as IPA, or rename"):
        list(read_folder(tmp_path, "en"))


def test_unknown_tiers_are_listed(tmp_path):
    put(tmp_path / "a.wav")
    put(tmp_path / "a.TextGrid", LONG.replace("anna - words", "mots").replace("anna - phones", "sons"))
    with pytest.raises(UserError, match="named phones, words, utterances, but is mots, sons"):
        list(read_folder(tmp_path, "en"))


def test_a_kaldi_folder(tmp_path):
    put(tmp_path / "wav.scp", "rec1 audio/r1.flac\nrec2\t/abs/r2.wav\n")
    put(tmp_path / "audio/r1.flac")
    put(tmp_path / "segments", "u1 rec1 0.50 2.00\nu2 rec1 2.0 3.25\n")
    put(tmp_path / "text", "u1 hello there\nu2 bye\nrec2 all of it\nnone no recording\n")
    put(tmp_path / "utt2spk", "u1 ann\nu2 bob\n")
    put(tmp_path / "utt2lang", "u2 de\n")
    u1, u2, whole, none = read_kaldi(tmp_path, "en")
    assert (u1.audio, u1.start, u1.duration) == (str(tmp_path / "audio/r1.flac"), 0.5, 1.5)
    assert (u1.speaker, u1.language, u2.speaker, u2.language) == ("ann", "en", "bob", "de")
    assert (whole.audio, whole.start, whole.text) == ("/abs/r2.wav", None, "all of it")
    assert "none of" in none.audio  # and so is dropped with its name, as it cannot be read


@pytest.mark.parametrize("times", ["", "1.0", "1.0 two", "1.0 2.0 3.0", "nan 2.0"])
def test_a_malformed_line_of_segments_is_named(tmp_path, times):
    put(tmp_path / "wav.scp", "rec1 r1.flac\n")
    put(tmp_path / "segments", f"u1 rec1 0.5 2.0\nu2 rec1 {times}\n")
    put(tmp_path / "text", "u1 hello\nu2 bye\n")
    with pytest.raises(UserError, match=rf"line of .*/segments` must be UTTERANCE.*, but is u2 rec1 ?{times}$"):
        list(read_kaldi(tmp_path, "en"))


@pytest.mark.parametrize("name", ["a.txt", "text", "table.csv"])
def test_what_is_not_utf8_is_named(tmp_path, name):
    put(tmp_path / "a.wav")
    if name == "text":
        put(tmp_path / "wav.scp", "u1 a.wav\n")
    (tmp_path / name).write_bytes("u1,señor,path\n".encode("latin-1"))
    data = UserData(tmp_path / name if name == "table.csv" else tmp_path, "es")
    with pytest.raises(UserError, match=rf"{name}` must be UTF-8, but is in another encoding \(byte 6 shows it\)"):
        list(data.utterances(tmp_path))


def test_hidden_files_are_no_recordings(tmp_path):
    for name in ("a", "._a", ".trash/b"):
        put(tmp_path / f"{name}.wav")
        put(tmp_path / f"{name}.txt", "habari")
    assert [found.id for found in read_folder(tmp_path, "sw")] == ["a"]


def test_a_command_in_wav_scp_is_not_run(tmp_path):
    put(tmp_path / "wav.scp", f"u1 touch {tmp_path}/ran |\n")
    put(tmp_path / "text", "u1 hello\n")
    with pytest.raises(UserError, match="must be a path, but is a command"):
        list(read_kaldi(tmp_path, "en"))
    assert not (tmp_path / "ran").exists()


def test_a_common_voice_table(tmp_path):
    put(tmp_path / "clips/a.mp3")
    table = 'client_id\tpath\tsentence\tlocale\nx1\ta.mp3\tMcDonald said "no\tcy\n'
    (found,) = read_table(put(tmp_path / "train.tsv", table), "und")
    assert (found.audio, found.text) == (str(tmp_path / "clips/a.mp3"), 'McDonald said "no')
    assert (found.language, found.speaker, found.id) == ("cy", "x1", "a")


def test_a_csv_with_quotes_ipa_and_splits(tmp_path):
    table = 'file,text,ipa,split,id\na.wav,"one, two",wʌntu,dev,u7\n'
    (found,) = read_table(put(tmp_path / "t.csv", table), "en")
    assert (found.text, found.ipa, found.split, found.id) == ("one, two", "wʌntu", "dev", "u7")


def test_a_table_without_names(tmp_path):
    found = list(read_table(put(tmp_path / "t.tsv", "a.wav\thello\nb.wav\tbye\n"), "en"))
    assert [(Path(u.audio).name, u.text) for u in found] == [("a.wav", "hello"), ("b.wav", "bye")]
    with pytest.raises(UserError, match=r"names of columns, path and text among them, but is x, y, z"):
        list(read_table(put(tmp_path / "t.csv", "x,y,z\n1,2,3\n"), "en"))


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
