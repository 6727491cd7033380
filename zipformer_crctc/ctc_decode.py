#!/usr/bin/env python3
"""Decode the test sets with a CTC Zipformer and score them.

    python zipformer_crctc/ctc_decode.py --exp-dir exp/tiny
    python zipformer_crctc/ctc_decode.py --exp-dir exp/tiny --epoch 20 --avg 5 --decoding-method ctc-prefix-beam-search
    python zipformer_crctc/ctc_decode.py --exp-dir exp/tiny --decoding-method 1best --lang-dir data/lang_lg

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
from zipformer_crctc.train import DEFAULTS, RECIPE

if __name__ == "__main__":
    sys.exit(ctc_decode_program(__doc__, RECIPE, DEFAULTS, zipa_names=True))
