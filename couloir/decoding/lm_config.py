"""The flags of neural language models: icefall's ``LmScorer``."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from couloir.config import option
from couloir.errors import must_be

LM_KINDS = ("rnn", "transformer")
_EPOCH = re.compile(r"epoch-(\d+)\.pt")


@dataclasses.dataclass(frozen=True)
class NeuralLmConfig:
    """Neural language models: where they are. Their sizes are needed in training; a checkpoint tells its own."""

    lm_exp_dir: str = option("", "folder of the neural LM's epoch-N.pt")
    lm_epoch: int = option(0, "epoch of the neural LM; 0: the newest")
    lm_avg: int = option(1, "epochs of the neural LM, up to --lm-epoch, that are averaged")
    lm_vocab_size: int = option(0, "tokens of the neural LM, which are the model's; 0: not said", hidden=True)
    rnn_lm_embedding_dim: int | None = option(None, "width of the RNN LM's embedding; a new one has 2048")
    rnn_lm_hidden_dim: int | None = option(None, "width of the RNN LM; a new one has 2048")
    rnn_lm_num_layers: int | None = option(None, "layers of the RNN LM; a new one has 3")
    rnn_lm_tie_weights: bool | None = option(None, "the RNN LM's output shares its embedding; True in a new one")
    transformer_lm_exp_dir: str = option("", "folder of a transformer LM, if another than --lm-exp-dir")
    transformer_lm_embedding_dim: int | None = option(None, "width of the transformer LM; a new one has 768")
    transformer_lm_encoder_dim: int | None = option(None, "icefall's second name of that width", hidden=True)
    transformer_lm_dim_feedforward: int | None = option(None, "inner width of the transformer LM; a new one has 2048")
    transformer_lm_nhead: int | None = option(None, "heads of the transformer LM; a new one has 8")
    transformer_lm_num_layers: int | None = option(None, "layers of the transformer LM; a new one has 16")
    transformer_lm_tie_weights: bool | None = option(None, "as --rnn-lm-tie-weights")

    def lm_sizes(self, kind: str) -> dict[str, Any]:
        """Those of the arguments of `RnnLm` (``kind`` rnn) or `TransformerLm` that were given.

        Raises:
            UserError: two widths of one transformer.
        """
        prefix = f"{kind}_lm_"
        sizes = {name[len(prefix) :]: value for name, value in vars(self).items() if name.startswith(prefix)}
        sizes.pop("exp_dir", None)
        width = sizes.pop("encoder_dim", None)
        if width is not None and sizes["embedding_dim"] not in (None, width):
            raise must_be(
                "--transformer-lm-encoder-dim", f"--transformer-lm-embedding-dim, {sizes['embedding_dim']}", width
            )
        if width is not None:
            sizes["embedding_dim"] = width
        return {name: value for name, value in sizes.items() if value is not None}

    def lm_checkpoints(self, kind: str) -> list[Path]:
        """The files to average. Raises `UserError` for an average that is not at least 1 and at most the epoch."""
        own = self.transformer_lm_exp_dir if kind == "transformer" else ""
        folder = Path(own or self.lm_exp_dir)
        found = (_EPOCH.fullmatch(path.name) for path in folder.glob("epoch-*.pt"))
        last = self.lm_epoch or max((int(name[1]) for name in found if name), default=1)
        if not 1 <= self.lm_avg <= last:
            raise must_be("--lm-avg", f"1 to --lm-epoch, which is {last}", self.lm_avg)
        return [folder / f"epoch-{epoch}.pt" for epoch in range(last - self.lm_avg + 1, last + 1)]
