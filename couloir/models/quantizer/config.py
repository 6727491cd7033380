"""Configuration of the quantizer and its published sizes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from couloir.config import flag_name, option
from couloir.errors import must_be

POSITIVE = ("encoder_dim", "num_heads", "audio_context", "codes", "codebook_dim", "num_layers")


@dataclass(frozen=True)
class QuantizerConfig:
    """Quantizer of speech. Defaults are those of the released 2560-code model on Whisper medium."""

    whisper: str = option("medium", "The Whisper whose encoder output is quantized.")
    encoder_dim: int = option(1024, "Width of Whisper's encoder.", unit="channels", rare=True)
    num_heads: int = option(16, "Attention heads, 64 wide, of the layer behind the codes.", unit="heads", rare=True)
    audio_context: int = option(1500, "Encoder frames of a window, 50 a second.", unit="frames", rare=True)
    codes: int = option(2560, "Codes, without the one in which the codebook's last row ends.", unit="codes")
    mask_code: int = option(
        2048,
        "The row that stands for padding; negative: the last one. In a merged codebook it is the trained part's.",
        rare=True,
    )
    codebook_dim: int = option(64, "Width of a code.", unit="channels", rare=True)
    num_layers: int = option(1, "Transformer layers behind the codes.", unit="layers", rare=True)
    downsampling: int = option(2, "Encoder frames for a token.", unit="frames", rare=True)
    decay: float = option(0.9, "Of the codebook's moving averages, for a training step.", rare=True)
    query_mult: float = option(2.0, "Attention scores are divided by 8 and multiplied by this.", rare=True)
    search_mask: bool = option(True, "Also speech may become the mask's code, as in the released models.", rare=True)
    average_padding: bool = option(
        True, "Padding takes part in the codebook's averages and the commitment, as in the reference.", rare=True
    )
    reduce_over_ranks: bool = option(
        True, "The codebook's averages are those of all ranks; the reference's were the first one's.", rare=True
    )
    dead_below: float = option(
        0.0, "Codes whose average count falls below this are replaced by vectors of the batch; 0: none.", rare=True
    )

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise must_be(flag_name(name), "at least 1", getattr(self, name))
        if self.encoder_dim % self.num_heads or (self.encoder_dim // self.num_heads) % 2:
            raise must_be("--encoder-dim", "an even multiple of --num-heads", self.encoder_dim)
        if self.downsampling < 1 or self.audio_context % self.downsampling:
            raise must_be("--downsampling", f"a divisor of {self.audio_context}", self.downsampling)
        if self.mask_code > self.codes:
            raise must_be("--mask-code", f"at most {self.codes}, the last row", self.mask_code)
        if not 0.0 < self.decay < 1.0:
            raise must_be("--decay", "between 0 and 1", self.decay)
        if self.query_mult <= 0.0:
            raise must_be("--query-mult", "above 0", self.query_mult)
        if self.dead_below < 0.0:
            raise must_be("--dead-below", "0 or more", self.dead_below)

    @property
    def rows(self) -> int:
        """Rows of the codebook."""
        return self.codes + 1

    @property
    def mask_row(self) -> int:
        """The row that stands for padding."""
        return self.codes if self.mask_code < 0 else self.mask_code

    @property
    def window_tokens(self) -> int:
        """Tokens of a window."""
        return self.audio_context // self.downsampling


def _sized(whisper: str, width: int, codes: int, mask_code: int = -1, dim: int = 64) -> QuantizerConfig:
    return QuantizerConfig(
        whisper=whisper,
        encoder_dim=width,
        num_heads=width // 64,
        codes=codes,
        mask_code=mask_code,
        codebook_dim=dim,
    )


PRESETS: dict[str, QuantizerConfig] = {
    **{f"medium-vi-2d-{codes}c-dim64": _sized("medium", 1024, codes) for codes in (512, 1024, 2048)},
    "merge-medium-vi-2d-2560c-dim64": QuantizerConfig(),
    **{f"large-v3-vi-2d-{codes}c-dim64": _sized("large-v3", 1280, codes) for codes in (512, 1024, 2048)},
    **{f"base-2d-{codes}c-dim64": _sized("base", 512, codes) for codes in (512, 2048)},
    **{f"tiny.en-2d-{codes}c-dim64": _sized("tiny.en", 384, codes) for codes in (512, 2048)},
}
"""Ichigo's sizes by its names, and those of small teachers by the same pattern."""
