"""One process of a training run, the same for every recipe."""

from __future__ import annotations

from couloir.models.asr import build_model
from couloir.recipes.finetune import initialise
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.objective import AsrObjective
from couloir.recipes.run import build_data, build_fbank, keep_tokenizer, with_vocabulary
from couloir.recipes.run_config import RunConfig
from couloir.text.tokenizer import load_tokenizer
from couloir.training.run_dir import newest_first
from couloir.training.trainer import Trainer


def train(config: RunConfig, finetune: FinetuneConfig | None = None) -> None:
    """Build the model, its loss and the data, and hand them to the trainer.

    Args:
        config: the run's. finetune: where a new run's weights come from; a run that goes on has its own.

    Raises:
        UserError: as the parts do.
    """
    tokenizer = load_tokenizer(config.text.bpe_model)
    keep_tokenizer(config)
    config = with_vocabulary(config, tokenizer)
    model = build_model(config.zipformer, config.heads)
    if finetune is not None and next(newest_first(config.trainer.exp_dir), None) is None:
        initialise(model, tokenizer, finetune)
    objective = AsrObjective(model, build_fbank(config), config.augment, config.loss)
    Trainer(config.trainer, config.optim, objective, build_data(config, tokenizer), run_config=config).fit()
