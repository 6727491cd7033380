"""One configuration per run: sections of typed fields, laid defaults < preset < YAML < flags, saved with the run.

Which sections there are, the family of the model says (`couloir.families`). Torch-free, so that ``train.py --help``
answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from couloir.config import (
    TeachingParser,
    add_flags,
    as_plain,
    flag_name,
    given_flags,
    read_yaml,
)
from couloir.data.config import DataConfig
from couloir.errors import must_be, unknown_name
from couloir.families.base import FamilySpec, Overrides, RunConfig, with_sections
from couloir.families.foreign_flags import add_foreign_flags, foreign_of, without_effect
from couloir.families.registry import DEFAULT, FAMILIES, spec_of
from couloir.families.saved import checked_sections, config_from_plain, overlay, save_config, saved_config
from couloir.files import may_be_read

__all__ = [
    "Overrides",
    "RunConfig",
    "build_config",
    "check_resume_config",
    "config_from_plain",
    "lay_over_saved",
    "make_parser",
    "preset_values",
    "save_config",
    "saved_config",
    "unasked_data",
]

# A logger of its own: logging's functions would set up the log, which is for the program to do.
log = logging.getLogger(__name__)
VOCAB_SIZE = ("vocab_size", "vocab-size")


def make_parser(
    description: str, sections: Sequence[str] | None = None, *extra: type, family: str = DEFAULT
) -> argparse.ArgumentParser:
    """A parser with --preset, --config and a flag for every field of the named sections and ``extra`` classes.

    The other sections' flags are accepted too: the field's commands give a run's flags to every program.

    Args:
        description: the program's help text. sections: None for all of the family's. extra: classes of further flags.
        family: whose models the recipe makes.
    """
    spec = spec_of(family)
    shown = spec.sections if sections is None else sections
    parser = TeachingParser(description=description, usage="%(prog)s [--preset NAME] [--config YAML] [flags]")
    parser.add_argument(
        "--preset", choices=sorted(spec.presets), help="a model of a known size; flags are laid over it"
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings by section, laid under the flags")
    add_flags(parser, *extra, *(spec.sections[name] for name in shown))
    add_flags(parser, *(cls for name, cls in spec.sections.items() if name not in shown), hidden=True)
    add_foreign_flags(parser)
    return parser


def build_config(namespace: argparse.Namespace, recipe: str, defaults: Overrides, family: str = DEFAULT) -> Any:
    """The run's configuration: the recipe's ``defaults`` < --preset (or the file's ``preset``) < --config < flags.

    What is given and has no effect here is named on the log. Raises `UserError` for an unknown key, a value of the
    wrong type, or a contradiction.
    """
    spec = spec_of(family)
    layers = [defaults, *_given_layers(namespace, spec)]
    config = overlay(None, layers, spec, recipe)
    _warn_ignored(layers)
    _warn_vocab_size(config, layers)
    return config


def _given_layers(namespace: argparse.Namespace, spec: FamilySpec) -> list[Overrides]:
    """What the command line gives: --preset (or the file's ``preset``), then --config, then the flags."""
    layers: list[Overrides] = []
    origin = str(getattr(namespace, "config", ""))
    file = read_yaml(namespace.config) if getattr(namespace, "config", None) else {}
    preset_of_file = file.pop("preset", None)
    preset = getattr(namespace, "preset", None) or preset_of_file
    if preset is not None:
        layers.append(preset_values(preset, spec))
    if file.get("family", spec.name) != spec.name:
        raise must_be(f"{origin}: family", f"{spec.name}, as of this recipe", f"`{file['family']}`")
    layers.append(checked_sections(file, spec, origin))
    layers.append({name: given_flags(namespace, cls) for name, cls in spec.sections.items()})
    layers.append(foreign_of(namespace))
    return layers


def _given_names(layers: Sequence[Overrides], section: str) -> set[str]:
    return {key.replace("-", "_") for layer in layers for key in layer.get(section, {})}


def _warn_ignored(layers: Sequence[Overrides]) -> None:
    for line in without_effect(layers):
        log.warning(line)


def _warn_vocab_size(config: RunConfig, layers: Sequence[Overrides]) -> None:
    """Name a size of the vocabulary that was given and is not the tokenizer's, which is what counts."""
    place = Path(config.text.bpe_model)
    given = [layer["heads"][key] for layer in layers for key in layer.get("heads", {}) if key in VOCAB_SIZE]
    if not given or not place.exists():
        return
    from couloir.text.tokenizer import load_tokenizer

    tokens = load_tokenizer(place).vocab_size
    if str(tokens) != str(given[-1]):
        log.warning("`--vocab-size %s` has no effect: %s has %d tokens", given[-1], place, tokens)


def preset_values(name: str, spec: FamilySpec = FAMILIES[DEFAULT]) -> Overrides:
    """The settings of a model of a known size. Raises `UserError` for an unknown name."""
    if not isinstance(name, str) or name not in spec.presets:
        raise unknown_name("preset", str(name), sorted(spec.presets))
    return spec.presets[name]


def lay_over_saved(saved: RunConfig, namespace: argparse.Namespace) -> Any:
    """The saved configuration with a later program's flags (--preset and --config among them) over it.

    Where the saved one says that files are to be written is not taken.

    Raises `UserError`, naming the flag, when one contradicts what the weights were trained with.
    """
    spec = spec_of(saved.family)
    layers = _given_layers(namespace, spec)
    saved = with_sections(saved, data=dataclasses.replace(saved.data, index_dir=DataConfig.index_dir))
    config = overlay(saved, layers, spec, saved.recipe)
    for section in spec.weight_bound:
        _refuse_contradiction(saved, config, section, _given_names(layers, section), "leave it out")
    _warn_ignored(layers)
    return config


def unasked_data(config: RunConfig, namespace: argparse.Namespace, folder: Path) -> str:
    """The data's folders where the configuration in ``folder`` alone names them, and outside of what it may name."""
    given = _given_names(_given_layers(namespace, spec_of(config.family)), "data")
    named = [] if "manifest_dir" in given else config.data.folders
    named = named + ([] if "mux_manifest_dir" in given else config.data.mux_folders)
    return ",".join(str(path) for path in named if not may_be_read(str(path), folder))


def check_resume_config(saved: RunConfig, config: RunConfig) -> None:
    """Refuse to train a run's weights on as another model, or with other features or texts, than it began with.

    The vocabulary's size is left to those who know the tokenizers. Raises `UserError` naming the flag.
    """
    if saved.family != config.family:
        remedy = "give another folder"
        found = f"{config.trainer.exp_dir}, of {saved.family}"
        raise must_be("--exp-dir", f"a run of the family {config.family}", found, remedy)
    for section, names in spec_of(config.family).weight_bound.items():
        remedy = f"leave it as it was, or give another folder than {config.trainer.exp_dir} as --exp-dir"
        _refuse_contradiction(saved, config, section, {*names} - {"vocab_size"}, remedy)


def _refuse_contradiction(saved: RunConfig, config: RunConfig, section: str, given: set[str], remedy: str) -> None:
    before, after = as_plain(getattr(saved, section)), as_plain(getattr(config, section))
    for key in spec_of(config.family).weight_bound[section]:
        if key in given and before[key] != after[key]:
            old, new = (
                ",".join(map(str, value)) if isinstance(value, list) else value for value in (before[key], after[key])
            )
            raise must_be(flag_name(key), f"{old} (this run was trained with it)", new, remedy)
