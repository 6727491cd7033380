"""Configuration of the heads on top of an encoder, ."""

from __future__ import annotations

from dataclasses import dataclass

from couloir.config import option
from couloir.errors import must_be

BLANK_ID = 0
"""Token id of the blank, in every model."""


@dataclass(frozen=True)
class HeadsConfig:
    """Output heads.

    What the encoder's output is turned into: CTC, transducer, attention decoder, or several of them.
    """

    use_transducer: bool = option(True, "Train with the pruned transducer loss.")
    use_ctc: bool = option(False, "Train with the CTC loss.")
    use_attention_decoder: bool = option(False, "Train with an attention decoder.")
    vocab_size: int = option(500, "Tokens, blank included.", hidden=True, unit="tokens")
    decoder_dim: int = option(512, "Width of the transducer's predictor.", unit="channels", rare=True)
    joiner_dim: int = option(512, "Width of the transducer's joiner.", unit="channels", rare=True)
    context_size: int = option(2, "Tokens that the predictor sees: 2 is a trigram.", unit="tokens", rare=True)
    attention_decoder_dim: int = option(512, "Width of the attention decoder.", unit="channels", rare=True)
    attention_decoder_num_layers: int = option(6, "Layers of the attention decoder.", unit="layers", rare=True)
    attention_decoder_attention_dim: int = option(
        512, "Attention width of the attention decoder.", unit="channels", rare=True
    )
    attention_decoder_num_heads: int = option(8, "Heads of the attention decoder.", unit="heads", rare=True)
    attention_decoder_feedforward_dim: int = option(
        2048, "Hidden width of the attention decoder.", unit="channels", rare=True
    )

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
