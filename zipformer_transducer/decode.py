#!/usr/bin/env python3
"""Decode the test sets with a transducer Zipformer and score them.

    python zipformer_transducer/decode.py --exp-dir exp/t
    python zipformer_transducer/decode.py --exp-dir exp/t --epoch 30 --avg 9 --decoding-method modified_beam_search
    python zipformer_transducer/decode.py --exp-dir exp/t --decoding-method fast_beam_search_nbest_LG --lang-dir data/lg

Needs --exp-dir alone: the model's settings were saved with the run. Without --epoch or --iter the newest
checkpoints are averaged. Writes recogs-*, errs-* and wer-summary-* files under icefall's names, and a report as
text, JSON and one HTML page, into EXP_DIR/METHOD. Graphs and language models are made by local/prepare_lm.py and
train_lm.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.errors import one_line_errors
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.run_config import make_parser
from couloir.training.config import AveragingConfig
from zipformer_transducer.train import DEFAULTS, RECIPE


@one_line_errors
def main() -> None:
    """Parse the flags, load the averaged model, decode and score every test set."""
    parser = make_parser(__doc__ or "", ("data", "text"), AveragingConfig, TransducerSearchConfig, DecodeConfig)
    namespace = parser.parse_args()
    from couloir.recipes.decode import decode_test_sets, transducer_search

    decode_test_sets(namespace, RECIPE, DEFAULTS, transducer_search)


if __name__ == "__main__":
    sys.exit(main())
