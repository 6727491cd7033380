"""Subtitles: what SubRip files look like, and where cues end."""

from __future__ import annotations

import re

import pytest
from parrot import edit, go, talk

from couloir.inference.formats import one_file
from couloir.inference.subtitles import LONGEST_CHARACTERS, LONGEST_S, cues, srt
from couloir.inference.transcript import Token, Transcript


def words(*spans):
    return [Token(text, start, end, 0.9) for text, start, end in spans]


def of(tokens, said=None):
    return Transcript("x.wav", "", tokens, 4000.0, 0.9, 0.02, said=said)


def test_a_file_by_hand():
    said = words(("so", 0.1, 0.35), ("what", 0.4, 0.9), ("yes", 1.5, 2.0), ("no", 3725.0, 3725.0625))
    assert srt(of([], said)) == (
        "1\n00:00:00,100 --> 00:00:00,900\nso what\n\n"
        "2\n00:00:01,500 --> 00:00:02,000\nyes\n\n"
        "3\n01:02:05,000 --> 01:02:05,062\nno\n\n"
    )


def test_phones_stand_close_together_and_words_apart():
    phones = words(("t", 0.0, 0.1), ("ʰ", 0.1, 0.2), ("a", 0.2, 0.3))
    assert "\ntʰa\n" in srt(of(phones))
    marked = words((" a", 0.0, 0.1), ("b", 0.1, 0.2), (" c", 0.2, 0.3))
    assert "\nab c\n" in srt(of(marked)) and srt(of([])) == ""


def test_cues_are_short_and_end_at_pauses():
    parts = words(*((f"word{i}", 0.4 * i, 0.4 * i + 0.3) for i in range(200)))
    groups = list(cues(parts, " "))
    assert [part for group in groups for part in group] == parts
    assert all(len(" ".join(p.symbol for p in group)) <= LONGEST_CHARACTERS for group in groups)
    assert all(group[-1].end - group[0].start <= LONGEST_S for group in groups) and len(groups) < 60
    assert [len(group) for group in cues(words(("a", 0, 1), ("b", 1.499, 2), ("c", 2.5, 3)), " ")] == [2, 1]
    assert [len(group) for group in cues(words(("a", 0, 9), ("b" * 99, 9, 9.1)), "")] == [1, 1], "alone if too long"


@pytest.mark.parametrize("text", ["a\n\nb", "\t", "a\r\n2\r\n"])
def test_no_symbol_breaks_a_block(text):
    written = srt(of([], words((text, 0.0, 1.0), ("z", 1.0, 2.0))))
    assert len(re.findall(r"\n\n", written)) == 1 and written.count("\n") == 4


def test_a_folder_of_subtitles_is_resumed_and_what_a_person_changed_stays(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ja", b="na"), tmp_path / "out"
    out.mkdir()
    go(parrot, folder, out, "srt")
    assert sorted(path.name for path in out.glob("*.srt")) == ["a.srt", "b.srt"]
    assert (out / "a.srt").read_text() == "1\n00:00:00,000 --> 00:00:00,500\nja\n\n"
    edit(out / "b.srt", "na", "nah")
    talk(folder, c="la")
    run = go(parrot, folder, out, "srt")
    assert run.resumed == 2 and len(parrot.given) == 3 and list(run.left) == [str(out / "b.srt")]
    assert "nah" in (out / "b.srt").read_text() and "la" in (out / "c.srt").read_text()


def test_one_recording_into_one_file_and_textgrids_beside(parrot, tmp_path):
    folder = talk(tmp_path / "in", a="ja")
    go(parrot, folder / "a.wav", tmp_path / "a.srt")
    assert "ja" in (tmp_path / "a.srt").read_text()
    (tmp_path / "out").mkdir()
    for kind in ("TextGrid", "srt"):
        go(parrot, folder, tmp_path / "out", kind)
    assert sorted(path.suffix for path in (tmp_path / "out").glob("a.*")) == [".TextGrid", ".srt"]
    assert (tmp_path / "out/a.TextGrid").read_text() == one_file(
        "TextGrid", Transcript("", "ja", words(("ja", 0.0, 0.5)), 1.0, 1.0, 0.02)
    )
