#!/usr/bin/env python3
"""Export a CTC Zipformer to ONNX: model.onnx, .int8.onnx and .fp16.onnx, with tokens.txt.

    python zipformer_crctc/export_onnx.py --exp-dir exp/tiny --fp16 True
    python zipformer_crctc/export_onnx.py --exp-dir exp/tiny --with-frontend True     # audio-model.onnx
    python zipformer_crctc/export_onnx.py --exp-dir anyspeech/zipa-small-crctc-300k --out-dir exp/zipa
    python zipformer_crctc/export_onnx.py --exp-dir downloads/zipa.pth --tokens downloads/tokens.txt

ONNX Runtime and sherpa-onnx run the files as they are. Each is compared with PyTorch on real speech
before it is left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.recipes.export_program import offline_onnx_program
from zipformer_crctc.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(offline_onnx_program(__doc__, RECIPE, DEFAULTS, "ctc"))
