"""Inventories as people write them: separators, marks of editors, codes of languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from couloir.errors import UserError
from couloir.inference.inventory import languages, read_inventory, restriction_to
from couloir.inference.vocabulary import Vocabulary

PHONES = ["a", "m", "e", "t͡s"]
VOCABULARY = Vocabulary(["<blk>", "<sos/eos>", "<unk>", "a", "m", "e", "t͡s", "p", "ã", "ɡ"])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "separator",
    [" ", ",", ", ", ";", " ; ", "\n", "\r\n", "\r", "\t", ",\n", "\u3000", "，", "、", "؛", "\u00a0", "\u2028", ",,"],
)
def test_phones_are_separated_by_any_usual_sign(tmp_path: Path, separator: str, mark: str) -> None:
    path = tmp_path / "phones.txt"
    path.write_bytes((mark + separator.join(PHONES) + separator + "\n# x, y; z\n").encode())
    assert read_inventory(path) == PHONES
    path.write_bytes((mark + separator.join(PHONES)).encode("utf-8" if not mark else "utf-16-le"))
    assert read_inventory(path) == PHONES
    allowed = restriction_to(path, VOCABULARY).allowed
    assert allowed[[3, 4, 5, 6]].all() and not allowed[7]


@pytest.mark.parametrize(
    ("written", "code"),
    [("ru", "ru"), ("RU", "ru"), ("EN", "en"), ("en-GB", "en"), ("zh_CN", "zh"), ("zh-CN", "zh"), ("sv-SE", "sv"),
     ("sv_SE.UTF-8", "sv"), ("zh-Hant-TW", "zh"), (" de ", "de")],
)  # fmt: skip
def test_languages_in_any_spelling(written: str, code: str) -> None:
    assert read_inventory(written) == languages()[code]


@pytest.mark.parametrize("written", ["xx", "en-", "english text", "a,m,e", "", "../en-GB.txt", "r"])
def test_what_is_neither_file_nor_language_is_refused(written: str) -> None:
    with pytest.raises(UserError, match="no such file or language"):
        read_inventory(written)


@pytest.mark.parametrize("content", [b"", b"# a\n", b" ,;\n", b"\xef\xbb\xbf", b"/ /"])
def test_a_file_without_phones_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "phones").write_bytes(content)
    with pytest.raises(UserError, match="names no phone"):
        read_inventory(tmp_path / "phones")


def test_a_file_in_another_code_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "phones").write_bytes(b"a\n\xe9\n")
    with pytest.raises(UserError, match="line 2 of .*UTF-8"):
        read_inventory(tmp_path / "phones")


def test_phones_match_pieces_in_either_normal_form(tmp_path: Path) -> None:
    for phones in ("g ã", "ɡ a\u0303"):
        (tmp_path / "phones").write_text(phones, encoding="utf-8")
        allowed = restriction_to(tmp_path / "phones", VOCABULARY).allowed
        assert allowed[[8, 9]].all() and not allowed[[3, 4]].any()
