#!/usr/bin/env python3
"""Export a transducer Zipformer to ONNX: encoder, decoder and joiner, fp32, fp16 and int8, with tokens.txt.

    python zipformer_transducer/export_onnx.py --exp-dir exp/tiny --fp16 True
    python zipformer_transducer/export_onnx.py --exp-dir exp/t --epoch 20 --avg 5
    python zipformer_transducer/export_onnx.py --exp-dir exp/t --head ctc             # model.onnx, of --use-ctc True
    python zipformer_transducer/export_onnx.py --exp-dir anyspeech/zipa-t-s --out-dir exp/zipa-t

ONNX Runtime and sherpa-onnx run the files as they are. Each is compared with PyTorch on real speech
before it is left behind.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.recipes.export_program import offline_onnx_program
from zipformer_transducer.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(offline_onnx_program(__doc__, RECIPE, DEFAULTS, "transducer"))
