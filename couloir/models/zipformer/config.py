"""Configuration of the Zipformer encoder and its published sizes. Field names are icefall's flag names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

from couloir.config import Ints, flag_name, option
from couloir.errors import UserError, must_be
from couloir.features.config import FbankConfig
from couloir.models.geometry import FrameGeometry

COARSEST = 8
"""Frames at 50 per second that the coarsest stack of the published sizes joins."""
PER_STACK = (
    "num_encoder_layers",
    "feedforward_dim",
    "num_heads",
    "encoder_dim",
    "query_head_dim",
    "value_head_dim",
    "pos_head_dim",
    "encoder_unmasked_dim",
    "cnn_module_kernel",
)


@dataclass(frozen=True)
class ZipformerConfig:
    """Zipformer encoder.

    Lists have one number per stack; a list of one number holds for every stack.
    """

    num_encoder_layers: Ints = option((2, 2, 3, 4, 3, 2), "Layers of each stack.", unit="layers")
    downsampling_factor: Ints = option((1, 2, 4, 8, 4, 2), "Down-sampling of each stack, from 50 frames/s.", rare=True)
    feedforward_dim: Ints = option(
        (512, 768, 1024, 1536, 1024, 768), "Hidden width of the second feed-forward module.", unit="channels", rare=True
    )
    num_heads: Ints = option((4, 4, 4, 8, 4, 4), "Attention heads.", unit="heads", rare=True)
    encoder_dim: Ints = option((192, 256, 384, 512, 384, 256), "Model width of each stack.", unit="channels")
    query_head_dim: Ints = option((32,), "Width of a query head.", unit="channels", rare=True)
    value_head_dim: Ints = option((12,), "Width of a value head.", unit="channels", rare=True)
    pos_head_dim: Ints = option((4,), "Width of a positional query head.", unit="channels", rare=True)
    pos_dim: int = option(48, "Width of the relative positional encoding.", unit="channels", rare=True)
    encoder_unmasked_dim: Ints = option(
        (192, 192, 256, 256, 256, 192), "Channels that feature masking never touches.", unit="channels", rare=True
    )
    cnn_module_kernel: Ints = option(
        (31, 31, 15, 15, 15, 31), "Kernel of the convolution modules.", unit="frames", rare=True
    )
    causal: bool = option(False, "Chunk-causal convolutions and attention, for streaming.")
    chunk_size: Ints = option(
        (16, 32, 64, -1), "Chunk sizes, one drawn per training batch; -1: full context.", unit="50 Hz frames"
    )
    left_context_frames: Ints = option(
        (64, 128, 256, -1), "Left contexts, one drawn per training batch; -1: unlimited.", unit="50 Hz frames"
    )
    output_downsampling_factor: int = option(2, "Output down-sampling: 2 gives 25 frames/s, 1 gives 50.")
    frontend_channels: Ints = option(
        (8, 32, 128), "Channels of the three convolutions of the front end.", unit="channels", rare=True
    )
    feature_dim: int = option(80, "Mel bins of the input.", unit="mel bins", rare=True)

    def __post_init__(self) -> None:
        stacks = len(self.downsampling_factor)
        for name in PER_STACK:
            values = getattr(self, name)
            if len(values) not in (1, stacks):
                raise must_be(flag_name(name), f"a list of 1 or {stacks} numbers", f"{values}")
            object.__setattr__(self, name, tuple(values) * (stacks if len(values) == 1 else 1))
        self._check_sizes()
        if self.causal:
            self._check_chunks()

    def _check_sizes(self) -> None:
        for name in (*PER_STACK, "downsampling_factor", "frontend_channels"):
            if min(getattr(self, name)) < 1:
                raise must_be(flag_name(name), "positive numbers", f"{getattr(self, name)}")
        if self.output_downsampling_factor not in (1, 2):
            raise must_be("--output-downsampling-factor", "1 or 2", self.output_downsampling_factor)
        if len(self.frontend_channels) != 3:
            raise must_be("--frontend-channels", "a list of 3 numbers", f"{self.frontend_channels}")
        if self.feature_dim < 9:
            raise must_be("--feature-dim", "at least 9", self.feature_dim)
        if self.pos_dim % 2:
            raise must_be("--pos-dim", "even", self.pos_dim)
        for dim, unmasked in zip(self.encoder_dim, self.encoder_unmasked_dim):
            if unmasked > dim:
                raise must_be("--encoder-unmasked-dim", "no larger than --encoder-dim", f"{unmasked} > {dim}")
        if any(kernel % 2 == 0 for kernel in self.cnn_module_kernel):
            raise must_be("--cnn-module-kernel", "odd numbers", f"{self.cnn_module_kernel}")

    def _check_chunks(self) -> None:
        for flag, values in (("--chunk-size", self.chunk_size), ("--left-context-frames", self.left_context_frames)):
            lowest = 1 if flag == "--chunk-size" else 0
            if not values or any(value < lowest and value != -1 for value in values):
                raise must_be(flag, f"numbers from {lowest} on, or -1", ",".join(map(str, values)) or "empty")
        for chunk in (c for c in self.chunk_size if c > 0):
            if any(chunk % factor for factor in self.downsampling_factor):
                raise must_be("--chunk-size", f"multiples of {self.downsampling_factor}", chunk)
            for left in (frames for frames in self.left_context_frames if frames >= 0):
                reach = max(k // 2 * ds for k, ds in zip(self.cnn_module_kernel, self.downsampling_factor))
                if chunk * max(left // chunk, 1) < reach:
                    raise must_be(
                        "--left-context-frames",
                        f"at least {reach}, the reach of the convolutions, with chunks of {chunk}",
                        left,
                    )

    @property
    def fixed_context(self) -> tuple[int, int]:
        """Chunk size and left context in 50 Hz frames outside training: where training draws among several, -1, -1.

        So a causal model has its full context then, unless one chunk size was asked for or is all that it was
        trained with.
        """
        chunk, left = (v[0] if len(v) == 1 else -1 for v in (self.chunk_size, self.left_context_frames))
        return (chunk, left) if self.causal and chunk > 0 else (-1, -1)

    def with_context(self, chunk_size: int | None = None, left_context_frames: int | None = None) -> ZipformerConfig:
        """The same encoder with one context; -1 is the full one, None what `fixed_context` says.

        Raises:
            UserError: a chunk for an encoder that is not causal, or a context that it cannot have.
        """
        own_chunk, own_left = self.fixed_context
        chunk = own_chunk if chunk_size is None else chunk_size
        left = (own_left if chunk == own_chunk else -1) if left_context_frames is None else left_context_frames
        if chunk != -1 and not self.causal:
            raise must_be("--chunk-size", "-1 for a model that was not trained for streaming", chunk)
        if left != -1 and chunk == -1:
            raise UserError("`--left-context-frames` has no effect without `--chunk-size`; give both or neither")
        return replace(self, chunk_size=(chunk,), left_context_frames=(left,))

    @property
    def output_dim(self) -> int:
        """Width of the encoder's output: the largest stack's."""
        return max(self.encoder_dim)

    @cached_property
    def geometry(self) -> FrameGeometry:
        """Where the output frames lie."""
        embedding = FrameGeometry()
        step = embedding.embedding_factor * math.lcm(COARSEST, *self.downsampling_factor)
        return replace(embedding, output_factor=self.output_downsampling_factor, window_step=step)

    @property
    def frontend_bins(self) -> int:
        """Frequency bins that are left after the front end's convolutions."""
        return ((self.feature_dim - 1) // 2 - 1) // 2

    def as_stacks(self) -> list[dict[str, int]]:
        """The per-stack fields, one dictionary per stack."""
        names = [f.name for f in fields(self) if f.name in PER_STACK or f.name == "downsampling_factor"]
        columns = [cast(Ints, getattr(self, name)) for name in names]
        return [dict(zip(names, row)) for row in zip(*columns)]


MEDIUM = ZipformerConfig()
LARGE_ZIPA = {
    "num_encoder_layers": (4, 3, 4, 5, 4, 4),
    "feedforward_dim": (768, 768, 1536, 2048, 1536, 768),
    "num_heads": (6, 6, 6, 8, 6, 6),
    "encoder_dim": (512, 512, 768, 1024, 768, 512),
    "query_head_dim": (64,),
    "value_head_dim": (48,),
    "encoder_unmasked_dim": (192, 192, 256, 320, 256, 192),
}

PRESETS: dict[str, ZipformerConfig] = {
    # For an hour or two of speech on two CPU cores: at 25 frames/s a CTC finds its alignments in half the batches.
    "tiny": ZipformerConfig(
        num_encoder_layers=(2, 2, 1),
        downsampling_factor=(2, 4, 2),
        feedforward_dim=(256,),
        num_heads=(4,),
        encoder_dim=(96, 128, 96),
        query_head_dim=(16,),
        value_head_dim=(12,),
        encoder_unmasked_dim=(80, 96, 80),
        cnn_module_kernel=(15,),
        frontend_channels=(8, 16, 32),
    ),
    "small": ZipformerConfig(
        num_encoder_layers=(2,),
        feedforward_dim=(512, 768, 768, 768, 768, 768),
        encoder_dim=(192, 256, 256, 256, 256, 256),
        encoder_unmasked_dim=(192,),
    ),
    "medium": MEDIUM,
    "large": ZipformerConfig(
        num_encoder_layers=(2, 2, 4, 5, 4, 2),
        feedforward_dim=(512, 768, 1536, 2048, 1536, 768),
        encoder_dim=(192, 256, 512, 768, 512, 256),
        encoder_unmasked_dim=(192, 192, 256, 320, 256, 192),
    ),
    "zipa_small": ZipformerConfig(output_downsampling_factor=1),
    "zipa_t_small": MEDIUM,
    "zipa_t_large": ZipformerConfig(**LARGE_ZIPA),  # type: ignore[arg-type]
    "zipa_large": ZipformerConfig(output_downsampling_factor=1, **LARGE_ZIPA),  # type: ignore[arg-type]
}

# Widths that go with the encoder sizes in `PRESETS` where they are not the default.
HEAD_WIDTHS: dict[str, dict[str, Any]] = {
    "tiny": {"decoder_dim": 128, "joiner_dim": 128},
    "zipa_t_large": {"decoder_dim": 1024, "joiner_dim": 1024},
    "zipa_large": {"decoder_dim": 1024, "joiner_dim": 1024},
}


def check_features(fbank: FbankConfig, zipformer: ZipformerConfig) -> None:
    """Refuse features that audio is not read for, or that the encoder does not take. Raises `UserError`."""
    if fbank.sample_rate != FbankConfig.sample_rate:
        remedy = "at which all audio is read; leave it out"
        raise must_be("--sample-rate", f"{FbankConfig.sample_rate} Hz", f"{fbank.sample_rate} Hz", remedy)
    if fbank.feature_dim != zipformer.feature_dim:
        raise must_be(
            "--feature-dim",
            "the same for the features and the encoder",
            f"{fbank.feature_dim} in the section `fbank` and {zipformer.feature_dim} in `zipformer`",
            "give both, or the flag, which sets both",
        )
