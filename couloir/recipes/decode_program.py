"""The CTC decoding programs of all recipes. Imports nothing heavy, so ``--help`` answers at once."""

from __future__ import annotations

from couloir.decoding.ctc_config import CtcSearchConfig
from couloir.errors import one_line_errors
from couloir.families.registry import DEFAULT
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.run_config import Overrides, make_parser
from couloir.training.config import AveragingConfig


@one_line_errors
def ctc_decode_program(
    doc: str | None, recipe: str, defaults: Overrides, family: str = DEFAULT, zipa_names: bool = False
) -> None:
    """``ctc_decode.py``: load the averaged model, decode every test set with its CTC head and score it.

    Args:
        doc: the program's help text. recipe: whose runs it decodes. defaults: of the recipe, for foreign checkpoints.
        family: whose models the recipe makes. zipa_names: result files are called as ZIPA's.
    """
    parser = make_parser(doc or "", ("data", "text"), AveragingConfig, CtcSearchConfig, DecodeConfig, family=family)
    namespace = parser.parse_args()
    from couloir.recipes.decode import ctc_search, decode_test_sets

    decode_test_sets(namespace, recipe, defaults, ctc_search, family, zipa_names)
