"""Configuration of the first-generation streaming Zipformer and known sizes. Field names are icefall's flag names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

from couloir.config import Ints, flag_name, option
from couloir.errors import must_be
from couloir.models.geometry import FrameGeometry

PER_STACK = (
    "num_encoder_layers",
    "feedforward_dims",
    "nhead",
    "encoder_dims",
    "attention_dims",
    "encoder_unmasked_dims",
    "cnn_module_kernels",
)
POS_HEAD_DIM = 4
"""Width of a positional query."""
EMBED_CHANNELS = (8, 32, 128)
"""Of the front end's three convolutions."""
WEIGHT_BOUND = (
    "num_encoder_layers",
    "feedforward_dims",
    "nhead",
    "encoder_dims",
    "attention_dims",
    "zipformer_downsampling_factors",
    "cnn_module_kernels",
    "feature_dim",
)
"""Fields that weights depend on. The others are chosen for each training or use."""


@dataclass(frozen=True)
class Zipformer1Config:
    """First-generation streaming Zipformer encoder.

    Lists have one number per stack; a list of one number holds for every stack.
    """

    num_encoder_layers: Ints = option((2, 4, 3, 2, 4), "Layers of each stack.", unit="layers")
    feedforward_dims: Ints = option(
        (1024, 1024, 2048, 2048, 1024), "Hidden width of the feed-forward modules.", unit="channels", rare=True
    )
    nhead: Ints = option((8,), "Attention heads.", unit="heads", rare=True)
    encoder_dims: Ints = option((384,), "Model width of each stack, nowhere falling.", unit="channels")
    attention_dims: Ints = option((192,), "Width of queries and keys, all heads together.", unit="channels", rare=True)
    encoder_unmasked_dims: Ints = option(
        (256,), "Channels that feature masking never touches.", unit="channels", rare=True
    )
    zipformer_downsampling_factors: Ints = option(
        (1, 2, 4, 8, 2), "Down-sampling of each stack, from 50 frames/s.", rare=True
    )
    cnn_module_kernels: Ints = option((31,), "Kernel of the causal convolutions.", unit="frames", rare=True)
    short_chunk_size: int = option(
        50, "Training batches with chunks draw them up to this size; a quarter has full context.", unit="50 Hz frames"
    )
    num_left_chunks: int = option(4, "Chunks before its own that a frame attends to; -1: all.", unit="chunks")
    decode_chunk_len: int = option(
        32, "Chunk outside training: a multiple of twice every down-sampling factor.", unit="100 Hz frames"
    )
    feature_dim: int = option(80, "Mel bins of the input.", unit="mel bins", rare=True)

    def __post_init__(self) -> None:
        stacks = len(self.zipformer_downsampling_factors)
        for name in PER_STACK:
            values = getattr(self, name)
            if len(values) not in (1, stacks):
                raise must_be(flag_name(name), f"a list of 1 or {stacks} numbers", f"{values}")
            object.__setattr__(self, name, tuple(values) * (stacks if len(values) == 1 else 1))
        self._check_sizes()
        self._check_widths()
        self._check_chunks()

    def _check_sizes(self) -> None:
        for name in (*PER_STACK, "zipformer_downsampling_factors"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise must_be(flag_name(name), "positive numbers", f"{values}")
        if any(kernel % 2 == 0 for kernel in self.cnn_module_kernels):
            raise must_be("--cnn-module-kernels", "odd numbers", f"{self.cnn_module_kernels}")
        if self.feature_dim < 9:
            raise must_be("--feature-dim", "at least 9", self.feature_dim)
        coarsest = self.coarsest
        if any(coarsest % factor for factor in self.zipformer_downsampling_factors):
            raise must_be(
                "--zipformer-downsampling-factors",
                f"divisors of the largest, {coarsest}",
                f"{self.zipformer_downsampling_factors}",
            )

    def _check_widths(self) -> None:
        before = self.encoder_dims[0]
        for sizes in self.as_stacks():
            width, attention, heads = sizes["encoder_dims"], sizes["attention_dims"], sizes["nhead"]
            if width < before or (width > before and sizes["zipformer_downsampling_factors"] == 1):
                want = "numbers that never fall, and rise only at stacks that are down-sampled"
                raise must_be("--encoder-dims", want, f"{self.encoder_dims}")
            if width % 2:
                raise must_be("--encoder-dims", "even numbers", f"{self.encoder_dims}")
            if attention % (2 * heads):
                raise must_be("--attention-dims", f"multiples of twice --nhead {self.nhead}", f"{self.attention_dims}")
            if sizes["encoder_unmasked_dims"] > width:
                unmasked = f"{sizes['encoder_unmasked_dims']} > {width}"
                raise must_be("--encoder-unmasked-dims", "no larger than --encoder-dims", unmasked)
            before = width

    def _check_chunks(self) -> None:
        step = 2 * self.coarsest
        if self.decode_chunk_len < step or self.decode_chunk_len % step:
            raise must_be("--decode-chunk-len", f"a multiple of {step}", self.decode_chunk_len)
        if self.short_chunk_size < self.coarsest:
            raise must_be("--short-chunk-size", f"at least {self.coarsest}", self.short_chunk_size)
        if self.num_left_chunks < -1:
            raise must_be("--num-left-chunks", "-1 or more", self.num_left_chunks)

    @property
    def coarsest(self) -> int:
        """Frames at 50 per second that the coarsest stack joins."""
        return max(self.zipformer_downsampling_factors)

    @property
    def decode_chunk_size(self) -> int:
        """The chunk outside training, in 50 Hz frames."""
        return self.decode_chunk_len // 2

    @property
    def left_context(self) -> int:
        """Frames at 50 per second before a chunk that it attends to outside training; -1: all."""
        return -1 if self.num_left_chunks < 0 else self.num_left_chunks * self.decode_chunk_size

    def with_context(self, decode_chunk_len: int | None = None, num_left_chunks: int | None = None) -> Zipformer1Config:
        """The same encoder with another context outside training. Raises `UserError` where it cannot have that."""
        given = {"decode_chunk_len": decode_chunk_len, "num_left_chunks": num_left_chunks}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(self, **changes)

    @property
    def output_dim(self) -> int:
        """Width of the encoder's output."""
        return self.encoder_dims[-1]

    @cached_property
    def geometry(self) -> FrameGeometry:
        """Where the output frames lie: 25 per second."""
        embedding = FrameGeometry()
        return replace(embedding, window_step=embedding.embedding_factor * math.lcm(8, self.coarsest))

    @property
    def embed_bins(self) -> int:
        """Frequency bins that are left after the front end's convolutions."""
        return ((self.feature_dim - 1) // 2 - 1) // 2

    def as_stacks(self) -> list[dict[str, int]]:
        """The per-stack fields, one dictionary per stack."""
        names = [f.name for f in fields(self) if f.name in (*PER_STACK, "zipformer_downsampling_factors")]
        columns = [cast(Ints, getattr(self, name)) for name in names]
        return [dict(zip(names, row)) for row in zip(*columns)]

    def skip_source(self, stack: int) -> int | None:
        """The earlier stack whose output joins the input of ``stack``; None where the rate does not rise before it."""
        factors = self.zipformer_downsampling_factors
        if stack < 2 or factors[stack - 1] <= factors[stack]:
            return None
        return next((j for j in range(stack - 2, 0, -1) if factors[j] <= factors[stack]), 0)


PRESETS: dict[str, Zipformer1Config] = {
    # For an hour or two of speech on two CPU cores.
    "tiny": Zipformer1Config(
        num_encoder_layers=(1, 2, 1),
        feedforward_dims=(256,),
        nhead=(4,),
        encoder_dims=(96,),
        attention_dims=(64,),
        encoder_unmasked_dims=(80,),
        zipformer_downsampling_factors=(2, 4, 2),
        cnn_module_kernels=(15,),
    ),
    # The 6 M parameters of icefall's recipe on several corpora.
    "small": Zipformer1Config(
        num_encoder_layers=(2,),
        feedforward_dims=(256, 256, 512, 512, 256),
        nhead=(4,),
        encoder_dims=(128,),
        attention_dims=(96,),
        encoder_unmasked_dims=(128,),
    ),
    "medium": Zipformer1Config(),
}

HEAD_WIDTHS: dict[str, dict[str, Any]] = {"tiny": {"decoder_dim": 128, "joiner_dim": 128}}
"""Widths that go with the encoder sizes in `PRESETS` where they are not the default."""
