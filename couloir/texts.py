"""Texts that people and other programs wrote: how they are coded, where their lines end, what separates their fields.

``\\n``, ``\\r\\n`` and ``\\r`` end a line and nothing else does: `str.splitlines` and `str.split` also cut at U+2028,
U+0085, form feeds and the like, which stand inside real transcripts. A byte order mark is no part of a text, and UTF-16
and UTF-32 that begin with one are decoded.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from couloir.errors import UserError, must_be
from couloir.limits import MAX_LINE_CHARS, MAX_TEXT_BYTES

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
UTF8 = "utf-8-sig"
_NOT_DECODED = re.compile("[\udc80-\udcff\ufffd]")
_NATURAL = re.compile("[0-9]{1,9}")
_BLANKS = re.compile("[ \t]+")


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def split_fields(line: str, most: int = 0) -> list[str]:
    """The fields of a line that are separated by blanks and tabs; the last of ``most`` keeps those inside it."""
    line = line.strip(" \t\r\n")
    return _BLANKS.split(line, maxsplit=max(most - 1, 0)) if line else []


def natural(text: str) -> int:
    """A table's id of at most nine ASCII digits. Raises ValueError for anything else."""
    if not _NATURAL.fullmatch(text):
        raise ValueError(text[:80])
    return int(text)


def decode_text(data: bytes, name: object, errors: str = "strict") -> str:
    """The text of bytes in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; the mark is left out.

    Args:
        name: what an error calls it. errors: as `bytes.decode` takes it, for UTF-8.

    Raises:
        UserError: naming the line that is in none of these.
    """
    encoding = _encoding_of(data[:4], name)
    try:
        return data.decode(encoding, errors if encoding == UTF8 else "strict")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "replace")
        raise _undecodable(name, len(split_lines(before + ".")), encoding) from None


def read_text(path: str | Path, errors: str = "strict") -> str:
    """The text of a file, as `decode_text` has it.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is no regular file, is too large, cannot be read, or as `decode_text`.
    """
    with _open_regular(path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise must_be(str(path), f"a text of at most {MAX_TEXT_BYTES >> 20} MiB", "larger")
    return decode_text(data, path, errors)


def read_lines(path: str | Path, errors: str = "strict") -> list[str]:
    """The lines of a file, without their ends. Raises as `read_text`."""
    return split_lines(read_text(path, errors))


def iterate_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file of any size, one at a time, without their ends; packed by gzip, bzip2 or xz too.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it is no regular file, is damaged, has a line without an end, or as `decode_text`.
    """
    number = 0
    with _open_regular(path) as file, _unpacked(file) as content:
        encoding = UTF8
        try:
            encoding = _encoding_of(content.peek(4)[:4], path)
            with io.TextIOWrapper(content, encoding=encoding, newline=None) as lines:
                while line := lines.readline(MAX_LINE_CHARS):
                    number += 1
                    if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                        raise must_be(f"line {number} of {path}", f"at most {MAX_LINE_CHARS} characters", "longer")
                    yield line.removesuffix("\n")
        except UnicodeDecodeError:
            raise _undecodable(path, _first_undecodable(path, encoding), encoding) from None
        except (*_DAMAGE, OSError) as error:
            raise must_be(str(path), "a whole text", f"damaged ({error})") from None


def _encoding_of(head: bytes, name: object) -> str:
    encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), UTF8)
    if encoding == UTF8 and b"\0" in head[:2]:
        raise must_be(str(name), "UTF-8", "UTF-16 without a byte order mark, or no text", "save it as UTF-8")
    return encoding


def _undecodable(name: object, number: int, encoding: str) -> UserError:
    if encoding != UTF8:
        return must_be(f"line {number} of {name}", f"{encoding.upper()}, as its first bytes say", "damaged")
    return must_be(f"line {number} of {name}", "UTF-8", "in another encoding, or no text", "save it as UTF-8")


def _first_undecodable(path: str | Path, encoding: str) -> int:
    """The number of the first line that is not text in this encoding."""
    errors = "surrogateescape" if encoding == UTF8 else "replace"
    with (
        _open_regular(path) as file,
        _unpacked(file) as content,
        io.TextIOWrapper(content, encoding=encoding, errors=errors, newline=None) as lines,
    ):
        pieces = enumerate(iter(lambda: lines.readline(MAX_LINE_CHARS), ""), 1)
        return next((number for number, line in pieces if _NOT_DECODED.search(line)), 0)


def _open_regular(path: str | Path) -> io.BufferedReader:
    try:
        file = cast(io.BufferedReader, open(path, "rb", opener=_without_waiting))  # noqa: SIM115
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise must_be(str(path), "a regular file", "a pipe or device", "save what it gives in a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that nobody writes into is opened, and then refused."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unpacked(file: io.BufferedReader) -> io.BufferedReader:
    """The content of a packed file, known by its first bytes, or the file itself."""
    head = file.read(6)
    file.seek(0)
    kind = next((kind for mark, kind in _PACKED.items() if head.startswith(mark)), "")
    if kind == "gzip":
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file)))
    if kind == "bzip2":
        return io.BufferedReader(cast(io.RawIOBase, bz2.BZ2File(file)))
    return io.BufferedReader(cast(io.RawIOBase, lzma.LZMAFile(file))) if kind == "xz" else file
