"""Settings as entries of a file's metadata, and back. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from couloir.config import from_mapping

T = TypeVar("T")
FRONT_END_KEY = "front_end"
"""The entry that names a front end."""


def unusual_fields(config: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a configuration that are not at their defaults: name -> value."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in left_out}
    return {f.name: values[f.name] for f in fields(config) if f.name in values and values[f.name] != f.default}


def as_entries(name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """A front end's name, and the settings with it in front of theirs."""
    return {FRONT_END_KEY: name} | {f"{name}_{key}": str(value) for key, value in settings.items()}


def prefixed(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The entries whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}


def from_entries(cls: type[T], settings: Mapping[str, str], origin: str) -> T:
    """A configuration of these settings in the metadata of ``origin``. Raises `UserError` for what it does not have."""
    return from_mapping(cls, settings, origin=f"the metadata of {origin}")
