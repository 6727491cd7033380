"""From a list of utterance numbers to a `Batch`: what a loader process does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from couloir.data.batch import Batch
from couloir.data.folder import Corpus
from couloir.data.index import Utterance
from couloir.data.reading import AudioReader
from couloir.errors import UserError
from couloir.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Preparation:
    """What is done with each utterance, and which ones cannot be used.

    Attributes:
        tokenizer: encodes the texts; text_transform: is applied to a text before.
        reason_to_skip: tokens and samples -> why the model cannot be trained on them, None where it can; such an
            utterance is left out. None: nothing is left out for its text (tests).
        mixer: what is done to the samples of an utterance of an id; None: nothing.
        skip_unknown: leave out texts with symbols outside the vocabulary, instead of encoding them as unknown.
    """

    tokenizer: Tokenizer | None = None
    text_transform: Callable[[str], str] | None = None
    reason_to_skip: Callable[[list[int], int], str | None] | None = None
    skip_unknown: bool = False
    mixer: Callable[[np.ndarray, str], np.ndarray] | None = None

    def text(self, utterance: Utterance) -> Utterance:
        """The utterance with the text that is trained on."""
        return replace(utterance, text=self.text_transform(utterance.text)) if self.text_transform else utterance

    def encode(self, text: str, num_samples: int) -> list[int]:
        """Token ids. Raises `UserError` with the reason when the utterance cannot be used."""
        if self.tokenizer is None:
            return []
        tokens = self.tokenizer.encode(text)
        if self.reason_to_skip is None:
            return tokens
        if not tokens:
            raise UserError("has no transcript")
        if self.skip_unknown and (unknown := self.tokenizer.unknown_symbols(text)):
            raise UserError("has symbols outside the vocabulary: " + " ".join(sorted(unknown)))
        if reason := self.reason_to_skip(tokens, num_samples):
            raise UserError(reason)
        return tokens


class BatchDataset(Dataset):
    """Map-style dataset whose items are batches: (index in the epoch, utterance numbers) -> `Batch`."""

    def __init__(self, corpus: Corpus, preparation: Preparation) -> None:
        self.reader = AudioReader(corpus)
        self.preparation = preparation

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        index, numbers = item
        mixer = self.preparation.mixer
        kept: list[tuple[Utterance, list[int], np.ndarray]] = []
        skipped: list[tuple[str, str]] = []
        unread: list[Utterance] = []
        for number in numbers:
            utterance, samples = self.reader.read(int(number))
            utterance = self.preparation.text(utterance)
            try:
                if isinstance(samples, UserError):
                    raise samples
                tokens = self.preparation.encode(utterance.text, len(samples))
                kept.append((utterance, tokens, mixer(samples, utterance.id) if mixer else samples))
            except UserError as error:
                skipped.append((utterance.id, str(error)))
                unread.append(utterance)
        return replace(_collate(kept), skipped=skipped, unread=unread, index=index)


def _collate(kept: list[tuple[Utterance, list[int], np.ndarray]]) -> Batch:
    lens = [len(samples) for *_, samples in kept]
    audio = torch.zeros(len(kept), max(lens, default=0))
    for row, (*_, samples) in zip(audio, kept):
        row[: len(samples)] = torch.from_numpy(samples)
    return Batch(
        ids=[utterance.id for utterance, *_ in kept],
        texts=[utterance.text for utterance, *_ in kept],
        languages=[utterance.language for utterance, *_ in kept],
        speakers=[utterance.speaker for utterance, *_ in kept],
        tokens=[tokens for _, tokens, _ in kept],
        audio=audio,
        audio_lens=torch.tensor(lens, dtype=torch.int64),
    )
