"""Transcripts as files, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from couloir.data.corpora.textgrid import read_textgrid
from couloir.decoding.hypothesis import Hypothesis
from couloir.errors import UserError
from couloir.inference.formats import ctm_ids, format_of, from_json, table, textgrid, tiers_of, to_json
from couloir.inference.transcript import Token, Transcript, timed_tokens
from couloir.inference.vocabulary import Vocabulary, read_vocabulary

VOCABULARY = Vocabulary(["<blk>", "<sos/eos>", "<unk>", "▁", "a", "t", "ʰ", '"', "▁b"])


def _transcript(ids=(3, 5, 6, 4, 3, 4), name="d/x y.wav"):
    spans = Hypothesis(
        list(ids), [10 * i for i in range(len(ids))], [10 * i + 3 for i in range(len(ids))], [0.5] * len(ids)
    )
    tokens = timed_tokens(spans, VOCABULARY, 0.02, 2.0)
    return Transcript(name, VOCABULARY.text(ids), tokens, 2.0, 0.5, 0.02, np.zeros((3, 3)))


def test_phones_and_words():
    transcript = _transcript()
    assert transcript.text == "tʰa a"
    assert [p.symbol for p in transcript.phones()] == ["tʰ", "a", "a"]
    assert [w.symbol for w in transcript.words()] == ["tʰa", "a"]
    first = transcript.phones()[0]
    assert (first.start, first.end) == (transcript.tokens[1].start, transcript.tokens[2].end)
    assert VOCABULARY.spell("tʰa") == [5, 6, 4] and VOCABULARY.spell("tx") == []


@pytest.mark.parametrize(
    "ids, words", [((4, 5, 3, 5, 4), ["at", "ta"]), ((0, 4, 8), ["a", "b"]), ((4, 3), ["a"]), ((4, 5), []), ((), [])]
)
def test_the_first_word_needs_no_boundary_before_it(ids, words):
    transcript = _transcript(ids)
    assert [w.symbol for w in transcript.words()] == words
    if words:
        assert transcript.words()[0].start == transcript.phones()[0].start


def test_neighbours_meet_and_silence_stays_silent():
    spans = Hypothesis([4, 5, 4], [10, 14, 60], [12, 15, 61], [1.0] * 3)
    a, b, c = timed_tokens(spans, VOCABULARY, 0.02, 1.0)
    assert a.end == b.start == pytest.approx(0.035 + 0.02 * (12 + 2 / 3), abs=1e-3)
    assert b.end < c.start and c.end == 1.0
    assert timed_tokens(Hypothesis(), VOCABULARY, 0.02, 1.0) == []


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "ctm"])
def test_lines(kind):
    lines = table(kind, [_transcript(), _transcript((), "empty.wav")]).splitlines()
    if kind == "jsonl":
        assert [json.loads(line)["text"] for line in lines] == ["tʰa a", ""]
    elif kind == "tsv":
        assert lines[1].split("\t") == ["d/x y.wav", "tʰa a", "0.5000", "2.000"] and len(lines) == 3
    else:
        assert [line.split()[4] for line in lines] == ["tʰ", "a", "a"]
        assert all(len(line.split()) == 6 and float(line.split()[3]) > 0 for line in lines)


def test_json_round_trip():
    transcript = _transcript()
    again = from_json(json.loads(json.dumps(to_json(transcript))))
    assert again.tokens == transcript.tokens and again.text == transcript.text and again.log_probs is None


def test_textgrid_is_read_back_by_another_reader(tmp_path):
    tokens = [Token('say "a"', 0.1, 0.5, 1.0), Token("ə̃ː", 0.5, 0.9, 1.0), Token("b", 0.8, 1.7, 1.0)]
    (tmp_path / "a.TextGrid").write_text(textgrid({"words": tokens[:1], "phones": tokens}, 1.5), "utf-8")
    words, phones = read_textgrid(tmp_path / "a.TextGrid")
    assert (words.name, phones.name) == ("words", "phones")
    assert [tuple(i) for i in phones.intervals] == [
        (0.0, 0.1, ""), (0.1, 0.5, 'say "a"'), (0.5, 0.9, "ə̃ː"), (0.9, 1.5, "b")
    ]  # fmt: skip
    assert words.intervals[-1].end == 1.5


def test_textgrid_is_read_back_by_praat(tmp_path):
    parselmouth = pytest.importorskip("parselmouth")
    (tmp_path / "a.TextGrid").write_text(textgrid(tiers_of(_transcript()), 2.0), "utf-8")
    grid = parselmouth.read(str(tmp_path / "a.TextGrid"))
    ask = parselmouth.praat.call
    assert ask(grid, "Get number of tiers") == 2
    assert ask(grid, "Get total duration") == 2.0
    assert "tʰ" in [ask(grid, "Get label of interval", 2, i + 1) for i in range(4)]


@pytest.mark.parametrize("seconds, end", [(0.0, "0.001"), (1 / 16000, "0.001"), (0.0014, "0.001"), (2.0, "2.0")])
def test_a_textgrid_of_the_shortest_recording_has_a_length(seconds, end):
    lines = textgrid({"phones": [Token("a", 0.0, seconds, 1.0)]}, seconds).splitlines()
    assert lines[4] == f"xmax = {end}" and lines[3] == "xmin = 0"
    assert lines.count(f"            xmax = {end}") == 1


NAMES = ["a b.wav", "a_b.wav", "a\tb.wav", "a  b.wav", "a\\tb.wav", "a\r\nb.wav", "caf\udce9.wav", r"caf\xe9.wav"]
NAMES += [";;x.wav", "ä.wav"]


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "ctm"])
def test_any_name_gives_valid_utf_8_one_line_each_and_none_alike(kind):
    text = table(kind, [_transcript((4,), name=name) for name in NAMES])
    lines = text.encode("utf-8").decode("utf-8").removesuffix("\n").split("\n")
    assert not set(text) & {"\r", "\x0b"}
    lines = lines[kind == "tsv" :]
    assert len(lines) == len(NAMES)
    if kind == "jsonl":
        assert [json.loads(line)["name"] for line in lines] == NAMES
    elif kind == "tsv":
        assert [line.count("\t") for line in lines] == [3] * len(NAMES)
        assert [line.split("\t")[0] for line in lines] == [
            "a b.wav", "a_b.wav", r"a\tb.wav", "a  b.wav", r"a\\tb.wav", r"a\r\nb.wav", r"caf\xe9.wav", r"caf\\xe9.wav",
            ";;x.wav", "ä.wav",
        ]  # fmt: skip
    else:
        assert len({line.split(" ")[0] for line in lines}) == len(NAMES)
        assert all(len(line.split()) == 6 and not line.startswith(";;") for line in lines)


def test_ids_of_ctm_do_not_depend_on_the_order_and_a_name_without_blanks_keeps_its_own():
    expected = {"a b": "a_b-3", "a_b": "a_b", "a\u2003b": "a_b-4", "a_b-2": "a_b-2", "": "audio"}
    for names in (list(expected), list(expected)[::-1], sorted(expected)):
        assert ctm_ids(names) == expected


def test_what_a_model_calls_its_symbols_breaks_no_line():
    odd = Vocabulary(["<blk>", "a\tb", "c\nd", "e f"])
    spans = Hypothesis([1, 2, 3], [0, 10, 20], [5, 15, 25], [0.5] * 3)
    transcript = Transcript("x", odd.text([1, 2, 3]), timed_tokens(spans, odd, 0.02, 1.0), 1.0, 0.5, 0.02)
    assert table("tsv", [transcript]).count("\n") == 2 and table("tsv", [transcript]).count("\t") == 6
    rows = table("ctm", [transcript]).splitlines()
    assert [row.split()[4] for row in rows] == [r"a\tb", r"c\nd", "e_f"]


def test_format_names(tmp_path):
    assert format_of(tmp_path / "grids") == format_of(tmp_path / "a.TextGrid") == "TextGrid"
    assert format_of(tmp_path / "x.txt", "CTM") == "ctm"
    with pytest.raises(UserError, match="jsonl"):
        format_of(tmp_path / "x.json", "json")
    with pytest.raises(UserError, match="--output"):
        format_of(tmp_path / "x.docx")


@pytest.mark.parametrize(
    "content, named",
    [
        ("<blk> 0\na 2\n", "without id 1"),
        ("", "<blk>"),
        ("<blk> 0\na a\n", "line 2"),
        ("<blk> 0\na 0\n", "line 2"),
        (b"\xff\xfe", "text"),
        ("<blk> 0\n", r"must be 2 \(outputs of m.onnx\)"),
    ],
)
def test_bad_tokens(tmp_path, content, named):
    path = tmp_path / "tokens.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=named):
        read_vocabulary(path, 2, "m.onnx")
