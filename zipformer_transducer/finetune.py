#!/usr/bin/env python3
"""Fine-tune a Zipformer from a checkpoint of this project, of icefall or of ZIPA.

    python zipformer_transducer/finetune.py --finetune-ckpt exp/t/epoch-30.pt --bpe-model data/ru/lang \\
        --manifest-dir data/ru/shar --exp-dir exp/ru --init-modules encoder,encoder_embed --freeze-modules encoder_embed

The model has the checkpoint's sizes, which need not be given; which heads it has is said by --use-ctc and the like.
The vocabulary may be another: rows of tokens that both have are carried over, and the log says which. So that what the
checkpoint was trained on is not forgotten, --use-mux True --mux-manifest-dir data/all/shar mixes that data in.
Everything else is train.py's; decode.py decodes the result.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.config import from_mapping, given_flags
from couloir.errors import one_line_errors
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run_config import Overrides, build_config, make_parser
from zipformer_transducer.train import DEFAULTS, RECIPE

# icefall's: a low learning rate that hardly falls, and a batch count at which the schedules of a new model are over.
FINETUNE_DEFAULTS: Overrides = {
    **DEFAULTS,
    "optim": {"base_lr": 0.0045, "lr_batches": 1.0e5, "lr_epochs": 100.0},
    "trainer": {"exp_dir": "zipformer_transducer/exp_finetune", "batch_count_offset": 1.0e5},
}


@one_line_errors
def main() -> None:
    """Parse the flags and start one process per device."""
    namespace = make_parser(__doc__ or "", None, FinetuneConfig).parse_args()
    config = build_config(namespace, RECIPE, FINETUNE_DEFAULTS)
    finetune = from_mapping(FinetuneConfig, given_flags(namespace, FinetuneConfig))

    from couloir.recipes.finetune import sized
    from couloir.recipes.train import train
    from couloir.training.launch import launch

    config = sized(config, finetune, vars(namespace))
    launch(functools.partial(train, finetune=finetune), config, config.trainer)


if __name__ == "__main__":
    sys.exit(main())
