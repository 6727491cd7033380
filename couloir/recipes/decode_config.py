"""The flags of a decoding program."""

from __future__ import annotations

import dataclasses
from typing import Literal

from couloir.config import Ints, option


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Decoding: what is decoded, where, and how it is scored."""

    test_sets: str = option("", "comma-separated names of the sets to decode, dev among them; empty: every test set")
    decode_padding: Literal["exact", "reference"] = option(
        "exact",
        "exact: an utterance's result does not depend on its batch; reference: icefall's, where it does",
        choices=("exact", "reference"),
    )
    chunk_size: Ints | None = option(
        None,
        "a causal model's chunk; -1: full context, the default of a model trained with several",
        unit="50 Hz frames",
    )
    left_context_frames: Ints | None = option(
        None, "what a causal model sees before a chunk; -1: all, the default", unit="50 Hz frames"
    )
    device: str = option("auto", "where to run", choices=("auto", "cpu", "cuda"))
    write_ctm: bool = option(
        False, "write times-*.ctm: when each phone was spoken, or each word where --unit is word or a graph has words"
    )
    skip_scoring: bool = option(False, "write what was recognised and count no errors")
