"""The export programs of all recipes: flags in, files out. Imports nothing heavy, so ``--help`` answers at once."""

from __future__ import annotations

from couloir.errors import one_line_errors
from couloir.export.config import OFFLINE_ONNX, STREAMING_ONNX, OutputConfig, TorchExportConfig
from couloir.families.registry import DEFAULT
from couloir.recipes.run_config import Overrides, make_parser
from couloir.training.config import AveragingConfig


@one_line_errors
def torch_program(doc: str | None, recipe: str, defaults: Overrides, family: str = DEFAULT) -> None:
    """``export.py``: pretrained.pt, model.safetensors and, if wanted, TorchScript.

    Args:
        doc: the program's help text. recipe: whose runs it exports. defaults: of the recipe, for foreign checkpoints.
        family: whose models the recipe makes.
    """
    namespace = make_parser(
        doc or "", ("text",), AveragingConfig, OutputConfig, TorchExportConfig, family=family
    ).parse_args()
    from couloir.recipes.export import export_torch

    export_torch(namespace, recipe, defaults, family)


@one_line_errors
def offline_onnx_program(doc: str | None, recipe: str, defaults: Overrides, kind: str, family: str = DEFAULT) -> None:
    """``export_onnx.py`` of a recipe whose ``kind`` is "ctc" or "transducer". Other arguments: see `torch_program`."""
    namespace = make_parser(
        doc or "", ("text",), AveragingConfig, OutputConfig, OFFLINE_ONNX[kind], family=family
    ).parse_args()
    from couloir.recipes.export import export_offline_onnx

    export_offline_onnx(namespace, recipe, defaults, kind, family)


@one_line_errors
def streaming_onnx_program(doc: str | None, recipe: str, defaults: Overrides, kind: str, family: str = DEFAULT) -> None:
    """``export_onnx_streaming.py``. Arguments: see `offline_onnx_program`."""
    namespace = make_parser(
        doc or "", ("text",), AveragingConfig, OutputConfig, STREAMING_ONNX[kind], family=family
    ).parse_args()
    from couloir.recipes.export import export_streaming_onnx

    export_streaming_onnx(namespace, recipe, defaults, kind, family)
