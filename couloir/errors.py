"""Errors that a person can mend: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import ParamSpec

P = ParamSpec("P")


class UserError(Exception):
    """A person's mistake. Its message is one line that names the thing and what to do."""


def must_be(name: str, expected: str, actual: object, remedy: str = "") -> UserError:
    """The house form of an error: "`name` must be EXPECTED, but is ACTUAL; REMEDY"."""
    return UserError(f"`{name}` must be {expected}, but is {actual}" + (f"; {remedy}" if remedy else ""))


def unknown_name(kind: str, name: str, known: list[str]) -> UserError:
    """An unknown name, with the nearest known one."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(known)
    return UserError(f"unknown {kind} `{name}`; {hint}")


def one_line_errors(main: Callable[P, int | None]) -> Callable[P, int]:
    """Decorate a program's ``main``: a `UserError` becomes one line on stderr and exit code 2.

    IPA, and names of files in any code, are printed whatever the code of the terminal is.
    """

    @functools.wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            return 141
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return guarded
