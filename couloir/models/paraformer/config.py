"""Configuration of a Paraformer and its published sizes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

from couloir.config import flag_name, option
from couloir.errors import must_be
from couloir.models.geometry import FrameGeometry

ENCODERS = ("sanm", "conformer")
DECODERS = ("sanm", "san")
PREDICTORS = ("v2", "v1", "v3")
POSITIVE = (
    "vocab_size",
    "encoder_dim",
    "encoder_num_heads",
    "encoder_feedforward_dim",
    "num_encoder_layers",
    "decoder_num_heads",
    "decoder_feedforward_dim",
    "num_decoder_layers",
    "time_factor",
)
BLANK_ID, SOS_ID, EOS_ID = 0, 1, 2
"""Ids of FunASR's first three tokens: of the CTC head's blank, of a sentence's start and of its end."""


@dataclass(frozen=True)
class ParaformerConfig:
    """Paraformer.

    An encoder, a predictor that weighs its frames and adds them up to one vector per token, and a decoder that turns
    all vectors into tokens at once. Defaults are the 68 M general model's.
    """

    encoder: str = option("sanm", "Kind of the encoder.", choices=ENCODERS)
    decoder: str = option("sanm", "Kind of the decoder.", choices=DECODERS)
    predictor: str = option(
        "v2",
        "Convolution of the predictor: v2 full, v1 depth-wise; v3: full, and a head for times.",
        choices=PREDICTORS,
    )
    vocab_size: int = option(8359, "Tokens, the blank and the sentence's ends included.", hidden=True, unit="tokens")
    feature_dim: int = option(560, "Bins of the input.", unit="bins", rare=True)
    encoder_dim: int = option(320, "Model width of encoder and decoder.", unit="channels")
    encoder_num_heads: int = option(4, "Attention heads of the encoder.", unit="heads", rare=True)
    encoder_feedforward_dim: int = option(1280, "Hidden width of the encoder.", unit="channels", rare=True)
    num_encoder_layers: int = option(40, "Layers of the encoder.", unit="layers")
    encoder_kernel: int = option(
        11, "Kernel of the encoder's memories, or of the Conformer's convolutions.", unit="frames", rare=True
    )
    encoder_shift: int = option(0, "Frames by which the encoder's memories lean back.", unit="frames", rare=True)
    decoder_num_heads: int = option(4, "Attention heads of the decoder.", unit="heads", rare=True)
    decoder_feedforward_dim: int = option(1280, "Hidden width of the decoder.", unit="channels", rare=True)
    num_decoder_layers: int = option(12, "Layers of the decoder; SAN-M has one more behind them.", unit="layers")
    num_decoder_attention_layers: int = option(
        12, "Layers of a SAN-M decoder that attend to the encoder, the first ones.", unit="layers", rare=True
    )
    decoder_kernel: int = option(11, "Kernel of the decoder's memories.", unit="tokens", rare=True)
    decoder_shift: int = option(0, "Tokens by which the decoder's memories lean back.", unit="tokens", rare=True)
    predictor_left: int = option(1, "Frames before one that its weight depends on.", unit="frames", rare=True)
    predictor_right: int = option(1, "Frames after one that its weight depends on.", unit="frames", rare=True)
    smooth_factor: float = option(1.0, "Factor of the predictor's weights.", rare=True)
    noise_threshold: float = option(0.0, "Weights below this are 0.", rare=True)
    time_factor: int = option(3, "Frames of the head for times per frame of the encoder (v3).", rare=True)
    time_smooth_factor: float = option(0.25, "Factor of that head's weights.", rare=True)
    time_noise_threshold: float = option(0.01, "Weights of that head below this are 0.", rare=True)
    tail_threshold: float = option(
        0.45, "Weight of the frame appended to a recording, which rounds the number of tokens.", rare=True
    )
    last_fire_tolerance: float = option(
        1.0e-3,
        "In training the weights sum up to the number of tokens, but for rounding; a last token that misses so little "
        "is kept.",
        rare=True,
    )
    predictor_bias: int = option(1, "1: the sentence's end is a separate token; 0: it is none.", unit="tokens")
    use_ctc: bool = option(False, "Have a CTC head on the encoder.")
    share_embedding: bool = option(False, "The sampler takes the output layer's rows for tokens.", rare=True)
    dropout: float = option(0.1, "Dropout behind every module and within the feed-forward ones.", rare=True)
    positional_dropout: float = option(0.1, "Dropout of inputs with positions.", rare=True)
    attention_dropout: float = option(0.1, "Dropout of attention weights and memories.", rare=True)
    predictor_dropout: float = option(0.1, "Dropout of the predictor's convolution (v1).", rare=True)

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise must_be(flag_name(name), "at least 1", getattr(self, name))
        for name, known in (("encoder", ENCODERS), ("decoder", DECODERS), ("predictor", PREDICTORS)):
            if getattr(self, name) not in known:
                raise must_be(flag_name(name), f"one of {', '.join(known)}", getattr(self, name))
        self._check_ranges()
        self._check_widths()
        self._check_kernels()

    def _check_ranges(self) -> None:
        for field in fields(self):
            if field.name.endswith("dropout") and not 0.0 <= getattr(self, field.name) < 1.0:
                raise must_be(flag_name(field.name), "from 0 to below 1", getattr(self, field.name))
        thresholds = (field.name for field in fields(self) if field.name.endswith(("threshold", "tolerance")))
        for name in ("predictor_left", "predictor_right", *thresholds):
            if getattr(self, name) < 0:
                raise must_be(flag_name(name), "0 or more", getattr(self, name))
        if not 0 <= self.num_decoder_attention_layers <= self.num_decoder_layers:
            raise must_be(
                "--num-decoder-attention-layers",
                f"from 0 to --num-decoder-layers ({self.num_decoder_layers})",
                self.num_decoder_attention_layers,
            )
        if self.predictor_bias not in (0, 1):
            raise must_be("--predictor-bias", "0 or 1", self.predictor_bias)
        if self.predictor_bias and self.vocab_size <= EOS_ID:
            raise must_be("vocab_size", f"above {EOS_ID}, the sentence's end", self.vocab_size)

    def _check_widths(self) -> None:
        for name in ("encoder_num_heads", "decoder_num_heads"):
            if self.encoder_dim % getattr(self, name):
                raise must_be("--encoder-dim", f"a multiple of {flag_name(name)}", self.encoder_dim)
        if self.encoder == "sanm" and (self.feature_dim % 2 or self.feature_dim < 4):
            raise must_be("--feature-dim", "even and at least 4", self.feature_dim)
        if self.encoder == "conformer" and self.feature_dim < 7:
            raise must_be("--feature-dim", "at least 7", self.feature_dim)
        if self.encoder_dim % 2 and "san" in (self.encoder, self.decoder):
            raise must_be("--encoder-dim", "even", self.encoder_dim)

    def _check_kernels(self) -> None:
        for name in ("encoder_kernel", "decoder_kernel"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise must_be(flag_name(name), "an odd number", getattr(self, name))
        for name, kernel in (("encoder_shift", self.encoder_kernel), ("decoder_shift", self.decoder_kernel)):
            if not 0 <= getattr(self, name) <= kernel // 2:
                raise must_be(flag_name(name), f"from 0 to {kernel // 2}", getattr(self, name))

    @cached_property
    def geometry(self) -> FrameGeometry:
        """Where the encoder's output frames lie: one per input frame, or one per four behind two convolutions."""
        if self.encoder == "sanm":
            return FrameGeometry(embedding_factor=1, embedding_margin=0, output_factor=1, window_step=1)
        return FrameGeometry(embedding_factor=4, embedding_margin=3, output_factor=1, window_step=4)

    @property
    def front_end_bins(self) -> int:
        """Bins that the Conformer's convolutions leave."""
        return ((self.feature_dim - 1) // 2 - 1) // 2


SMALL = ParaformerConfig()
AISHELL = ParaformerConfig(
    encoder="conformer",
    decoder="san",
    predictor="v1",
    vocab_size=4234,
    feature_dim=80,
    encoder_dim=256,
    encoder_feedforward_dim=2048,
    num_encoder_layers=12,
    encoder_kernel=15,
    decoder_feedforward_dim=2048,
    num_decoder_layers=6,
    num_decoder_attention_layers=6,
    predictor_bias=0,
    use_ctc=True,
    attention_dropout=0.0,
)

PRESETS: dict[str, ParaformerConfig] = {
    # For an hour or two of speech on two CPU cores.
    "tiny": ParaformerConfig(
        encoder_dim=128,
        encoder_feedforward_dim=384,
        num_encoder_layers=6,
        decoder_feedforward_dim=384,
        num_decoder_layers=2,
        num_decoder_attention_layers=2,
    ),
    "small": SMALL,
    "large": replace(
        SMALL,
        vocab_size=8404,
        encoder_dim=512,
        encoder_feedforward_dim=2048,
        num_encoder_layers=50,
        decoder_feedforward_dim=2048,
        num_decoder_layers=16,
        num_decoder_attention_layers=16,
    ),
    "aishell": AISHELL,
    "aishell2": replace(
        AISHELL,
        vocab_size=5212,
        encoder_dim=320,
        encoder_feedforward_dim=1280,
        num_encoder_layers=20,
        decoder_feedforward_dim=1280,
    ),
}
"""The 68 M general model, the 220 M large one, and those of FunASR's recipes for AISHELL-1 and AISHELL-2."""
