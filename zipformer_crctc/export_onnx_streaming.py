#!/usr/bin/env python3
"""Export a causal CTC Zipformer to streaming ONNX: ctc-*.onnx, with tokens.txt.

    python zipformer_crctc/export_onnx_streaming.py --exp-dir exp/causal --chunk-size 16 --left-context-frames 64

sherpa-onnx's online recognizer runs the files as they are. Each is compared with PyTorch on real speech
before it is left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.recipes.export_program import streaming_onnx_program
from zipformer_crctc.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(streaming_onnx_program(__doc__, RECIPE, DEFAULTS, "ctc"))
