"""Labels with times beside a recording: TIMIT's .phn and .wrd, label tracks of Audacity, subtitles."""

import pytest
from user_files import hum, put

from couloir.data.corpora.base import Dropped, Phone, Utterance
from couloir.data.corpora.labels import phones_of, rows_of, subtitles_of
from couloir.data.corpora.recordings import read_folder
from couloir.data.corpora.textgrid import Interval
from couloir.errors import UserError

PHN = "0 8000 h#\n8000 12000 sh\n12000 16000 iy\n16000 17600 dcl\n17600 19200 d\n19200 32000 h#\n"
WRD = "8000 16000 she\n16000 19200 'd\n"


def read(folder, files, seconds=2.0):
    hum(folder / "x.WAV", seconds)
    for name, content in files.items():
        put(folder / name, content)
    return list(read_folder(folder, "en"))


TEXTS = [
    ({"x.PHN": PHN, "x.WRD": WRD, "x.TXT": "0 32000 She'd.\n"}, "She'd."),
    ({"x.phn": PHN, "x.wrd": WRD}, "she 'd"), ({"x.phn": PHN}, ""),
    ({"x.WAV.phn": PHN.replace("\n", "\r\n")}, ""), ({"x.phn": "\ufeff" + PHN.replace(" ", "\t")}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("files", "text"), TEXTS)
def test_timits_phones_are_ipa_with_their_times(tmp_path, files, text):
    (found,) = read(tmp_path, files)
    assert isinstance(found, Utterance) and (found.text, found.start) == (text, None)
    # 8000 samples at 16 kHz are half a second; the closure is part of the stop, 1.0 to 1.2 s.
    assert found.phones == (Phone("ʃ", 0.5, 0.25), Phone("i", 0.75, 0.25), Phone("d", 1.0, 0.2))


def test_times_with_a_point_are_seconds_and_other_letters_are_ipa(tmp_path):
    (found,) = read(tmp_path, {"x.phn": "0.0 0.1 sil\n0.1 0.35 ʃ\n0.35 0.6 iː\n"})
    assert found.phones == (Phone("ʃ", 0.1, 0.25), Phone("iː", 0.35, 0.25))


def test_words_alone_are_a_transcript(tmp_path):
    (found,) = read(tmp_path, {"x.wrd": WRD + "19200 32000 soon\n"})
    assert (found.text, found.phones, found.start) == ("she 'd soon", None, None)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"x.phn": PHN.replace("19200 32000 h#\n", "")}, "at 1.20 s"),  # 8 kHz, of 2 s
        ({"x.phn": "0 96000 ʃ\n"}, "at 6.00 s"),
        ({"x.phn": "MillisecondsPerFrame: 1.0\n0 100 .pau\n"}, "must be lines"),
        ({"x.phn": ""}, "must be lines"), ({"x.phn": "0 32000 x7\n"}, "must be IPA"),
        ({"x.phn": "0 9 sh\n9 32000 spn\n"}, "`spn`"), ({"x.phn": "900 9 sh\n9 32000 iy\n"}, "after its begin"),
        ({"x.phn": "0 1.5.5 sh\n"}, "number of seconds"), ({"x.phn": PHN, "x.txt": b"\xe9"}, "UTF-8"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_are_named(tmp_path, files, why):
    hum(tmp_path / "good.wav", 1)
    put(tmp_path / "good.txt", "good")
    good, bad = read(tmp_path, files)
    assert isinstance(good, Utterance) and isinstance(bad, Dropped) and bad.id == "x" and why in bad.detail


SRT = (
    "1\n00:00:00,500 --> 00:00:01,250\n<i>Hello</i>\nthere\n\n"
    "2\n00:00:01,500 --> 00:00:03,000 X1:0\n{\\an8}12 apples\n\n3\n01:00:03,000 --> 01:00:04,000\n\n"
)
VTT = (
    "WEBVTT\n\nNOTE a --> b\n\n00:00.500 --> 00:01.250 align:start\n<v Ann>Hello there\n\n"
    "c\n00:01.500 --> 00:03.000\n12 apples\n"
)
TRACK = "0.500000\t1.250000\tHello there\n1.500000\t3.000000\t12 apples\n"


@pytest.mark.parametrize(
    ("name", "content"), [("x.srt", SRT), ("x.vtt", VTT), ("x.txt", TRACK), ("x.SRT", SRT.replace("\n", "\r\n"))]
)
def test_each_subtitle_and_label_is_an_utterance(tmp_path, name, content):
    found = read(tmp_path, {name: content}, 4)
    assert [(u.id, u.text, u.start, u.duration) for u in found] == [
        ("x-0000500", "Hello there", 0.5, 0.75), ("x-0001500", "12 apples", 1.5, 1.5),
    ]  # fmt: skip


def test_a_text_goes_before_subtitles(tmp_path):
    (found,) = read(tmp_path, {"x.srt": SRT, "x.txt": "all of it"})
    assert (found.text, found.start) == ("all of it", None)


NUMBERS = ["1 2 3", "1 2 3 4 5", "12 30 apples", "0 46797 Go on.", "7 8\n9 10 11", "3 2 one\n1 0 go"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_words_too(tmp_path, text):
    (found,) = read(tmp_path, {"x.txt": text})
    assert isinstance(found, Utterance) and found.text == text.replace("\n", " ").removeprefix("0 46797 ")


@pytest.mark.parametrize("text", ["0.5 1.2 hello there", "0 100 pa\n100 200 ta ka", "0.0\t0.2\tp\n0.2\t0.4\ta\n"])
def test_times_are_no_words(tmp_path, text):
    hum(tmp_path / "good.wav", 1)
    put(tmp_path / "good.txt", "good")
    _, bad = read(tmp_path, {"x.txt": text})
    assert "words alone" in bad.detail


def test_rows_are_all_of_a_text_or_none():
    assert rows_of(["0 1 a b", "", " 1\t2.5 "]) == [("0", "1", "a b"), ("1", "2.5", "")]
    assert rows_of(["0 1 a", "x"]) == rows_of([]) == []


def test_subtitles_need_times():
    assert subtitles_of("a --> b\nwords") == [] and subtitles_of("words") == []
    assert subtitles_of("100:00:01.5 --> 100:00:02\nlate") == [Interval(360001.5, 360002.0, "late")]


def test_closures_that_are_not_released(tmp_path):
    def labels(*names):
        rows = [Interval(i, i + 1, name) for i, name in enumerate(names)]
        return [tuple(phone) for phone in phones_of(rows, tmp_path)]

    assert labels("kcl", "tcl", "t", "bcl") == [(0, 1, "k"), (1, 3, "t"), (3, 4, "b")]
    assert labels("dcl", "jh", "h#", "gcl", "pau", "epi") == [(0, 2, "d͡ʒ"), (3, 4, "g")]
    with pytest.raises(UserError, match="phones of all"):
        labels("t", "<unk>")
