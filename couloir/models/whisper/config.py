"""Configuration of a Whisper and its published sizes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from couloir.config import flag_name, option
from couloir.errors import must_be


@dataclass(frozen=True)
class WhisperConfig:
    """Whisper. Defaults are those of the multilingual base model."""

    feature_dim: int = option(80, "Bins of the input: 80, or 128 of large-v3.", unit="bins", rare=True)
    audio_context: int = option(1500, "Encoder frames of a window, 50 a second.", unit="frames", rare=True)
    encoder_dim: int = option(512, "Model width of the encoder.", unit="channels")
    encoder_num_heads: int = option(8, "Attention heads of the encoder.", unit="heads", rare=True)
    num_encoder_layers: int = option(6, "Layers of the encoder.", unit="layers")
    vocab_size: int = option(51865, "Tokens; 51864 are English alone's.", hidden=True, unit="tokens")
    text_context: int = option(448, "The most tokens of a text, with its prompt.", unit="tokens", rare=True)
    decoder_dim: int = option(512, "Model width of the decoder, which is the encoder's.", unit="channels", rare=True)
    decoder_num_heads: int = option(8, "Attention heads of the decoder.", unit="heads", rare=True)
    num_decoder_layers: int = option(6, "Layers of the decoder.", unit="layers")

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise must_be(flag_name(field.name), "at least 1", getattr(self, field.name))
        for side in ("encoder", "decoder"):
            if getattr(self, f"{side}_dim") % getattr(self, f"{side}_num_heads"):
                raise must_be(f"--{side}-dim", f"a multiple of --{side}-num-heads", getattr(self, f"{side}_dim"))
        if self.encoder_dim % 2 or self.encoder_dim < 4:
            raise must_be("--encoder-dim", "even and at least 4", self.encoder_dim)
        if self.decoder_dim != self.encoder_dim:
            raise must_be("--decoder-dim", f"--encoder-dim ({self.encoder_dim})", self.decoder_dim)

    @property
    def window_frames(self) -> int:
        """Feature frames of a window: two for each of the encoder's."""
        return 2 * self.audio_context


def _sized(width: int, layers: int, vocab_size: int, feature_dim: int = 80, decoder_layers: int = 0) -> WhisperConfig:
    heads = width // 64
    return WhisperConfig(
        feature_dim=feature_dim,
        encoder_dim=width,
        encoder_num_heads=heads,
        num_encoder_layers=layers,
        vocab_size=vocab_size,
        decoder_dim=width,
        decoder_num_heads=heads,
        num_decoder_layers=decoder_layers or layers,
    )


_WIDTHS = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24)}
PRESETS: dict[str, WhisperConfig] = {
    **{name: _sized(*size, vocab_size=51865) for name, size in _WIDTHS.items()},
    **{f"{name}.en": _sized(*size, vocab_size=51864) for name, size in _WIDTHS.items()},
    **{name: _sized(1280, 32, 51865) for name in ("large-v1", "large-v2")},
    "large-v3": _sized(1280, 32, 51866, 128),
    "large-v3-turbo": _sized(1280, 32, 51866, 128, decoder_layers=4),
}
"""OpenAI's published models."""
