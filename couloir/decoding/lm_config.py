"""The flags of neural language models: icefall's ``LmScorer``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from couloir.config import option
from couloir.errors import must_be

LM_KINDS = ("rnn", "transformer")


@dataclasses.dataclass(frozen=True)
class NeuralLmConfig:
    """Neural language models: where they are, and their sizes."""

    lm_exp_dir: str = option("", "folder of the neural LM's epoch-N.pt")
    lm_epoch: int = option(7, "epoch of the neural LM")
    lm_avg: int = option(1, "epochs of the neural LM, up to --lm-epoch, that are averaged")
    lm_vocab_size: int = option(0, "tokens of the neural LM, which are the model's; 0: not said", hidden=True)
    rnn_lm_embedding_dim: int = option(2048, "width of the RNN LM's embedding")
    rnn_lm_hidden_dim: int = option(2048, "width of the RNN LM")
    rnn_lm_num_layers: int = option(3, "layers of the RNN LM")
    rnn_lm_tie_weights: bool = option(True, "the RNN LM's output shares its embedding")
    transformer_lm_exp_dir: str = option("", "folder of a transformer LM, if another than --lm-exp-dir")
    transformer_lm_embedding_dim: int = option(768, "width of the transformer LM")
    transformer_lm_encoder_dim: int = option(768, "accepted for icefall's commands", hidden=True)
    transformer_lm_dim_feedforward: int = option(2048, "inner width of the transformer LM")
    transformer_lm_nhead: int = option(8, "heads of the transformer LM")
    transformer_lm_num_layers: int = option(16, "layers of the transformer LM")
    transformer_lm_tie_weights: bool = option(True, "the transformer LM's output shares its embedding")

    def lm_sizes(self, kind: str) -> dict[str, int | bool]:
        """The arguments of `RnnLm` (``kind`` rnn) or `TransformerLm` beside the vocabulary's size."""
        prefix, others = f"{kind}_lm_", ("exp_dir", "encoder_dim")
        sizes = {name[len(prefix) :]: value for name, value in vars(self).items() if name.startswith(prefix)}
        return {name: value for name, value in sizes.items() if name not in others}

    def lm_checkpoints(self, kind: str) -> list[Path]:
        """The files to average. Raises `UserError` for an average that is not at least 1 and at most the epoch."""
        if not 1 <= self.lm_avg <= self.lm_epoch:
            raise must_be("--lm-avg", f"1 to --lm-epoch, which is {self.lm_epoch}", self.lm_avg)
        own = self.transformer_lm_exp_dir if kind == "transformer" else ""
        epochs = range(self.lm_epoch - self.lm_avg + 1, self.lm_epoch + 1)
        return [Path(own or self.lm_exp_dir) / f"epoch-{epoch}.pt" for epoch in epochs]
