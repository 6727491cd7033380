#!/usr/bin/env python3
"""Make the decoding graph LG and the n-grams that decode.py reads from --lang-dir, from a text and a lexicon.

    python zipformer_transducer/local/prepare_lm.py --lm-text data/text --bpe-model data/lang/bpe.model \\
        --lang-dir data/lang_lg
    python zipformer_transducer/decode.py --exp-dir exp/t --decoding-method fast_beam_search_LG --lang-dir data/lang_lg

Without --lexicon a word is spelt as the tokenizer does, which for phones needs a text that is written in them. Of an
n-gram that is there already, --arpa 4gram.arpa.gz --lexicon lexicon.txt makes LG of the 3-grams and keeps the whole for
rescoring; --lm-text may then be left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.errors import one_line_errors
from couloir.recipes.lm_config import GraphConfig


@one_line_errors
def main() -> None:
    """Parse the flags and write the files."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, GraphConfig)
    config = from_mapping(GraphConfig, given_flags(parser.parse_args(), GraphConfig))

    from couloir.recipes.lm import prepare_graphs

    prepare_graphs(config)


if __name__ == "__main__":
    sys.exit(main())
