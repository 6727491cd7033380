"""Forced alignment: when each phone, and each word, of a known transcript is spoken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from couloir.decoding.ctc_alignment import ctc_align
from couloir.errors import UserError, must_be
from couloir.evaluation.pfer import feature_edit_distances
from couloir.inference.formats import Tiers
from couloir.inference.known_text import Word
from couloir.inference.recognizer import Recognizer, Source
from couloir.inference.transcript import Token, timed_tokens
from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import segment
from couloir.text.tokenizer import BOUNDARY, TokenTable

LONGEST_CELLS = 400_000_000
"""Frames times states of one alignment; each takes a byte (an hour against 1,000 phones is within)."""


@dataclass(frozen=True)
class AlignedWords:
    """Tiers of one recording.

    Attributes:
        words, phones: with times in s and confidences. duration: of the recording in s.
        score: mean log-probability per frame of the path; far below the usual, the transcript is another recording's.
    """

    words: list[Token]
    phones: list[Token]
    duration: float
    score: float

    def tiers(self) -> Tiers:
        """For `formats.textgrid`."""
        return {"words": self.words, "phones": self.phones}


def align(recognizer: Recognizer, source: Source, words: Sequence[Word]) -> AlignedWords:
    """Align a transcript to its recording.

    Args:
        recognizer: with a CTC model. source: the recording. words: from `known_text.read_words`.

    Raises:
        UserError: the model is no CTC model, or the recording is too short or too long.
    """
    backend = recognizer.backend
    if backend.kind != "ctc":
        raise must_be("the model", "one with a CTC head", f"{backend.origin}, a transducer")
    tokens, owners = _spelt(backend.vocabulary, words)
    transcript = recognizer.transcribe([source], log_probs=True)[0]
    assert transcript.log_probs is not None
    frames = torch.from_numpy(transcript.log_probs)
    if len(frames) * (2 * len(tokens) + 1) > LONGEST_CELLS:
        raise must_be("the recording", "shorter for an alignment", f"{transcript.duration:.0f} s; cut it into parts")
    path = ctc_align(frames[None], torch.tensor([len(frames)]), [tokens])[0]
    if len(path.tokens) != len(tokens):
        raise UserError(f"the recording ({transcript.duration:.2f} s) is too short for {len(tokens)} symbols")
    timed = timed_tokens(path, backend.vocabulary, transcript.frame_shift, transcript.duration, backend.times.first)
    phones = _grouped(timed, [phone for _, phone in owners], [p for word in words for p in word.phones])
    of_word = _grouped(timed, [word for word, _ in owners], [word.label for word in words])
    return AlignedWords(of_word, phones, transcript.duration, path.score / max(len(frames), 1))


def _spelt(vocabulary: Vocabulary, words: Sequence[Word]) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and the (word, phone) that each belongs to, both counted from the transcript's beginning."""
    table = TokenTable(vocabulary.pieces)

    def spell(phone: str, first: bool) -> list[int]:
        phone = table.prepare(phone)
        forms = (BOUNDARY + phone, phone) if first else (phone, BOUNDARY + phone)
        found = next(filter(None, map(vocabulary.spell, forms)), [])
        return [i for i in found if vocabulary.pieces[i] != BOUNDARY]

    tokens: list[int] = []
    owners: list[tuple[int, int]] = []
    phones = [(w, phone, not at) for w, word in enumerate(words) for at, phone in enumerate(word.phones)]
    stand_ins = {phone: nearest(table, phone) for phone in {p for _, p, _ in phones} if not spell(phone, False)}
    if stand_ins:
        shown = ", ".join(f"{phone} as {other}" for phone, other in sorted(stand_ins.items()))
        logging.warning("the model has no symbol for some phones, which are aligned as the nearest ones: %s", shown)
    for number, (word, phone, first) in enumerate(phones):
        spelt = spell(stand_ins.get(phone, phone), first)
        tokens += spelt
        owners += [(word, number)] * len(spelt)
    return tokens, owners


def nearest(table: TokenTable, phone: str) -> str:
    """The phone of a vocabulary with the most articulatory features in common (panphon's distance).

    Of several equally near the one with the same letter, such as ``iː`` for ``i``.
    """
    pieces = [piece for piece in table.pieces if segment(piece) == [piece]]
    distances = feature_edit_distances([phone] * len(pieces), pieces)
    return min(zip(distances.tolist(), (piece[0] != phone[0] for piece in pieces), pieces))[2]


def _grouped(timed: Sequence[Token], owners: Sequence[int], labels: Sequence[str]) -> list[Token]:
    """One token per owner, from the first of its tokens to the last, with the least of their confidences."""
    groups: dict[int, list[Token]] = {}
    for token, owner in zip(timed, owners):
        groups.setdefault(owner, []).append(token)
    return [
        Token(labels[owner], parts[0].start, parts[-1].end, min(part.confidence for part in parts))
        for owner, parts in groups.items()
    ]
