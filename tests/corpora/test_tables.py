"""Tables of recordings and transcripts, as people, spreadsheets and corpora write them."""

import csv
import io
import random
from pathlib import Path

import pytest
from user_files import put

from couloir.data.corpora.base import Dropped, Utterance
from couloir.data.corpora.tables import read_table
from couloir.errors import UserError


def table(tmp_path, content, name="t.tsv", language="en"):
    return list(read_table(put(tmp_path / name, content), language))


def texts(found):
    return {u.id: u.text for u in found if isinstance(u, Utterance)}


def dropped(found):
    return {item.id: item.detail for item in found if isinstance(item, Dropped)}


def test_a_common_voice_table(tmp_path):
    put(tmp_path / "clips/a.mp3")
    content = 'client_id\tpath\tsentence\tlocale\nx1\ta.mp3\tMcDonald said "no\tcy\n'
    (found,) = table(tmp_path, content, "train.tsv", "und")
    assert (found.audio, found.text) == (str(tmp_path / "clips/a.mp3"), 'McDonald said "no')
    assert (found.language, found.speaker, found.id) == ("cy", "x1", "a")


def test_a_csv_with_quotes_ipa_and_splits(tmp_path):
    (found,) = table(tmp_path, 'file,text,ipa,split,id\na.wav,"one, two",wʌntu,dev,u7\n', "t.csv")
    assert (found.text, found.ipa, found.split, found.id) == ("one, two", "wʌntu", "dev", "u7")


def test_a_table_without_names(tmp_path):
    found = table(tmp_path, "a.wav\thello\nb.wav\tbye\n")
    assert [(Path(u.audio).name, u.text) for u in found] == [("a.wav", "hello"), ("b.wav", "bye")]
    for heading in ("x,y,z\n1,2,3\n", "path,speaker\na.wav,x\n", "path\na.wav\n", "", "\n\n"):
        with pytest.raises(UserError, match=r"names of columns, path and text among them"):
            table(tmp_path, heading, "t.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_separates_fields_is_seen(tmp_path, delimiter, ends, mark):
    lines = [delimiter.join(row) for row in (("Path", " text "), ("a.wav", "one"), ("b.wav", "two"), ("", ""))]
    assert texts(table(tmp_path, mark + ends.join(lines), "t.txt")) == {"a": "one", "b": "two"}


def test_a_delimiter_inside_a_field_is_text(tmp_path):
    assert texts(table(tmp_path, "path;text\na.wav;one, two, three\n", "t.csv")) == {"a": "one, two, three"}
    assert texts(table(tmp_path, "path\ttext\na.wav\tone, two; three\n")) == {"a": "one, two; three"}
    assert texts(table(tmp_path, "sep=;\npath;text\na.wav;one\n", "t.csv")) == {"a": "one"}
    assert texts(table(tmp_path, "a.wav\tone, two\n")) == {"a": "one, two"}


def test_python_writes_what_is_read(tmp_path):
    rows = {
        "a": 'say "no"',
        "b": "one, two",
        "c": "line\nbreak",
        "d": "x\r\ny",
        "e": "semi;colon",
        "f": "tab\there",
        "g": "\u2028",
    }
    for delimiter in ",;":
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["id", "path", "text"])
        writer.writerows([key, f"{key}.wav", text] for key, text in rows.items())
        found = table(tmp_path, out.getvalue(), "t.csv")
        assert texts(found) == {
            key: text.replace("\r\n", "\n").replace("\n", " ").strip() for key, text in rows.items() if text.strip()
        }


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085", "\f", "\v", "\x1c", "\x1d", "\x1e"])
@pytest.mark.parametrize("name", ["t.tsv", "t.csv"])
def test_nothing_else_ends_a_line(tmp_path, character, name):
    mark = "\t" if name == "t.tsv" else ","
    content = f"path{mark}text\na.wav{mark}one{character}two\nb.wav{mark}three\n"
    assert texts(table(tmp_path, content, name)) == {"a": f"one{character}two", "b": "three"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path,text\na.wav,hello there, my friend\nb.wav,good day\n"),
        ("t.csv", "path,text\na.wav\nb.wav,good day\n"),
        ("t.tsv", "path\ttext\na.wav\thello\tthere\nb.wav\tgood day\n"),
        ("t.tsv", "path\ttext\na.wav\nb.wav\tgood day\n"),
        ("t.csv", "path;text\na.wav;hello;there\nb.wav;good day\n"),
        ("t.tsv", "w0.wav\tone\na.wav\thello\tthere\nb.wav\tgood day\n"),
    ],
)
def test_rows_of_another_width_are_left_out_by_name(tmp_path, name, content):
    found = table(tmp_path, content, name)
    assert texts(found)["b"] == "good day" and "a" not in texts(found)
    assert "must be 2 fields wide" in dropped(found)["a"] and "line 2" in dropped(found)["a"]


