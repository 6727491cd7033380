"""The first half of the one door to trained models: what a model is, before its weights are read. Needs no torch.

Each file is read once. Whose model it is, its configuration says or the names of its tensors do, see
`couloir.families.registry`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from couloir.errors import must_be
from couloir.families import registry
from couloir.families.base import FamilySpec, ModelFamily
from couloir.families.saved import config_from_plain, model_config_from_plain
from couloir.inference.source import Source
from couloir.training.config import AveragingConfig
from couloir.training.span import Reader, look_at_newest
from couloir.weight_files import saved_mapping

if TYPE_CHECKING:
    from couloir.training.averaging import Averaged


@dataclass
class Opened:
    """A model whose configuration was read and whose weights were not yet.

    Attributes:
        source: where it is. values: the configuration that was saved with it, in plain values; empty for another
            system's. spec: of its family; None until the weights tell. reader: of its files.
    """

    source: Source
    values: Mapping[str, Any]
    spec: FamilySpec | None
    reader: Any

    @property
    def family(self) -> ModelFamily:
        """Its family, which for weights of another system is known when they were read."""
        assert self.spec is not None
        return registry.family(self.spec.name)

    def config(self) -> Any | None:
        """All of what was saved; None for another system's. Raises `UserError` as `config_from_plain`."""
        return config_from_plain(self.values, str(self.source.path)) if self.values else None

    def model_config(self) -> Any | None:
        """The same, but what does not concern the model is at its defaults, whatever the saved values are."""
        if not self.values:
            return None
        assert self.spec is not None
        return model_config_from_plain(self.values, self.spec, str(self.source.path))

    def read_weights(self, averaging: AveragingConfig) -> Averaged:
        """The weights that are asked for, under our names.

        Raises:
            UserError: as `averaged`; they are of no known family, or of another than the configuration says.
        """
        from couloir.training.averaging import averaged

        found = averaged(self.source.path, averaging, self.reader)
        self._learn_family(found.weights)
        return replace(found, weights=self.family.adapt_weights(found.weights))

    def look_at_weights(self) -> tuple[Mapping[str, Any], str]:
        """Names and shapes of the weights that are taken where nothing else is asked for, and their suffix.

        The names are those of the file. Raises as `read_weights`.
        """
        found, suffix = look_at_newest(self.source.path, self.reader)
        self._learn_family(found)
        return found, suffix

    def _learn_family(self, names: Collection[str]) -> None:
        if self.spec is None:
            self.spec = registry.family_of(names, self.source.name)
        other = next((spec for spec in registry.FAMILIES.values() if spec.owns(names)), self.spec)
        if other is not self.spec:
            found = f"those of a {other.about}"
            raise must_be(f"the weights in {self.source.name}", f"of its family {self.spec.name}", found)

    def refuse_other_family(self, name: str, flag: str = "--exp-dir") -> None:
        """Refuse a model of another family than a program is for. Raises `UserError`."""
        if self.spec is not None and self.spec.name != name:
            wanted = f"a model of the family {name}"
            raise must_be(flag, wanted, f"{self.source.name}, a model of the family {self.spec.name}")


def open_source(source: Source, reader: Reader | None = None) -> Opened:
    """Read the configuration of a model.

    Args:
        source: where it is. reader: of its files; None for one that weights can be read by.

    Raises:
        UserError: a damaged file, or a family that is not known.
    """
    if reader is None:
        from couloir.checkpoint import CheckpointReader

        reader = CheckpointReader()
    values = saved_mapping(source.path, reader.look)
    spec = registry.family_of_values(values, str(source.path)) if values else None
    return Opened(source, values if spec else {}, spec, reader)
