"""What programs print of names, texts and messages of any origin: no terminal obeys it, and one line stays one."""

import logging
import sys
import unicodedata

import pytest

from couloir.config import TeachingParser
from couloir.errors import LONGEST_MESSAGE, UserError, message_line, one_line_errors, shown

HOSTILE = {
    "\x1b[2J\x1b[H": r"\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m": r"\x9b31m",  # the same sequence by one character of C1
    "good\rbad": r"good\rbad",
    "a\nerror: b": r"a\nerror: b",
    "a\tb": r"a\tb",
    "\x08\x7f\x00": r"\x08\x7f\x00",
    "\x85": r"\x85",
    "\u202egnp.exe": r"\u202egnp.exe",
    "\u2067x\u2069": r"\u2067x\u2069",
    "\u2028\u2029": r"\u2028\u2029",
    "\u200e\u200f\u061c": r"\u200e\u200f\u061c",
    "caf\udce9.wav": r"caf\xe9.wav",
    "\ud800": r"\ud800",
    "\U000e0041": r"\ue0041",
}
PLAIN = ["t͡ʃɔɪs", "мама", "صوت", "北京", "x\u200dy", "a b", r"C:\x", "🎙", "ã"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_a_terminal_would_obey_is_written_out(text):
    assert shown(text) == HOSTILE[text]
    assert shown(f"x{text}y") == f"x{HOSTILE[text]}y"


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays(text):
    assert shown(text) == text == shown(text, lines=True)


def test_no_control_is_left_of_all_of_unicode():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    for kept, lines in (("", False), ("\n\t", True)):
        left = [c for c in everything if shown(c, lines) == c]
        assert {c for c in left if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} == set(kept)
        turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        assert not [c for c in left if unicodedata.bidirectional(c) in turning]


def test_a_long_message_keeps_its_ends():
    text = message_line("begin" + "x" * 25_000_000 + "end")
    assert len(text) < LONGEST_MESSAGE + 60 and text.startswith("begin") and text.endswith("end")
    assert "25000008" not in text and f"{25_000_008 - LONGEST_MESSAGE} characters" in text
    assert message_line("x" * LONGEST_MESSAGE) == "x" * LONGEST_MESSAGE
    assert len(shown("x" * 100_000)) == 100_000, "a transcript is whole"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_errors_flags_and_logs_are_shown(text, capsys):
    @one_line_errors
    def main():
        logging.getLogger().addHandler(handler)
        logging.warning("of %s", text)
        raise UserError(f"{text} is bad")

    handler = logging.StreamHandler(sys.stderr)
    try:
        assert main() == 2
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err == f"of {HOSTILE[text]}\nerror: {HOSTILE[text]} is bad\n"
    with pytest.raises(SystemExit):
        TeachingParser().parse_args([f"--{text}"])
    err = capsys.readouterr().err
    assert HOSTILE[text].partition("=")[0] in err and err.count("\n") == 1
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_a_programs_own_lines_of_progress_may_be_several(caplog):
    @one_line_errors
    def main():
        logging.info("table:\n%s", "a\tb\x1b")

    with caplog.at_level(logging.INFO):
        assert main() == 0
    assert caplog.messages == ["table:\na\tb\\x1b"]


def test_an_argument_of_the_wrong_kind_is_shown(capsys):
    parser = TeachingParser()
    parser.add_argument("--count", type=int)
    parser.add_argument("--kind", choices=("a", "b"))
    for flags in (["--count", "\x1b[31m"], ["--kind", "\x1b[31m"], ["\x1b[31m"]):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(flags)
        err = capsys.readouterr().err
        assert end.value.code == 2 and "\x1b" not in err and err.count("\n") == 1, err
