#!/usr/bin/env python3
"""Decode the test sets with the CTC head of a transducer Zipformer and score them.

    python zipformer_transducer/ctc_decode.py --exp-dir exp/t
    python zipformer_transducer/ctc_decode.py --exp-dir exp/t --epoch 9 --avg 5 --decoding-method ctc-decoding
    python zipformer_transducer/ctc_decode.py --exp-dir exp/t --decoding-method 1best --lang-dir data/lang_lg

Needs --exp-dir alone: the model's settings were saved with the run. Without --epoch or --iter the newest
checkpoints are averaged. Writes recogs-*, errs-* and wer-summary-* files in icefall's format, and a report as
text, JSON and one HTML page, into EXP_DIR/METHOD. The graph and the n-grams are made by
zipformer_transducer/local/prepare_lm.py, which needs no transducer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.recipes.decode_program import ctc_decode_program
from zipformer_transducer.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(ctc_decode_program(__doc__, RECIPE, DEFAULTS))
