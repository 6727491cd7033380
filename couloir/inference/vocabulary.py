"""What recognition needs of a tokenizer: the pieces of a model's output, and text from them. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.text.byte_pieces import byte_of, text_of, with_bytes_joined
from couloir.text.ipa import normalize
from couloir.text.tokenizer import (
    BLANKS,
    BOUNDARY,
    SENTENCE_MARKS,
    SPACE,
    UNK,
    UNK_SURFACE,
    joining,
    load_tokenizer,
)
from couloir.text.units import Unit, unit_of

_SPECIAL = (*BLANKS, *SENTENCE_MARKS)


class Vocabulary:
    """The pieces of a model's output, by id; 0 is blank. Names of several letters (ARPABET) have blanks between them.

    Args:
        pieces: a sentencepiece model's pieces or those of a tokens.txt. source: the tokenizer that they come from.
    """

    def __init__(self, pieces: Sequence[str], source: Path | None = None) -> None:
        self.pieces, self.source = list(pieces), source
        self._bytes = [byte_of(piece) for piece in self.pieces]
        spelling = [
            i for i, piece in enumerate(self.pieces) if piece not in (*_SPECIAL, UNK) and self._bytes[i] is None
        ]
        forms = {normalize(self.pieces[i]).replace(" ", ""): i for i in reversed(spelling)}
        self._ids = {**forms, **{self.pieces[i]: i for i in spelling}}
        self._ids.pop("", None)
        if SPACE in self._ids:
            self._ids[" "] = self._ids[SPACE]
        self._longest = max(map(len, self._ids), default=1)
        self._joined = joining(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def unit(self) -> Unit:
        """What its texts are made of, as the pieces say."""
        return unit_of([piece for piece in self.pieces if piece not in (*_SPECIAL, UNK) and byte_of(piece) is None])

    def surface(self, token: int) -> str:
        """What a token adds to the text: nothing for a special piece, a space where a word begins."""
        piece = self.pieces[token]
        if piece in _SPECIAL:
            return ""
        value = self._bytes[token]
        if value is not None:
            return text_of([value])
        return UNK_SURFACE if piece == UNK else piece.replace(BOUNDARY, " ").replace(SPACE, " ")

    def ipa_surface(self, token: int) -> str:
        """The surface in IPA normal form, where that drops nothing of it but composition."""
        surface = self.surface(token)
        form = normalize(surface)
        return " " * surface.startswith(" ") + form if form else surface

    def surfaces(self, tokens: Sequence[int]) -> list[str]:
        """What each of some tokens in a row adds to the text; of a run of bytes the first adds its characters."""
        return with_bytes_joined([self.surface(i) for i in tokens], [self._bytes[i] for i in tokens])

    def text(self, tokens: Iterable[int]) -> str:
        """The text of token ids."""
        return self._joined(self.surfaces(list(tokens)))

    def spell(self, text: str) -> list[int]:
        """Token ids of a text, the longest piece that fits first; empty where a part of it has no piece.

        A piece fits as it is written, or by its IPA normal form.
        """
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
    return Vocabulary(pieces, path)
