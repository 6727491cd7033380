"""Every number that a flag takes has its unit in --help, unless it has none."""

import dataclasses
import re

import pytest

from couloir.config import hints
from couloir.data.corpora import config as corpora
from couloir.families.registry import FAMILIES
from couloir.training.config import AveragingConfig

CLASSES = [*(cls for spec in FAMILIES.values() for cls in spec.sections.values()), AveragingConfig]
CLASSES += [cls for name, cls in vars(corpora).items() if name.endswith("Config") and dataclasses.is_dataclass(cls)]
# Shares, factors, probabilities, and numbers that name something.
WITHOUT = re.compile(
    r"scale|share|prob|ratio|factors?$|fraction|seed|perturb_range|threshold|_id$|port$|decay|lr$|warmup_start|epoch$"
    r"|^iter$|^preemph|^energy_floor"
)


def is_number(kind):
    return bool(re.search(r"\b(int|float)\b", str(kind)))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_numbers_have_units(cls):
    kinds = hints(cls)
    lacking = [
        field.name
        for field in dataclasses.fields(cls)
        if is_number(kinds[field.name]) and not field.metadata.get("unit") and not WITHOUT.search(field.name)
    ]
    assert not lacking
