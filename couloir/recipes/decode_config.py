"""The flags of a decoding program."""

from __future__ import annotations

import dataclasses
from typing import Literal

from couloir.config import option
from couloir.errors import UserError


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Decoding: what is decoded, where, and how it is scored."""

    test_sets: str = option("", "comma-separated names of the sets to decode; empty: every test set that is there")
    decode_padding: Literal["exact", "reference"] = option(
        "exact",
        "exact: an utterance's result does not depend on its batch; reference: icefall's, where it does",
        choices=("exact", "reference"),
    )
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    unit: str = option("phone", "what an error is counted in", choices=("phone", "word", "char"))
    skip_scoring: bool = option(False, "accepted for icefall's commands", hidden=True)


@dataclasses.dataclass(frozen=True)
class CtcDecodeConfig:
    """CTC search: the method and its beam."""

    decoding_method: str = option(
        "ctc-greedy-search", "how to search", choices=("ctc-greedy-search", "ctc-prefix-beam-search")
    )
    beam_size: int = option(4, "prefixes kept by ctc-prefix-beam-search", unit="hypotheses")
    lang_dir: str = option("data/lang_bpe_500", "accepted for icefall's commands", hidden=True)
    lm_dir: str = option("data/lm", "accepted for icefall's commands", hidden=True)
    num_paths: int = option(100, "accepted for icefall's commands", hidden=True)
    nbest_scale: float = option(1.0, "accepted for icefall's commands", hidden=True)
    hlg_scale: float = option(0.6, "accepted for icefall's commands", hidden=True)

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise UserError(f"`--beam-size` must be at least 1, but is {self.beam_size}")
