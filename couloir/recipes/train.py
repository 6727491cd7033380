"""One process of a training run, the same for every recipe."""

from __future__ import annotations

import functools

from couloir.families.base import RunConfig
from couloir.families.registry import family
from couloir.recipes.finetune import initialise
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run import build_data, check_vocabulary, keep_tokenizer, with_unit, with_vocabulary
from couloir.recipes.run_config import check_resume_config, saved_config
from couloir.text.tokenizer import load_tokenizer
from couloir.training.run_dir import check_recipe, holds_checkpoints, newest_first
from couloir.training.trainer import Trainer


def train(config: RunConfig, finetune: FinetuneConfig | None = None) -> None:
    """Build the model, its loss and the data, and hand them to the trainer.

    Nothing is written before it is certain that the run may go on in its directory.

    Args:
        config: the run's. finetune: where a new run's weights come from; a run that goes on has its own.

    Raises:
        UserError: as the parts do.
    """
    exp_dir = config.trainer.exp_dir
    check_recipe(exp_dir, config.recipe)
    tokenizer = load_tokenizer(config.text.bpe_model)
    config = with_unit(with_vocabulary(config, tokenizer), tokenizer)
    if holds_checkpoints(exp_dir):
        check_vocabulary(tokenizer, config.text.bpe_model, exp_dir)
        if saved := saved_config(exp_dir):
            check_resume_config(saved, config)
    makes = family(config.family)
    makes.check_tokenizer(config, tokenizer.pieces)
    model = makes.build(config)
    if finetune is not None and next(newest_first(exp_dir), None) is None:
        initialise(model, tokenizer, finetune)
    objective = makes.objective(model, makes.front_end(config), config)
    keep = functools.partial(keep_tokenizer, config)
    data = build_data(config, tokenizer)
    Trainer(config.trainer, config.optim, objective, data, config, makes.optimizer, keep).fit()
