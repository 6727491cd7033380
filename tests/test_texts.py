"""How texts of other programs are read: their codes, their lines' ends, their fields."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
from pathlib import Path

import pytest

from couloir import texts
from couloir.errors import UserError
from couloir.texts import decode_text, iterate_lines, read_lines, split_fields, split_lines

ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\u00a0\u3000"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
PACKERS = {"plain": lambda data: data, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("character", ODD)
def test_no_other_character_ends_a_line(tmp_path: Path, character: str) -> None:
    line = f"pa{character}ta"
    (tmp_path / "t").write_bytes(f"{line}\nka\r\n{line}\r\rmi".encode())
    expected = [line, "ka", line, "", "mi"]
    assert read_lines(tmp_path / "t") == expected
    assert list(iterate_lines(tmp_path / "t")) == expected
    assert split_fields(f"{line} \t ka{character} ") == [line, f"ka{character}"]


@pytest.mark.parametrize(
    ("text", "lines"), [("", []), ("\n", [""]), ("a", ["a"]), ("a\n\n", ["a", ""]), ("a\r\n\nb", ["a", "", "b"])]
)
def test_lines_of_a_text(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines == text.splitlines()


@pytest.mark.parametrize(
    ("line", "most", "fields"),
    [
        ("", 0, []),
        (" \t ", 0, []),
        ("a b\tc", 0, ["a", "b", "c"]),
        (" a  b \t c d", 2, ["a", "b \t c d"]),
        ("a", 2, ["a"]),
    ],
)
def test_fields_of_a_line(line: str, most: int, fields: list[str]) -> None:
    assert split_fields(line, most) == fields


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, encoding: str, packer: str) -> None:
    data = MARKED[encoding] + "мама\r\npa ɡ\n".encode(encoding)
    assert split_lines(decode_text(data, "t")) == ["мама", "pa ɡ"]
    (tmp_path / "t").write_bytes(PACKERS[packer](data))
    assert list(iterate_lines(tmp_path / "t")) == ["мама", "pa ɡ"]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("bad", [b"\xe4\n", b"\xff", b"\xc3", b"\xed\xa0\x80 "])
def test_a_line_that_is_no_utf8_is_named(tmp_path: Path, bad: bytes, mark: bytes, packer: str) -> None:
    data = mark + b"one\r\n" * 5000 + b"here " + bad
    (tmp_path / "t").write_bytes(PACKERS[packer](data))
    with pytest.raises(UserError, match="line 5001 of .*must be UTF-8"):
        list(iterate_lines(tmp_path / "t"))
    with pytest.raises(UserError, match="line 5001 of it.*must be UTF-8"):
        decode_text(data, "it")
    assert decode_text(data, "it", "surrogateescape").encode("utf-8", "surrogateescape") == data.removeprefix(mark)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_and_damaged(tmp_path: Path, encoding: str) -> None:
    for data, said in (
        ("a b\n".encode(encoding), "UTF-16 without"),
        (MARKED[encoding] + b"\0a\0", "as its first bytes"),
    ):
        (tmp_path / "t").write_bytes(data)
        for read in (read_lines, lambda path: list(iterate_lines(path))):
            with pytest.raises(UserError, match=said):
                read(tmp_path / "t")


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_a_damaged_packed_text_is_one_line(tmp_path: Path, packer: str) -> None:
    whole = PACKERS[packer]("".join(f"pa ta {i}\n" for i in range(3000)).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x55
    for data in (whole[: len(whole) // 2], whole[:7], bytes(flipped)):
        (tmp_path / "t").write_bytes(data)
        with pytest.raises(UserError, match=f"{tmp_path}/t"):
            list(iterate_lines(tmp_path / "t"))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_LINE_CHARS", 1000)
    (tmp_path / "t").write_bytes(gzip.compress(b"a\n" + b"0" * 100_000))
    with pytest.raises(UserError, match="line 2 of .* at most 1000 characters"):
        list(iterate_lines(tmp_path / "t"))
    (tmp_path / "t").write_bytes(b"0" * 999 + b"\n" + b"1" * 999)
    assert list(iterate_lines(tmp_path / "t")) == ["0" * 999, "1" * 999]


def test_a_text_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_TEXT_BYTES", 1000)
    (tmp_path / "t").write_bytes(b"a" * 1001)
    with pytest.raises(UserError, match="a text of at most"):
        read_lines(tmp_path / "t")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / ("x" * 300), "a\0b"):
        for read in (read_lines, lambda path: list(iterate_lines(path))):
            with pytest.raises(UserError):
                read(place)
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "missing")
