"""Transcripts as files, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from couloir.data.corpora.textgrid import read_textgrid
from couloir.errors import UserError
from couloir.inference.formats import format_of, from_json, to_json, write_textgrid, write_transcripts
from couloir.inference.transcript import Spans, Token, Transcript, timed_tokens
from couloir.inference.vocabulary import Vocabulary, read_vocabulary

VOCABULARY = Vocabulary(["<blk>", "<sos/eos>", "<unk>", "▁", "a", "t", "ʰ", '"', "▁b"])


def _transcript(ids=(3, 5, 6, 4, 3, 4), name="d/x y.wav"):
    spans = Spans(list(ids), [10 * i for i in range(len(ids))], [10 * i + 3 for i in range(len(ids))], [0.5] * len(ids))
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
    spans = Spans([4, 5, 4], [10, 14, 60], [12, 15, 61], [1.0] * 3)
    a, b, c = timed_tokens(spans, VOCABULARY, 0.02, 1.0)
    assert a.end == b.start == pytest.approx(0.035 + 0.02 * (12 + 2 / 3), abs=1e-3)
    assert b.end < c.start and c.end == 1.0
    assert timed_tokens(Spans(), VOCABULARY, 0.02, 1.0) == []


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "ctm"])
def test_lines(tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    write_transcripts(path, [_transcript(), _transcript((), "empty.wav")], format_of(path))
    lines = path.read_text(encoding="utf-8").splitlines()
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
    write_textgrid(tmp_path / "a.TextGrid", {"words": tokens[:1], "phones": tokens}, 1.5)
    words, phones = read_textgrid(tmp_path / "a.TextGrid")
    assert (words.name, phones.name) == ("words", "phones")
    assert [tuple(i) for i in phones.intervals] == [
        (0.0, 0.1, ""), (0.1, 0.5, 'say "a"'), (0.5, 0.9, "ə̃ː"), (0.9, 1.5, "b")
    ]  # fmt: skip
    assert words.intervals[-1].end == 1.5


def test_textgrid_is_read_back_by_praat(tmp_path):
    parselmouth = pytest.importorskip("parselmouth")
    write_transcripts(tmp_path, [_transcript()], "TextGrid")
    grid = parselmouth.read(str(tmp_path / "x y.TextGrid"))
    ask = parselmouth.praat.call
    assert ask(grid, "Get number of tiers") == 2
    assert ask(grid, "Get total duration") == 2.0
    assert "tʰ" in [ask(grid, "Get label of interval", 2, i + 1) for i in range(4)]


def test_textgrids_repeat_the_folders_and_lose_none(tmp_path):
    names = [tmp_path / "in" / "a" / "x.wav", tmp_path / "in" / "a" / "x.flac", tmp_path / "in" / "x.wav"]
    write_transcripts(tmp_path / "out", [_transcript(name=str(n)) for n in names], "TextGrid", tmp_path / "in")
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.TextGrid"))
    assert found == ["a/x.TextGrid", "a/x.flac.TextGrid", "x.TextGrid"]


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