def test_the_line_of_a_record_is_counted_with_the_breaks_inside_others(tmp_path):
    found = table(tmp_path, 'path,text\na.wav,"one\ntwo"\n\nb.wav,x,y\n', "t.csv")
    assert "line 5" in dropped(found)["b"]


TIMES = [
    ("start\tend", "0\t2", (0.0, 2.0)), ("start\tend", "2\t5.25", (2.0, 3.25)), ("start\tend", "\t", (None, None)),
    ("start\tend", "1.5\t", (1.5, None)), ("start\tend", "1\t-1", (1.0, None)), ("start\tend", "\t3", (0.0, 3.0)),
    ("offset\tduration", "2\t3", (2.0, 3.0)), ("offset\tduration", "2\t-1", (2.0, None)),
    ("dur\tonset", "3\t1e0", (1.0, 3.0)), ("start\tend", "-0.2\t2", (-0.2, 2.2)),
    ("begin_time\tend_time", ".5\t2.", (0.5, 1.5)), ("duration\tspeaker", "2\tx", (0.0, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("heading", "cells", "right"), TIMES)
def test_columns_of_times_are_heeded(tmp_path, heading, cells, right):
    (found,) = table(tmp_path, f"path\ttext\t{heading}\na.wav\tx\t{cells}\n")
    assert (found.start, found.duration) == right


@pytest.mark.parametrize(
    "cells",
    ["nan\t1", "0\tinf", "0\t1e400", "0x1\t0x2", "0,5\t1,5", "1_0\t2_0", "\uff11\t\uff12", "3\t2", "2\t2", "1\t-2",
     "a\tb",
     "1:00\t1:05", "0 \t1 s", "-inf\t1", "9" * 5000 + "\t1", "--1\t2", "+\t1"],
)  # fmt: skip
def test_times_that_are_none_are_left_out_by_name(tmp_path, cells):
    found = table(tmp_path, f"path\ttext\tstart\tend\tid\na.wav\tx\t{cells}\tu1\nb.wav\ty\t0\t1\tu2\n")
    assert list(dropped(found)) == ["u1"] and list(texts(found)) == ["u2"]
    assert len(dropped(found)["u1"]) < 200


def test_a_duration_that_contradicts_is_left_out(tmp_path):
    found = table(tmp_path, "path\ttext\tstart\tend\tdur\na.wav\tx\t0\t2\t2\nb.wav\tx\t0\t2\t5\n")
    assert len(texts(found)) == 1 and "must be 2 s, from its start to its end" in str(dropped(found))


@pytest.mark.parametrize(
    "name", ["start_ms", "end(ms)", "Start_Sample", "begin_frames", "duration_ms", "offset [samples]", "endms"]
)
def test_times_in_another_unit_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="must be in seconds"):
        table(tmp_path, f"path\ttext\t{name}\na.wav\tx\t5\n")


@pytest.mark.parametrize(
    ("tag", "found"),
    [("EN", "en"), ("en", "en"), (" en ", "en"), ("sv-SE", "sv-se"), ("sv_SE", "sv-se"), ("en_US.UTF-8", "en-us"),
     ("zh-CN", "zh-cn"), ("nan-tw", "nan-tw"), ("", "de"), ("ca@valencia", "ca")],
)  # fmt: skip
def test_tags_of_languages_have_one_spelling(tmp_path, tag, found):
    assert table(tmp_path, f"path\ttext\tlanguage\na.wav\tx\t{tag}\n", language="de")[0].language == found


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("id\tpath\ttext\nu\ta.wav\tx\nv\tb.wav\ty\nu\tc.wav\tz\n", (2, 4)),
        ("id\tpath\ttext\nu\ta.wav\tx\nu\ta.wav\tx\n", (2, 3)),
        ("id\tpath\ttext\n\u00e9\ta.wav\tx\ne\u0301\tb.wav\ty\n", (2, 3)),
        ("path\ttext\na.wav\tx\na.wav\ty\n", (2, 3)),
        ("path\ttext\tstart\tend\na.wav\tx\t0\t1\na.wav\ty\t0\t1\n", (2, 3)),
        ('path,text\na.wav,"x\ny"\na.wav,z\n', (2, 4)),
    ],
)
def test_a_repeated_id_is_refused_with_both_lines(tmp_path, content, lines):
    with pytest.raises(UserError, match=f"each id once, but lines {lines[0]} and {lines[1]} both have"):
        table(tmp_path, content, "t.csv")


