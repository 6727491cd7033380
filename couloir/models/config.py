"""Configuration of the heads on top of an encoder, and the published sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from couloir.config import option
from couloir.errors import must_be
from couloir.features.config import FbankConfig
from couloir.models.zipformer.config import ZipformerConfig


@dataclass(frozen=True)
class HeadsConfig:
    """Output heads.

    What the encoder's output is turned into: CTC, transducer, attention decoder, or several of them.
    """

    use_transducer: bool = option(True, "Train with the pruned transducer loss.")
    use_ctc: bool = option(False, "Train with the CTC loss.")
    use_attention_decoder: bool = option(False, "Train with an attention decoder.")
    vocab_size: int = option(500, "Tokens, blank included.", hidden=True, unit="tokens")
    blank_id: int = option(0, "Token id of the blank.", hidden=True)
    decoder_dim: int = option(512, "Width of the transducer's predictor.", unit="channels")
    joiner_dim: int = option(512, "Width of the transducer's joiner.", unit="channels")
    context_size: int = option(2, "Tokens that the predictor sees: 2 is a trigram.", unit="tokens")
    attention_decoder_dim: int = option(512, "Width of the attention decoder.", unit="channels")
    attention_decoder_num_layers: int = option(6, "Layers of the attention decoder.", unit="layers")
    attention_decoder_attention_dim: int = option(512, "Attention width of the attention decoder.", unit="channels")
    attention_decoder_num_heads: int = option(8, "Heads of the attention decoder.", unit="heads")
    attention_decoder_feedforward_dim: int = option(2048, "Hidden width of the attention decoder.", unit="channels")

    def __post_init__(self) -> None:
        if not (self.use_transducer or self.use_ctc or self.use_attention_decoder):
            raise must_be("--use-transducer, --use-ctc or --use-attention-decoder", "True", "all False")
        if self.use_transducer and self.decoder_dim % 4:
            raise must_be("--decoder-dim", "a multiple of 4", self.decoder_dim)
        if self.context_size < 1:
            raise must_be("--context-size", "at least 1", self.context_size)
        if self.use_attention_decoder and self.attention_decoder_attention_dim % self.attention_decoder_num_heads:
            raise must_be(
                "--attention-decoder-attention-dim",
                f"a multiple of --attention-decoder-num-heads ({self.attention_decoder_num_heads})",
                self.attention_decoder_attention_dim,
            )
        if not 0 <= self.blank_id < self.vocab_size:
            raise must_be("blank_id", f"below the vocabulary size {self.vocab_size}", self.blank_id)


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


# Widths that go with the encoder sizes in `couloir.models.zipformer.config.PRESETS` where they are not the default.
HEAD_WIDTHS: dict[str, dict[str, Any]] = {
    "tiny": {"decoder_dim": 128, "joiner_dim": 128},
    "zipa_t_large": {"decoder_dim": 1024, "joiner_dim": 1024},
    "zipa_large": {"decoder_dim": 1024, "joiner_dim": 1024},
}
