"""What ``--exp-dir`` names: a run directory, a folder of foreign checkpoints, one file, or a model on the hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from couloir.errors import UserError, must_be
from couloir.files import may_be_read
from couloir.inference.checkpoints import find_tokenizer
from couloir.inference.pretrained import locate
from couloir.inference.registry import HUB_MODELS
from couloir.recipes.run_config import RunConfig, config_from_plain
from couloir.training.run_dir import saved_values

KEPT_TOKENIZER = "lang"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights are.

    Attributes:
        path: folder or file. hub_id: of a model on the hub, without its revision; "" for any other.
    """

    path: Path
    hub_id: str = ""

    @property
    def folder(self) -> Path:
        """The path itself, or that of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_registered(self) -> bool:
        """Whether it is a published model whose size, tokenizer and average are known."""
        return self.hub_id in HUB_MODELS

    def saved(self) -> RunConfig | None:
        """The configuration that was saved with the weights; None for those of another system."""
        values = saved_values(self.path)
        return config_from_plain(values, str(self.path)) if values else None


def find_source(name: str, hub: bool) -> Source:
    """What ``--exp-dir`` names; with ``hub`` it may be a hub id, which is fetched. Raises `UserError`."""
    if Path(name).exists():
        return Source(Path(name))
    if not hub:
        raise UserError(f"`--exp-dir` must be a run directory or a checkpoint, but {name} does not exist")
    try:
        return Source(*locate(name, runtime="torch"))
    except UserError as error:
        raise UserError(f"`--exp-dir` names no folder or file here: {error}") from None


def refuse_other_kind(source: Source, kind: str) -> None:
    """Refuse a published model of another kind than the program's ("ctc" or "transducer"). Raises `UserError`."""
    if source.is_registered and HUB_MODELS[source.hub_id].kind != kind:
        other = HUB_MODELS[source.hub_id].kind
        program = {"ctc": "zipformer_crctc", "transducer": "zipformer_transducer"}[other]
        raise must_be("--exp-dir", f"a {kind} model here", f"{source.hub_id}, a {other} model", f"see {program}/")


def tokenizer_of(source: Source, config: RunConfig, foreign: bool) -> Path:
    """The tokenizer of weights, when none was given.

    Args:
        source: of the weights. config: of the run. foreign: whether the weights came without a configuration.

    Raises:
        UserError: there is none.
    """
    path, kept = Path(config.text.bpe_model), source.folder / KEPT_TOKENIZER
    there = path.exists() and (foreign or may_be_read(str(path), source.folder))
    if not foreign and there and not kept.is_dir():
        return path
    # What training left in the run directory, under its own name where that folder holds several.
    if (kept / path.name).is_file():
        return kept / path.name
    try:
        return find_tokenizer(source.folder, {}, None)
    except UserError:
        if there:
            return path
        raise UserError(f"no tokenizer was found beside {source.path}; name its bpe.model with --bpe-model") from None
