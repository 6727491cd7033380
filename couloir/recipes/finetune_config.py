"""The flags of fine-tuning."""

from __future__ import annotations

import dataclasses

from couloir.config import option
from couloir.errors import UserError


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning: the weights that a new run starts from. --freeze-modules says what is not trained."""

    do_finetune: bool = option(True, "start from --finetune-ckpt; False trains from scratch")
    finetune_ckpt: str = option("", "checkpoint to start from: this project's, icefall's or ZIPA's")
    init_modules: str = option("", "comma-separated modules to take from it (encoder,encoder_embed); empty: all")
    finetune_bpe_model: str = option(
        "", "the checkpoint's tokenizer, where the vocabulary is another; empty: the copy kept beside the checkpoint"
    )

    def __post_init__(self) -> None:
        if self.do_finetune and not self.finetune_ckpt:
            raise UserError("`--finetune-ckpt` is missing: name the checkpoint to start from, or use train.py")

    @property
    def modules(self) -> list[str]:
        """``--init-modules`` as a list."""
        return [name.strip() for name in self.init_modules.split(",") if name.strip()]
