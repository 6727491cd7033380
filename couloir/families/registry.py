"""The table of families. Needs no torch: an implementation is imported by `family` alone, and only from this table."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Mapping
from typing import Any

from couloir.errors import must_be
from couloir.families import zipformer_spec
from couloir.families.base import FamilySpec, ModelFamily

FAMILIES: dict[str, FamilySpec] = {spec.name: spec for spec in (zipformer_spec.ZIPFORMER,)}
DEFAULT = zipformer_spec.ZIPFORMER.name
"""Of configurations and checkpoints that name none: they are older than the second family."""


def spec_of(name: object, origin: str = "the model") -> FamilySpec:
    """The description of a family.

    Args:
        name: of it, perhaps out of a file. origin: what it is the family of, for an error.

    Raises:
        UserError: it is unknown; the known ones are named.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise must_be(origin, f"of a known family ({known()})", f"of the family `{name}`")
    return FAMILIES[name]


def family(name: str) -> ModelFamily:
    """The implementation of a family. Raises `UserError` for an unknown name."""
    return _implementation(spec_of(name).implementation)


@functools.cache
def _implementation(place: str) -> ModelFamily:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def family_of(names: Collection[str], origin: str) -> FamilySpec:
    """The family that a state dict with these names of tensors is of.

    Raises:
        UserError: none of those that are known.
    """
    for spec in FAMILIES.values():
        if spec.owns(names):
            return spec
    raise must_be(f"the weights in {origin}", f"those of a known family ({known()})", "of none of them")


def known() -> str:
    """The families in words."""
    return ", ".join(f"{spec.name}: {spec.about}" for spec in FAMILIES.values())


def family_of_values(values: Mapping[str, Any], origin: str) -> FamilySpec | None:
    """The family of a configuration that was saved as plain values; None for one of another system.

    Raises:
        UserError: it is ours, of a family that is not known here.
    """
    name = values.get("family", DEFAULT)
    if not {"recipe", "trainer"} <= values.keys() and not (isinstance(name, str) and name in FAMILIES):
        return None
    spec = spec_of(name, origin)
    return spec if {*spec.signature} <= values.keys() else None