def test_recordings_of_one_name_in_two_folders_have_two_ids(tmp_path):
    found = table(tmp_path, "path\ttext\nann/a.wav\tx\nbob/a.wav\ty\n/c/b.wav\tz\na.wav\tw\n")
    assert texts(found) == {"ann-a": "x", "bob-a": "y", "b": "z", "a": "w"}


def test_parts_of_one_recording_have_the_times_in_their_ids(tmp_path):
    found = table(tmp_path, "path\ttext\tstart\tend\na.wav\tx\t0\t1\na.wav\ty\t1\t2\n")
    assert texts(found) == {"a-0-1": "x", "a-1-2": "y"}


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("TRAIN", "train"), ("Training", "train"), ("valid", "dev"), ("dev", "dev"),
     ("validation", "dev"),
     ("test", "test-heldout"), ("test-unseen-speakers", "test-unseen-speakers"), ("eval", "test-heldout"), ("", "")],
)  # fmt: skip
def test_splits_by_their_usual_names(tmp_path, name, split):
    (found,) = table(tmp_path, f"path\ttext\tsplit\na.wav\tx\t{name}\n")
    assert found.split == split


def test_a_split_that_there_is_not_is_left_out_by_name(tmp_path):
    found = table(tmp_path, "path\ttext\tsplit\na.wav\tx\tfold3\nb.wav\ty\ttrain\n")
    assert "must be one of train, dev, test-heldout" in dropped(found)["a"] and list(texts(found)) == ["b"]


@pytest.mark.parametrize("path", ["", "~nobody-of-this-name/a.wav", " "])
def test_a_path_that_is_none_is_left_out(tmp_path, path):
    found = table(tmp_path, f"path\ttext\tid\n{path}\tx\tu\nb.wav\ty\tv\n")
    assert list(dropped(found)) == ["u"] and list(texts(found)) == ["v"]


@pytest.mark.parametrize(
    "path", ["a\0b.wav", "a" * 5000, "/dev/zero", "|ls", "ls |", "$(ls)", "..", "/proc/self/mem", "\ud800"]
)
def test_paths_are_taken_as_they_are_written(tmp_path, path):
    (found,) = table(tmp_path, f"path\ttext\tid\n{path}\tx\tu\n".encode("utf-8", "replace").decode())
    assert found.id == "u"  # whether there is such a recording, the stage finds out


def test_a_row_without_words_is_named(tmp_path):
    assert list(dropped(table(tmp_path, "path\ttext\na.wav\t \nb.wav\tx\n"))) == ["a"]


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="column text of .* must be there once, but is there 2 times"):
        table(tmp_path, "path\ttext\tText\na.wav\tx\ty\n")


@pytest.mark.parametrize("cells", ["text of 200 kB", "ids of 5,000 digits"])
def test_long_cells(tmp_path, cells):
    long = "pa" * 100_000 if cells.startswith("text") else "9" * 5000
    content = f"id,path,text\nu,a.wav,{long}\n" if cells.startswith("text") else f"id,path,text\n{long},a.wav,x\n"
    (found,) = table(tmp_path, content, "t.csv")
    assert long in (found.id, found.text)


def mutated(text, chance):
    data = bytearray(text.encode())
    for _ in range(chance.randrange(1, 6)):
        at, length = chance.randrange(len(data)), chance.randrange(1, 20)
        choice = chance.randrange(4)
        if choice == 0:
            del data[at : at + length]
        elif choice == 1:
            data[at:at] = data[at : at + length]
        elif choice == 2:
            data[at] = chance.randrange(256)
        else:
            data[at:at] = chance.choice(
                (b'"', b"\t", b",", b";", b"\n", b"\r", b"\0", b"nan", b"-1", b"\xe2\x80\xa8", b"~", b"/")
            )
        data = data or bytearray(b" ")
    return bytes(data)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_tables_are_read_or_named(tmp_path, count):
    chance = random.Random(0)
    sources = [
        "path\ttext\tstart\tend\tsplit\tlocale\na.wav\tone\t0\t1\ttrain\ten\n"
        "b.wav\ttwo\t1\t2\tdev\tsv-SE\nc.wav\tthree\t\t\t\t\n",
        'id,file,transcript,ipa\nu1,a.wav,"one, ""two""",wʌn\nu2,b.wav,"line\nbreak",tuː\n',
        "a.wav;hello\nb.wav;bye\n",
    ]
    read = 0
    for _ in range(count):
        path = put(tmp_path / "t.csv", mutated(chance.choice(sources), chance))
        try:
            found = list(read_table(path, "en"))
        except UserError as error:
            assert "t.csv" in str(error) and len(str(error)) < 2000
            continue
        read += 1
        ids = [item.id for item in found if isinstance(item, Utterance)]
        assert len(set(ids)) == len(ids) and all(ids)
    assert read > count / 10
