"""Configurations as they are saved: a config.yaml, or the entry ``config`` of a checkpoint. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couloir.config import from_mapping, read_yaml, write_yaml
from couloir.errors import must_be, unknown_name
from couloir.families.base import FamilySpec, Overrides, RunConfig
from couloir.families.foreign_flags import is_foreign
from couloir.families.registry import DEFAULT, spec_of
from couloir.weight_files import CONFIG_FILE

NO_SECTIONS = ("recipe", "family")


def checked_sections(values: Mapping[str, Any], spec: FamilySpec, origin: str) -> Overrides:
    """The sections of a configuration in plain values. Raises `UserError` for one that the family does not have."""
    for key, section in values.items():
        if key in NO_SECTIONS:
            continue
        if key not in spec.sections:
            raise unknown_name(f"section in {origin}:", str(key), list(spec.sections))
        if not (isinstance(section, dict) and all(isinstance(name, str) for name in section)):
            raise must_be(f"{origin}: {key}", "a mapping of settings", type(section).__name__)
    return {key: section for key, section in values.items() if key not in NO_SECTIONS}


def overlay(base: RunConfig | None, layers: Sequence[Overrides], spec: FamilySpec, recipe: str) -> Any:
    """The family's configuration of settings by section laid one over another, all over ``base`` or the defaults.

    Raises `UserError` for an unknown key, a value of the wrong type, or a contradiction.
    """
    sections: dict[str, Any] = {}
    for name, cls in spec.sections.items():
        merged: dict[str, Any] = {}
        for layer in layers:
            given = {key.replace("-", "_"): value for key, value in layer.get(name, {}).items()}
            merged.update({key: value for key, value in given.items() if not is_foreign(name, key)})
        sections[name] = from_mapping(cls, merged, getattr(base, name) if base else None, origin=f"section `{name}`")
    return spec.config(recipe=recipe, family=spec.name, **sections)


def config_from_plain(values: Mapping[str, Any], origin: str) -> Any:
    """A configuration from the plain values of a config.yaml or of a checkpoint's ``config`` entry.

    Raises `UserError` as `overlay`, and for a family that is not known.
    """
    spec = spec_of(values.get("family", DEFAULT), origin)
    return overlay(None, [checked_sections(values, spec, origin)], spec, str(values.get("recipe", "")))


def model_config_from_plain(values: Mapping[str, Any], spec: FamilySpec, origin: str) -> Any:
    """The same with the sections of the model alone: what else the values hold is not looked at."""
    model = {name: values[name] for name in spec.model_sections if name in values}
    return overlay(None, [checked_sections(model, spec, origin)], spec, str(values.get("recipe", "")))


def saved_config(exp_dir: Path) -> Any | None:
    """The configuration saved in a run directory; None where there is none (a foreign checkpoint)."""
    path = exp_dir / CONFIG_FILE
    return config_from_plain(read_yaml(path), str(path)) if path.is_file() else None


def save_config(config: RunConfig, exp_dir: Path) -> None:
    """Write the resolved configuration into a run directory."""
    write_yaml(exp_dir / CONFIG_FILE, config)


def with_unbound_of(config: Any, other: Any, spec: FamilySpec) -> Any:
    """``config`` with the settings of another that no weights depend on, such as a causal model's context."""
    changed = {}
    for section in spec.weight_bound:
        if section in spec.model_sections and (names := spec.unbound_fields(section)):
            theirs = {name: getattr(getattr(other, section), name) for name in names}
            changed[section] = dataclasses.replace(getattr(config, section), **theirs)
    return dataclasses.replace(config, **changed)
