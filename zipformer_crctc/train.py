#!/usr/bin/env python3
"""Train a CTC or CR-CTC Zipformer: speech in, phones out.

    python zipformer_crctc/train.py --preset tiny --manifest-dir data/shar --exp-dir exp/tiny
    torchrun --nproc-per-node 2 zipformer_crctc/train.py --config conf.yaml        # any number of nodes

A run that was stopped goes on where it was when the same command is given again. The resolved configuration is
saved as EXP_DIR/config.yaml and in every checkpoint; ctc_decode.py and export.py need --exp-dir alone.
ZIPA's and icefall's flags work as they are written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import one_line_errors
from couloir.recipes.run_config import Overrides, build_config, make_parser

RECIPE = "zipformer_crctc"
# ZIPA's settings where they differ from icefall's: 50 Hz output, CR-CTC on raw audio.
DEFAULTS: Overrides = {
    "zipformer": {"output_downsampling_factor": 1},
    "heads": {"use_transducer": False, "use_ctc": True},
    "loss": {"use_cr_ctc": True, "cr_loss_scale": 0.15},
    "augment": {"enable_spec_aug": False, "time_mask_ratio": 2.0, "use_volume_perturb": True},
    "trainer": {"exp_dir": "zipformer_crctc/exp"},
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
