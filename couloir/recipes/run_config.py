"""One configuration per run: sections of typed fields, laid defaults < preset < YAML < flags, saved with the run.

Torch-free, so that ``train.py --help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couloir.config import (
    TeachingParser,
    add_flags,
    as_plain,
    flag_name,
    from_mapping,
    given_flags,
    option,
    read_yaml,
    write_yaml,
)
from couloir.data.config import DataConfig
from couloir.errors import must_be, unknown_name
from couloir.features.config import AugmentConfig, FbankConfig, check_masks
from couloir.files import may_be_read
from couloir.losses.config import LossConfig, check
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import HEAD_WIDTHS, PER_STACK, PRESETS, ZipformerConfig, check_features
from couloir.optim.config import OptimConfig
from couloir.recipes.foreign_flags import add_foreign_flags, foreign_of, is_foreign, without_effect
from couloir.text.units import AUTO, UNITS
from couloir.training.config import TrainerConfig

# A logger of its own: logging's functions would set up the log, which is for the program to do.
log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
RECIPES = ("zipformer_crctc", "zipformer_transducer")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Text: the tokenizer, and what is done to a transcript before it is tokenised."""

    bpe_model: str = option("data/lang/bpe.model", "sentencepiece model, tokens.txt, or a folder that holds one")
    remove_diacritics: bool = option(False, "remove IPA diacritics from transcripts, as ZIPA's flag of that name does")
    unit: str = option(
        AUTO, "what transcripts are of, and errors are counted in; auto: as the tokenizer says", choices=(AUTO, *UNITS)
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """All of a run's settings. A field of a section is one flag."""

    zipformer: ZipformerConfig = dataclasses.field(default_factory=ZipformerConfig)
    heads: HeadsConfig = dataclasses.field(default_factory=HeadsConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    fbank: FbankConfig = dataclasses.field(default_factory=FbankConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    recipe: str = ""

    def __post_init__(self) -> None:
        check(self.loss, self.augment, self.heads)
        check_features(self.fbank, self.zipformer)
        check_masks(self.augment, self.fbank)


SECTIONS: dict[str, type] = {
    "zipformer": ZipformerConfig,
    "heads": HeadsConfig,
    "loss": LossConfig,
    "augment": AugmentConfig,
    "fbank": FbankConfig,
    "data": DataConfig,
    "text": TextConfig,
    "optim": OptimConfig,
    "trainer": TrainerConfig,
}
# What a checkpoint's weights depend on: a later program may not contradict these. Training draws among chunk sizes.
WEIGHT_BOUND_FIELDS: dict[str, tuple[str, ...]] = {
    "zipformer": tuple(
        f.name for f in dataclasses.fields(ZipformerConfig) if f.name not in ("chunk_size", "left_context_frames")
    ),
    "heads": tuple(f.name for f in dataclasses.fields(HeadsConfig)),
    "fbank": tuple(f.name for f in dataclasses.fields(FbankConfig)),
    "text": ("remove_diacritics",),
}
Overrides = Mapping[str, Mapping[str, Any]]


def make_parser(description: str, sections: Sequence[str] = tuple(SECTIONS), *extra: type) -> argparse.ArgumentParser:
    """A parser with --preset, --config and a flag for every field of the named sections and ``extra`` classes.

    The other sections' flags are accepted too: the field's commands give a run's flags to every program.
    """
    parser = TeachingParser(description=description, usage="%(prog)s [--preset NAME] [--config YAML] [flags]")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="a model of a known size; flags are laid over it")
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings by section, laid under the flags")
    add_flags(parser, *extra, *(SECTIONS[name] for name in sections))
    add_flags(parser, *(cls for name, cls in SECTIONS.items() if name not in sections), hidden=True)
    add_foreign_flags(parser)
    return parser


def build_config(namespace: argparse.Namespace, recipe: str, defaults: Overrides) -> RunConfig:
    """The run's configuration: the recipe's ``defaults`` < --preset (or the file's ``preset``) < --config < flags.

    What is given and has no effect here is named on the log. Raises `UserError` for an unknown key, a value of the
    wrong type, or a contradiction.
    """
    layers = [defaults, *_given_layers(namespace)]
    config = _overlay(None, layers, recipe)
    _warn_ignored(layers)
    return config


def _given_layers(namespace: argparse.Namespace) -> list[Overrides]:
    """What the command line gives: --preset (or the file's ``preset``), then --config, then the flags."""
    layers: list[Overrides] = []
    file = read_yaml(namespace.config) if getattr(namespace, "config", None) else {}
    preset_of_file = file.pop("preset", None)
    preset = getattr(namespace, "preset", None) or preset_of_file
    if preset is not None:
        layers.append(preset_values(preset))
    layers.append(_checked_sections(file, str(getattr(namespace, "config", ""))))
    layers.append({name: given_flags(namespace, cls) for name, cls in SECTIONS.items()})
    layers.append(foreign_of(namespace))
    return layers


def _given_names(layers: Sequence[Overrides], section: str) -> set[str]:
    return {key.replace("-", "_") for layer in layers for key in layer.get(section, {})}


def _warn_ignored(layers: Sequence[Overrides]) -> None:
    for line in without_effect(layers):
        log.warning(line)


def preset_values(name: str) -> Overrides:
    """The settings of a model of a known size. Raises `UserError` for an unknown name."""
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown_name("preset", str(name), sorted(PRESETS))
    # A list of equal numbers is given as one, so that flags may change the number of stacks.
    sizes = {
        key: value[:1] if key in PER_STACK and len(set(value)) == 1 else value
        for key, value in as_plain(PRESETS[name]).items()
    }
    return {"zipformer": sizes, "heads": HEAD_WIDTHS.get(name, {})}


def _checked_sections(values: dict[str, Any], origin: str) -> Overrides:
    for key, section in values.items():
        if key not in SECTIONS and key != "recipe":
            raise unknown_name(f"section in {origin}:", str(key), list(SECTIONS))
        if key != "recipe" and not (isinstance(section, dict) and all(isinstance(name, str) for name in section)):
            raise must_be(f"{origin}: {key}", "a mapping of settings", type(section).__name__)
    return {key: section for key, section in values.items() if key != "recipe"}


def _overlay(base: RunConfig | None, layers: Sequence[Overrides], recipe: str) -> RunConfig:
    sections: dict[str, Any] = {}
    for name, cls in SECTIONS.items():
        merged: dict[str, Any] = {}
        for layer in layers:
            given = {key.replace("-", "_"): value for key, value in layer.get(name, {}).items()}
            merged.update({key: value for key, value in given.items() if not is_foreign(name, key)})
        sections[name] = from_mapping(cls, merged, getattr(base, name) if base else None, origin=f"section `{name}`")
    return RunConfig(recipe=recipe, **sections)


def save_config(config: RunConfig, exp_dir: Path) -> None:
    """Write the resolved configuration into a run directory."""
    write_yaml(exp_dir / CONFIG_FILE, config)


def config_from_plain(values: Mapping[str, Any], origin: str) -> RunConfig:
    """A configuration from the plain values of a config.yaml or of a checkpoint's ``config`` entry."""
    return _overlay(None, [_checked_sections(dict(values), origin)], str(values.get("recipe", "")))


def saved_config(exp_dir: Path) -> RunConfig | None:
    """The configuration saved in a run directory; None where there is none (a foreign checkpoint)."""
    path = exp_dir / CONFIG_FILE
    return config_from_plain(read_yaml(path), str(path)) if path.is_file() else None


def known_recipe(config: RunConfig, exp_dir: Path) -> str:
    """The recipe that a run directory says it is of: a name out of a table. Raises `UserError` for any other."""
    if config.recipe not in RECIPES:
        raise must_be("--exp-dir", f"a run of {' or '.join(RECIPES)}", f"{exp_dir}, of `{config.recipe}`")
    return config.recipe


def lay_over_saved(saved: RunConfig, namespace: argparse.Namespace) -> RunConfig:
    """The saved configuration with a later program's flags (--preset and --config among them) over it.

    Where the saved one says that files are to be written is not taken.

    Raises `UserError`, naming the flag, when one contradicts what the weights were trained with.
    """
    layers = _given_layers(namespace)
    saved = dataclasses.replace(saved, data=dataclasses.replace(saved.data, index_dir=DataConfig.index_dir))
    config = _overlay(saved, layers, saved.recipe)
    for section in WEIGHT_BOUND_FIELDS:
        _refuse_contradiction(saved, config, section, _given_names(layers, section), "leave it out")
    _warn_ignored(layers)
    return config


def unasked_data(config: RunConfig, namespace: argparse.Namespace, folder: Path) -> str:
    """The data's folders where the configuration in ``folder`` alone names them, and outside of what it may name."""
    given = _given_names(_given_layers(namespace), "data")
    named = [] if "manifest_dir" in given else config.data.folders
    named = named + ([] if "mux_manifest_dir" in given else config.data.mux_folders)
    return ",".join(str(path) for path in named if not may_be_read(str(path), folder))


def check_resume_config(saved: RunConfig, config: RunConfig) -> None:
    """Refuse to train a run's weights on as another model, or with other features or texts, than it began with.

    The vocabulary's size is left to those who know the tokenizers. Raises `UserError` naming the flag.
    """
    for section, names in WEIGHT_BOUND_FIELDS.items():
        remedy = f"leave it as it was, or give another folder than {config.trainer.exp_dir} as --exp-dir"
        _refuse_contradiction(saved, config, section, {*names} - {"vocab_size"}, remedy)


def _refuse_contradiction(saved: RunConfig, config: RunConfig, section: str, given: set[str], remedy: str) -> None:
    before, after = as_plain(getattr(saved, section)), as_plain(getattr(config, section))
    for key in WEIGHT_BOUND_FIELDS[section]:
        if key in given and before[key] != after[key]:
            old, new = (
                ",".join(map(str, value)) if isinstance(value, list) else value for value in (before[key], after[key])
            )
            raise must_be(flag_name(key), f"{old} (this run was trained with it)", new, remedy)
