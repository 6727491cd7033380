"""What recognition needs of a tokenizer: the pieces of a model's output, and text from them. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.text.tokenizer import BOUNDARY, UNK_SURFACE, load_tokenizer

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
        return UNK_SURFACE if piece == "<unk>" else piece.replace(BOUNDARY, " ")

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


def tokenizer_files(path: Path) -> list[Path]:
    """The files that `read_vocabulary` may read for a tokenizer's path."""
    return [path] if path.is_file() else [*sorted(path.glob("*.model")), *path.glob("tokens.txt")]


def read_pieces(path: Path) -> list[str]:
    """The pieces of a tokenizer by id. Raises `UserError` when there is none, or it is damaged."""
    if not path.exists():
        raise UserError(f"tokens file {path} does not exist; name one with --tokens")
    try:
        return load_tokenizer(path).pieces
    except ImportError:
        raise UserError(f"{path} needs sentencepiece; pip install sentencepiece, or give a tokens.txt") from None


def read_vocabulary(path: Path, num_outputs: int, origin: str) -> Vocabulary:
    """The pieces of a tokenizer (``tokens.txt``, ``bpe.model``, or a folder with one).

    Args:
        path: of the tokenizer. num_outputs: symbols that the model has. origin: what to call the model in an error.

    Raises:
        UserError: there is no tokenizer, it is damaged, or it is not this model's.
    """
    pieces = read_pieces(path)
    if len(pieces) != num_outputs:
        raise must_be(f"tokens of {path}", f"{num_outputs} (outputs of {origin})", len(pieces), "give the model's own")
    return Vocabulary(pieces)
