#!/usr/bin/env python3
"""Export a CTC Zipformer for PyTorch: pretrained.pt, model.safetensors and, if wanted, TorchScript.

    python zipformer_crctc/export.py --exp-dir exp/tiny --jit True
    python zipformer_crctc/export.py --exp-dir exp/tiny --jit True --chunk-size 16 --left-context-frames 64

Needs --exp-dir alone; without --epoch or --iter the newest checkpoints are averaged. It may be a checkpoint from
elsewhere too, a folder of them, or with --out-dir a model on the hub.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.recipes.export_program import torch_program
from zipformer_crctc.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(torch_program(__doc__, RECIPE, DEFAULTS))
