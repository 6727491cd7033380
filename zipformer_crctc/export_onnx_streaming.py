#!/usr/bin/env python3
"""Export a causal CTC Zipformer to streaming ONNX: ctc-*.onnx, with tokens.txt.

    python zipformer_crctc/export_onnx_streaming.py --exp-dir exp/causal --chunk-size 16 --left-context-frames 64

sherpa-onnx's online recognizer runs the files as they are. Each is compared with PyTorch before it is left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import one_line_errors
from couloir.export.config import OutputConfig, StreamingOnnxConfig
from couloir.recipes.run_config import make_parser
from couloir.training.config import AveragingConfig
from zipformer_crctc.train import DEFAULTS, RECIPE


@one_line_errors
def main() -> None:
    """Parse the flags, load the averaged model, write the files and check them."""
    parser = make_parser(__doc__ or "", ("text",), AveragingConfig, OutputConfig, StreamingOnnxConfig)
    namespace = parser.parse_args()
    from couloir.recipes.export import export_streaming_onnx

    export_streaming_onnx(namespace, RECIPE, DEFAULTS, "ctc")


if __name__ == "__main__":
    sys.exit(main())
