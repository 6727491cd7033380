"""Transcripts in lists: one text for the recordings of a folder, or of all folders."""

import pytest
from user_files import put

from couloir.data.corpora.base import Dropped, Utterance
from couloir.data.corpora.recordings import read_folder
from couloir.errors import UserError


def texts(folder):
    return {item.id: item.text if isinstance(item, Utterance) else item for item in read_folder(folder, "en")}


LISTS = [
    ("dev-clean/84/121/84-121.trans.txt", "84-121-0 GO ON\n84-121-1 STOP IT\n"),
    ("transcript/all_v0.8.txt", "84-121-0 GO ON\r\n84-121-1\tSTOP IT\r\nother_9 NEVER\n"),
    ("etc/PROMPTS", "ann/mfc/84-121-0 GO ON\nann/mfc/84-121-1 STOP IT\n"),
    ("etc/txt.done.data", '( 84-121-0 "GO ON" )\n( 84-121-1 "STOP IT" )\n'),
    ("prompts.txt", "\ufeff84-121-0.flac GO ON\nwav\\84-121-1.wav   STOP IT\n\n"),
    ("words.trn", "84-121-0 GO ON\n84-121-1 STOP IT\n"),
]


@pytest.mark.parametrize(("name", "content"), LISTS)
def test_lists_of_corpora(tmp_path, name, content):
    for i in (0, 1):
        put(tmp_path / f"dev-clean/84/121/84-121-{i}.flac")
    put(tmp_path / "README.txt", "84 is the speaker\n84-121-0 was a good one\nand so on\nand on\nto its end\n")
    put(tmp_path / name, content)
    assert list(texts(tmp_path).values()) == ["GO ON", "STOP IT"]


def test_the_nearest_list_decides(tmp_path):
    for speaker, text in (("ann", "Go, on!"), ("bob", "Stop")):
        put(tmp_path / f"{speaker}/wav/a1.wav")
        put(tmp_path / f"{speaker}/etc/PROMPTS", f"*/a1 {text.upper().replace(',', '')}\n")
        put(tmp_path / f"{speaker}/etc/prompts-original", f"a1 {text}\n")
    put(tmp_path / "all.txt", "a1 neither\n")
    assert texts(tmp_path) == {"ann-wav-a1": "GO ON!", "bob-wav-a1": "STOP"}


def test_a_transcript_beside_goes_before_lists_and_other_words_are_named(tmp_path):
    for name in ("a", "b", "c", "d"):
        put(tmp_path / f"{name}.wav")
    put(tmp_path / "a.txt", "of its own")
    put(tmp_path / "d.txt", "")
    put(tmp_path / "list1.txt", "a one\nb two\nc three\nd four\n")
    put(tmp_path / "list2.txt", "b two\nc other\n")
    put(tmp_path / "list3.txt", b"b \xe9\n")
    found = texts(tmp_path)
    assert (found["a"], found["b"]) == ("of its own", "two")
    assert isinstance(found["c"], Dropped) and "list1.txt and" in found["c"].detail and "different" in found["c"].detail
    assert isinstance(found["d"], Dropped) and "d.txt is empty" in found["d"].detail


def test_a_text_that_names_few_recordings_is_no_list(tmp_path):
    put(tmp_path / "one.wav")
    put(tmp_path / "story.txt", "once upon a time\none day\nthere was\nnobody\n")
    with pytest.raises(UserError, match="no recording with a transcript"):
        texts(tmp_path)
