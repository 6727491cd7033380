#!/usr/bin/env python3
"""Train the neural language model that decoding can use, over the tokens of the acoustic model.

    python zipformer_transducer/train_lm.py --lm-text data/text --bpe-model data/lang/bpe.model --lm-exp-dir exp/lm
    python zipformer_transducer/decode.py --exp-dir exp/t --decoding-method modified_beam_search_lm_shallow_fusion \\
        --lm-exp-dir exp/lm

Sizes have decode.py's flags (--rnn-lm-hidden-dim, --transformer-lm-num-layers, ...); decode.py reads them off the
checkpoint, with the tokens that it was trained on. The same command goes on where a run was stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags, option
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.errors import one_line_errors
from couloir.progress import log_to_screen
from couloir.recipes.lm_config import LmTrainConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig(LmTrainConfig):
    """Training of a neural language model over tokens."""

    lm_exp_dir: str = option("zipformer_transducer/exp_lm", "where epoch-N.pt go")


@one_line_errors
def main() -> None:
    """Parse the flags and train."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, TrainConfig)
    add_flags(parser, NeuralLmConfig, hidden=True)
    namespace = parser.parse_args()
    config = from_mapping(TrainConfig, given_flags(namespace, LmTrainConfig))
    sizes = from_mapping(NeuralLmConfig, given_flags(namespace, NeuralLmConfig))

    from couloir.recipes.lm import train_neural_lm

    log_to_screen()
    print(f"validation perplexity {min(train_neural_lm(config, sizes)):.2f}, in {config.lm_exp_dir}")


if __name__ == "__main__":
    sys.exit(main())
