"""Errors that a person can correct: one line on stderr, exit code 2, no traceback; and text that terminals can bear."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import ParamSpec

P = ParamSpec("P")
LONGEST_MESSAGE = 4000
"""Characters of one line for a terminal: two paths of the longest kind are within, a quoted file is not."""
# Controls (C0, DEL, C1), line and paragraph separators, what turns the direction of writing, halves of surrogate pairs
# (bytes of a name that is no UTF-8), and the invisible tag letters.
_UNSHOWN = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f"
_ONE_LINE = re.compile(f"[{_UNSHOWN}]")
_SEVERAL_LINES = re.compile(rf"(?![\n\t])[{_UNSHOWN}]")
_OF_PLACES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a system that a path is at fault for: where one is named, a person can correct it."""
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def shown(text: object, lines: bool = False) -> str:
    """Text of any origin as a terminal may get it: what would move its cursor or turn its letters around is escaped.

    Args:
        text: names of files, metadata, transcripts. lines: keep line feeds and tabs; otherwise the result is one line.
    """
    return (_SEVERAL_LINES if lines else _ONE_LINE).sub(_escaped, str(text))


def message_line(text: object) -> str:
    """A message as one line that is `shown`, of `LONGEST_MESSAGE` characters about: its ends are kept."""
    return shown(_bounded(str(text)))


def _bounded(whole: str) -> str:
    if len(whole) <= LONGEST_MESSAGE + 100:
        return whole
    half = LONGEST_MESSAGE // 2
    return f"{whole[:half]} [... {len(whole) - 2 * half} characters ...] {whole[-half:]}"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # the byte that Python keeps so
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


class _ShownRecord(logging.LogRecord):
    """A line of a log that is `shown`; those of a program's own progress may have several lines."""

    def getMessage(self) -> str:
        message = super().getMessage()
        return message_line(message) if self.levelno >= logging.WARNING else shown(message, lines=True)


class UserError(Exception):
    """A person's mistake. Its message is one line that names the thing and what to do, of bounded length."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_bounded(str(message)))


def must_be(name: str, expected: str, actual: object, remedy: str = "") -> UserError:
    """The house form of an error: "`name` must be EXPECTED, but is ACTUAL; REMEDY"."""
    return UserError(f"`{name}` must be {expected}, but is {actual}" + (f"; {remedy}" if remedy else ""))


def unknown_name(kind: str, name: str, known: list[str]) -> UserError:
    """An unknown name, with the nearest known one."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)
    return UserError(f"unknown {kind} `{name}`; {hint}")


def one_line_errors(main: Callable[P, int | None]) -> Callable[P, int]:
    """Decorate a program's ``main``: a `UserError`, or a path that cannot be used, is one line on stderr, exit code 2.

    IPA is printed whatever the code of the terminal is, and what the lines of logs quote is `shown`.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        if sys.stdout is None:  # closed by the shell's >&-
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        factory = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_ShownRecord)
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {message_line(error)}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            return 141
        except OSError as error:
            if error.errno not in _OF_PLACES or error.filename is None:
                raise
            name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else error.filename
            print(f"error: {message_line(f'{name} cannot be used ({error.strerror})')}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            logging.setLogRecordFactory(factory)

    return guarded
