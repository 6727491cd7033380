#!/usr/bin/env python3
"""Train a transducer Zipformer, with CTC and an attention decoder beside it where wanted.

    python zipformer_transducer/train.py --preset zipa_t_small --manifest-dir data/shar --exp-dir exp/t
    python zipformer_transducer/train.py --use-ctc True --use-cr-ctc True --cr-loss-scale 0.02 --ctc-loss-scale 0.1 \\
        --enable-spec-aug False ...

A run that was stopped goes on where it was when the same command is given again. The resolved configuration is
saved as EXP_DIR/config.yaml and in every checkpoint; decode.py and export.py need --exp-dir alone.
ZIPA's and icefall's flags work as they are written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import one_line_errors
from couloir.recipes.run_config import Overrides, build_config, make_parser

RECIPE = "zipformer_transducer"
# ZIPA-T's settings where they differ from icefall's: 25 Hz output, am_scale, speed perturbation beside SpecAugment.
DEFAULTS: Overrides = {
    "zipformer": {"output_downsampling_factor": 2},
    "heads": {"use_transducer": True},
    "loss": {"am_scale": 0.1},
    "augment": {"use_volume_perturb": True, "use_speed_perturb": True},
    "trainer": {"exp_dir": "zipformer_transducer/exp"},
}


@one_line_errors
def main() -> None:
    """Parse the flags and start one process per device."""
    config = build_config(make_parser(__doc__ or "").parse_args(), RECIPE, DEFAULTS)

    from couloir.recipes.train import train
    from couloir.training.launch import launch

    launch(train, config, config.trainer)


if __name__ == "__main__":
    sys.exit(main())
