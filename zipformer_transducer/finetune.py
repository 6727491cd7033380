#!/usr/bin/env python3
"""Fine-tune a Zipformer from a checkpoint of this project, of icefall or of ZIPA.

    python zipformer_transducer/finetune.py --finetune-ckpt exp/t/epoch-30.pt --bpe-model data/ru/lang \\
        --manifest-dir data/ru/shar --exp-dir exp/ru --init-modules encoder,encoder_embed --freeze-modules encoder_embed

Model flags are those of the checkpoint (for a run of this project they can be read in its config.yaml). The
vocabulary may be another: rows of tokens that both have are carried over, and the log says which. Everything else is
train.py's; decode.py decodes the result.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.config import from_mapping, given_flags
from couloir.errors import one_line_errors
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run_config import SECTIONS, Overrides, build_config, make_parser
from zipformer_transducer.train import DEFAULTS, RECIPE

# icefall's learning rate for fine-tuning; the schedules of dropout and skips belong to an untrained model and are over.
FINETUNE_DEFAULTS: Overrides = {
    **DEFAULTS,
    "optim": {"base_lr": 0.0045},
    "loss": {**DEFAULTS["loss"], "warm_step": 0},
    "trainer": {"exp_dir": "zipformer_transducer/exp_finetune", "batch_count_scale": 1.0e5},
}


@one_line_errors
def main() -> None:
    """Parse the flags and start one process per device."""
    namespace = make_parser(__doc__ or "", tuple(SECTIONS), FinetuneConfig).parse_args()
    config = build_config(namespace, RECIPE, FINETUNE_DEFAULTS)
    finetune = from_mapping(FinetuneConfig, given_flags(namespace, FinetuneConfig))

    from couloir.recipes.train import train
    from couloir.training.launch import launch

    launch(functools.partial(train, finetune=finetune), config, config.trainer)


if __name__ == "__main__":
    sys.exit(main())
