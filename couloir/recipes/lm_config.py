"""The flags of the programs that make language models and graphs for decoding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from couloir.config import flag_name, option
from couloir.errors import UserError, must_be


@dataclasses.dataclass(frozen=True)
class LmTextConfig:
    """Text. What a language model is made from."""

    lm_text: Path = option(Path(), "text, one sentence per line")
    bpe_model: str = option("data/lang/bpe.model", "the acoustic model's tokenizer")

    def __post_init__(self) -> None:
        if not self.lm_text.is_file():
            raise UserError(f"`--lm-text` must be a text file with a sentence per line, but is `{self.lm_text}`")


@dataclasses.dataclass(frozen=True)
class LmTrainConfig(LmTextConfig):
    """Training of a neural language model over tokens."""

    valid_share: float = option(0.05, "part of the sentences, spread evenly, that is kept for validation")
    lm_type: str = option("rnn", "kind of the LM", choices=("rnn", "transformer"))
    lm_exp_dir: str = option("exp_lm", "where epoch-N.pt go")
    num_epochs: int = option(7, "passes over the text", unit="epochs")
    lr: float = option(1e-3, "learning rate, halved when validation does not get better")
    max_tokens: int = option(4000, "tokens of a batch, padding counted")
    seed: int = option(42, "one seed gives one model")
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.valid_share <= 0.5:
            raise must_be("--valid-share", "above 0 and at most 0.5", self.valid_share)
        for name in ("num_epochs", "lr", "max_tokens"):
            if getattr(self, name) <= 0:
                raise must_be(flag_name(name), "above 0", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class GraphConfig(LmTextConfig):
    """Graphs and n-grams for decoding."""

    lang_dir: Path = option(Path("data/lang_lg"), "where LG.npz, words.txt, lexicon.txt and the n-grams go")
    lexicon: str = option("", "lines `word token token ...`; empty: words are spelt by --bpe-model")
    arpa: str = option(
        "", "n-gram over words that is there already (.arpa, .arpa.gz), in place of one made from the text"
    )
    tokens_arpa: str = option("", "n-gram over tokens that is there already, in place of one made from the text")
    ngram_order: int = option(3, "order of the n-gram over words in LG; of --arpa at most so much is taken into LG")
    tokens_ngram: int = option(2, "order of the n-gram over tokens that is made from the text, for LODR")

    def __post_init__(self) -> None:
        if self.has_text or not self.arpa:
            super().__post_init__()
        for name in ("arpa", "tokens_arpa"):
            if getattr(self, name) and not Path(getattr(self, name)).is_file():
                raise must_be(flag_name(name), "an n-gram's ARPA file", getattr(self, name))
        for name in ("ngram_order", "tokens_ngram"):
            if getattr(self, name) < 1:
                raise must_be(flag_name(name), "at least 1", getattr(self, name))

    @property
    def has_text(self) -> bool:
        """Whether --lm-text was given; with --arpa it need not be."""
        return self.lm_text != Path()
