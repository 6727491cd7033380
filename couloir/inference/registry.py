"""Published models by hub id: ZIPA's table (Zhu et al. 2025), each with the size that its weights must have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from couloir.families.registry import DEFAULT

TOKENIZER_DATASET = "anyspeech/ipapack_plus_meta"
TOKENIZER_FILE = "ipa_simplified/unigram_127.model"
TOKENIZER_PIECES_SHA256 = "ded86058bbc7cd937669ddc99b53ec043876236da9a0af9c0cd54c2fd0d409a7"
"""Of its 127 pieces in UTF-8, in the order of their ids, joined by line feeds."""


@dataclass(frozen=True)
class HubModel:
    """A published model.

    Attributes:
        preset: name of a preset of its family. kind: "ctc" or "transducer".
        average: checkpoints that are to be averaged; 0 where one file holds the average. family: whose model it is.
    """

    preset: str
    kind: str
    average: int = 0
    family: str = DEFAULT


def _table() -> dict[str, HubModel]:
    ctc = {size: HubModel(f"zipa_{size}", "ctc") for size in ("small", "large")}
    transducer = {size: HubModel(f"zipa_t_{size}", "transducer") for size in ("small", "large")}
    models = {
        f"zipa-{size}-{kind}-{steps}": family[size]
        for kind, family in (("crctc", ctc), ("noncausal", transducer))
        for size in ("small", "large")
        for steps in ("300k", "500k")
    }
    models |= {
        "zipa-small-crctc-ns-700k": ctc["small"],
        "zipa-large-crctc-ns-800k": ctc["large"],
        "zipa-small-crctc-ns-no-diacritics-700k": ctc["small"],
        "zipa-large-crctc-ns-no-diacritics-780k": ctc["large"],
    }
    raw = {"zipa-t-{}": transducer, "zipa-cr-{}": ctc, "zipa-cr-ns-{}": ctc, "zipa-cr-ns-{}-no-diacritics": ctc}
    models |= {
        name.format(letter): replace(family[size], average=10)
        for name, family in raw.items()
        for letter, size in (("s", "small"), ("l", "large"))
    }
    return {f"anyspeech/{name}": model for name, model in models.items()}


HUB_MODELS = _table()
