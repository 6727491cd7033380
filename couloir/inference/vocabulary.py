"""What recognition needs of a tokenizer: the pieces of a model's output, and text from them. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from couloir.errors import UserError, must_be

BOUNDARY = "▁"
UNKNOWN = "⁇"
_SPECIAL = ("<blk>", "<eps>", "<sos/eos>", "<sos>", "<eos>", "<s>", "</s>")


class Vocabulary:
    """The pieces of a model's output, by id; 0 is blank.

    Args:
        pieces: a sentencepiece model's pieces or those of a tokens.txt.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        self._ids = {piece: i for i, piece in enumerate(self.pieces) if piece not in (*_SPECIAL, "<unk>")}
        self._longest = max(map(len, self._ids), default=1)

    def __len__(self) -> int:
        return len(self.pieces)

    def surface(self, token: int) -> str:
        """What a token adds to the text: nothing for a special piece, a space where a word begins."""
        piece = self.pieces[token]
        if piece in _SPECIAL:
            return ""
        return UNKNOWN if piece == "<unk>" else piece.replace(BOUNDARY, " ")

    def text(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return "".join(map(self.surface, tokens)).strip()

    def spell(self, text: str) -> list[int]:
        """Token ids of a text, the longest piece that fits first; empty where a part of it has no piece."""
        tokens, at = [], 0
        while at < len(text):
            ends = range(min(at + self._longest, len(text)), at, -1)
            end = next((end for end in ends if text[at:end] in self._ids), None)
            if end is None:
                return []
            tokens.append(self._ids[text[at:end]])
            at = end
        return tokens


def read_vocabulary(path: Path) -> Vocabulary:
    """A ``tokens.txt``: a line ``piece id`` for each piece.

    Raises `UserError` naming the file and line when it is missing or is not such a table.
    """
    pieces: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"tokens file {path} does not exist; name one with --tokens") from None
    except (UnicodeDecodeError, OSError):
        raise must_be(str(path), "a text of lines `piece id`", "something else") from None
    for number, line in enumerate(lines, 1):
        piece, _, index = line.rstrip().rpartition(" ")
        if not line.strip() or (piece[:1] == "#" and piece[1:].isdigit()):
            continue
        if not index.isdigit() or not piece.strip() or int(index) in pieces:
            raise must_be(f"line {number} of {path}", "`piece id` with a new id", repr(line[:40]))
        pieces[int(index)] = piece.strip()
    if not pieces or sorted(pieces) != list(range(len(pieces))):
        raise must_be(str(path), "a table of ids 0, 1, 2, ...", "one with gaps" if pieces else "empty")
    return Vocabulary([pieces[i] for i in range(len(pieces))])
