"""Flags of the programs that prepare data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couloir.config import flag_name, option
from couloir.data.split_names import kind_of, own_name
from couloir.errors import must_be
from couloir.text.languages import language_tag
from couloir.text.units import BY_PLURAL, CHAR, PHONE, WORD, Unit

TRAIN, DEV, HELDOUT = "train", "dev", "test-heldout"
UNSEEN_SPEAKERS, UNSEEN_LANGUAGES = "test-unseen-speakers", "test-unseen-languages"
DEFAULT_CORPORA = ("festvox-ru",)
SPLITS = (TRAIN, DEV, HELDOUT, UNSEEN_SPEAKERS, UNSEEN_LANGUAGES)
"""Those that utterances are dealt to; a corpus may prescribe others, ``dev-NAME`` and ``test-NAME``."""
_BY_KIND = {"train": TRAIN, "dev": DEV, "test": HELDOUT}


def split_of(name: str) -> str:
    """The split that the name of a folder, a table or a value of one prescribes; "" where it says none."""
    return own_name(name) or _BY_KIND.get(kind_of(name), "")


def is_split(name: str) -> bool:
    """Whether prepared data has a split of this name."""
    return name in SPLITS or own_name(name) == name != ""


def split_order(name: str) -> tuple[int, str]:
    """Sorts splits: training, development, tests that are dealt to, then prescribed ones by name."""
    return (SPLITS.index(name), "") if name in SPLITS else (1 if kind_of(name) == DEV else len(SPLITS), name)


@dataclass(frozen=True)
class PlaceConfig:
    """Where data lies and how many processes work on it."""

    data_dir: Path = option(Path("data"), "Folder for everything that is made.")
    nj: int = option(
        2,
        "Number of processes; downloading, making manifests and the tokenizer take one, whatever it is.",
        unit="processes",
    )

    def __post_init__(self) -> None:
        if self.nj < 1:
            raise must_be("--nj", "at least 1", self.nj)


@dataclass(frozen=True)
class CorporaConfig:
    """Which speech to take."""

    corpora: tuple[str, ...] = option(
        (),
        "Names of corpora, comma-separated, or groups; festvox-ru where no --user-data is given.",
    )
    download_dir: Path = option(Path("download"), "Folder for what is fetched.")
    hours: float = option(0.5, "Amount of synthetic speech, over all its languages.", unit="h")
    synthetic_languages: tuple[str, ...] = option(
        ("de", "es", "fi", "fr", "it", "pl", "ru", "tr"), "Languages of the synthetic speech, comma-separated."
    )
    user_data: Path | None = option(None, "Your own data: a Kaldi folder, a TSV or CSV, or a folder of wavs.")
    user_language: str = option("und", "Language of your own data where its files do not say.")
    transcripts: str = option(
        PHONE.plural, "What is to be recognised: phones, words, or characters.", choices=tuple(BY_PLURAL)
    )
    lower_case: bool = option(True, "Words and characters in small letters; False leaves capitals.")
    fallback: bool = option(True, "Take synthetic speech where a corpus cannot be had on this machine.")

    def __post_init__(self) -> None:
        if self.hours <= 0:
            raise must_be("--hours", "positive", self.hours)
        if "user" in self.corpora and self.user_data is None:
            raise must_be("--user-data", "given with the corpus `user`", "missing")
        own = ("user",) if self.user_data is not None and "user" not in self.corpora else ()
        object.__setattr__(self, "corpora", (*self.corpora, *own) or DEFAULT_CORPORA)
        object.__setattr__(self, "user_language", language_tag(self.user_language))
        object.__setattr__(self, "synthetic_languages", tuple(map(language_tag, self.synthetic_languages)))

    @property
    def unit(self) -> Unit:
        """The unit of the transcripts."""
        return BY_PLURAL[self.transcripts]


@dataclass(frozen=True)
class FilterConfig:
    """Which utterances are dropped."""

    min_phones_per_second: float = option(
        PHONE.min_per_second, "Slower ones are wrongly transcribed or mostly silence.", unit="1/s"
    )
    max_phones_per_second: float = option(PHONE.max_per_second, "Faster ones are wrongly transcribed.", unit="1/s")
    min_words_per_second: float = option(WORD.min_per_second, "The same of --transcripts words.", unit="1/s")
    max_words_per_second: float = option(WORD.max_per_second, "The same of --transcripts words.", unit="1/s")
    min_chars_per_second: float = option(CHAR.min_per_second, "The same of --transcripts chars.", unit="1/s")
    max_chars_per_second: float = option(CHAR.max_per_second, "The same of --transcripts chars.", unit="1/s")
    min_seconds: float = option(0.3, "Shortest utterance.", unit="s")
    max_seconds: float = option(20.0, "Longest utterance.", unit="s")

    def rates(self, unit: Unit) -> tuple[float, float]:
        """The lowest and the highest number of units per second."""
        return getattr(self, f"min_{unit.plural}_per_second"), getattr(self, f"max_{unit.plural}_per_second")


@dataclass(frozen=True)
class SplitConfig:
    """How utterances are split.

    Of each corpus and language; utterances with one text go to one side, so that no tested sentence was trained on.
    """

    unseen_languages: tuple[str, ...] = option((), "Languages kept out of training altogether, comma-separated.")
    unseen_speaker_share: float = option(0.1, "Share of utterances whose speakers are kept out, at most.")
    heldout_share: float = option(0.1, "Share of utterances in test-heldout.")
    heldout_utterances: int = option(60, "Utterances in test-heldout, at most.", unit="utterances")
    dev_share: float = option(0.05, "Share of utterances in dev.")
    dev_utterances: int = option(20, "Utterances in dev, at most.", unit="utterances")
    split_seed: int = option(0, "Another seed gives another split.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "unseen_languages", tuple(map(language_tag, self.unseen_languages)))
        for name in ("unseen_speaker_share", "heldout_share", "dev_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise must_be(flag_name(name), "between 0 and 0.5", getattr(self, name))


@dataclass(frozen=True)
class SharConfig:
    """How Shar folders are written."""

    shard_size: int = option(200, "Utterances per shard.", unit="utterances")

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise must_be("--shard-size", "at least 1", self.shard_size)


@dataclass(frozen=True)
class PartConfig:
    """Which share of the work this process takes, where several machines take part."""

    part: str = option(
        "", "K/N, K from 0 to N-1; or auto, from a SLURM array, srun or torchrun. Without it: all, and the finish."
    )


@dataclass(frozen=True)
class TokenizerConfig:
    """The vocabulary that is made from the training texts."""

    tokenizer: str = option(
        "auto",
        "Pieces: whole phones, sentencepiece's, or characters; auto: phones, unigram of words, or chars.",
        choices=("auto", "phones", "unigram", "bpe", "chars"),
    )
    vocab_size: int | None = option(
        None,
        f"Number of pieces; for phones and chars at most. Words without it have {WORD.vocab_size} at most.",
        unit="pieces",
    )
    remove_diacritics: bool = option(False, "Drop ZIPA's list of diacritics from the texts first.")

    def kind(self, unit: Unit) -> str:
        """The kind of vocabulary for a unit's transcripts. Raises `UserError` for one that does not suit it."""
        kind = unit.tokenizers[0] if self.tokenizer == "auto" else self.tokenizer
        if kind not in unit.tokenizers:
            raise must_be("--tokenizer", f"one of {', '.join(unit.tokenizers)} for {unit.plural}", kind)
        return kind
