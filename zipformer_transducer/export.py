#!/usr/bin/env python3
"""Export a transducer Zipformer for PyTorch: pretrained.pt, model.safetensors and, if wanted, TorchScript.

    python zipformer_transducer/export.py --exp-dir exp/t --jit True
    python zipformer_transducer/export.py --exp-dir exp/t --jit True --chunk-size 16 --left-context-frames 64

Needs --exp-dir alone; without --epoch or --iter the newest checkpoints are averaged.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import one_line_errors
from couloir.export.config import OutputConfig, TorchExportConfig
from couloir.recipes.run_config import make_parser
from couloir.training.config import AveragingConfig
from zipformer_transducer.train import DEFAULTS, RECIPE


@one_line_errors
def main() -> None:
    """Parse the flags, load the averaged model, write the files and check them."""
    parser = make_parser(__doc__ or "", ("text",), AveragingConfig, OutputConfig, TorchExportConfig)
    namespace = parser.parse_args()
    from couloir.recipes.export import export_torch

    export_torch(namespace, RECIPE, DEFAULTS)


if __name__ == "__main__":
    sys.exit(main())
