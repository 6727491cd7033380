"""Damaged token tables: read and right, or refused in one line."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from couloir.errors import UserError
from couloir.text.tokenizer import BLANKS, load_tokenizer

PIECES = ["<blk>", "<sos/eos>", "<unk>", "▁a", "b", "é", "t͡s", "北京", "<0xE7>", "<0x88>", "ʰ", "1", "\u2028", "ab"]
INSERTED = [
    b"9" * 30,
    b"#0 7",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b" 3\n",
    b"<blk>",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, removed, doubled or put in, lines exchanged, or the end cut off."""
    text = bytearray(data)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(text))
        match rng.randrange(6):
            case 0:
                text[at] = rng.randrange(256)
            case 1:
                del text[at : at + rng.randrange(1, 8)]
            case 2:
                text[at:at] = text[at : at + rng.randrange(1, 20)]
            case 3:
                text[at:at] = rng.choice(INSERTED)
            case 4:
                lines = bytes(text).split(b"\n")
                rng.shuffle(lines)
                text = bytearray(b"\n".join(lines))
            case _:
                text = text[:at] or text
    return bytes(text)


def by_definition(data: bytes) -> list[str] | None:
    """The pieces of a table of `piece id` lines; None for one that is of no such simple form."""
    lines = [line for line in re.split("\r\n|\r|\n", data.decode("utf-8-sig")) if line.strip(" \t")]
    rows = [re.split("[ \t]+", line.strip(" \t")) for line in lines]
    if not all(len(row) == 2 and re.fullmatch("[0-9]{1,9}", row[1]) for row in rows):
        return None
    table = {int(index): piece for piece, index in rows if not re.fullmatch("#[0-9]+", piece)}
    return [table[i] for i in range(len(table))]


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_tables_are_read_or_refused_in_one_line(tmp_path: Path, times: int) -> None:
    rng, path, seen = random.Random(5), tmp_path / "tokens.txt", {"read": 0, "refused": 0}
    good = "".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)).encode()
    for _ in range(times):
        path.write_bytes(mutated(good, rng))
        try:
            table = load_tokenizer(path)
        except UserError as error:
            seen["refused"] += 1
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 300 + len(str(path))
            continue
        seen["read"] += 1
        expected = by_definition(path.read_bytes())
        assert expected is None or table.pieces == expected
        assert table.pieces[0] in BLANKS and table.vocab_size <= 2 * len(PIECES)
        for text in ("ab é北京 t͡sʰ1", "xyz", ""):
            ids = table.encode(text)
            assert all(0 < i < table.vocab_size for i in ids) and isinstance(table.decode(ids), str)
    assert min(seen.values()) >= times // 10
