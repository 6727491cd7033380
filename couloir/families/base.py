"""What a family of models is: a description that needs no torch, and what the programs ask of its implementation.

A family is a folder ``couloir/models/NAME/``, a description (`FamilySpec`) in the table of `couloir.families.registry`,
and one module that joins its parts to the programs (`ModelFamily`). There is no base class with defaults: what
families share are functions.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from couloir.config import hints
from couloir.data.config import DataConfig
from couloir.text.config import TextConfig
from couloir.training.config import TrainerConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from couloir.export.parts import ExportPart, ScriptedPart
    from couloir.features.front_end import FrontEnd
    from couloir.inference.backend import Backend
    from couloir.inference.vocabulary import Vocabulary
    from couloir.training.objective import Objective

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings by section."""
SHARED_SECTIONS = ("data", "text", "optim", "trainer")
"""Sections of a run that say nothing of the model itself."""


class RunConfig(Protocol):
    """All of a run's settings: a frozen dataclass of each family's own, whose sections are dataclasses of flags."""

    @property
    def data(self) -> DataConfig:
        """What is trained on."""
        ...

    @property
    def text(self) -> TextConfig:
        """The tokenizer."""
        ...

    @property
    def optim(self) -> Any:
        """The family's optimizer and schedule."""
        ...

    @property
    def trainer(self) -> TrainerConfig:
        """How long, where to."""
        ...

    @property
    def recipe(self) -> str:
        """The folder of the programs that it was made with."""
        ...

    @property
    def family(self) -> str:
        """Whose model it is, a name of the registry."""
        ...


C = TypeVar("C", bound=RunConfig)


def with_sections(config: C, **sections: Any) -> C:
    """The configuration with other sections. Raises `UserError` where they contradict each other."""
    return dataclasses.replace(config, **sections)  # type: ignore[type-var]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@dataclasses.dataclass(frozen=True)
class FamilySpec:
    """What is known of a family without its code.

    Attributes:
        name: "zipformer"; the entry ``family`` of config.yaml and of checkpoints.
        about: what it is called in a message.
        config: its `RunConfig`, which refuses contradictions when it is made.
        signature: the sections that every configuration of it has, by which one without a ``family`` is recognised.
        presets: models of known sizes, by name.
        weight_bound: section -> the fields that a checkpoint's weights depend on: a later program may not contradict
            these. Sections of the model that have fields beside them may be changed there.
        units: what its models may be trained to write ("phone", "word", "char"); the first is the default.
        implementation: "module:name" of its `ModelFamily`, which `registry.family` imports.
        owns: whether a state dict with these names is of this family.
        facts: what ``couloir info`` says of a model: "heads", "size", "vocabulary", and what else it likes. Of the
            weights' names and shapes (under the file's names), what was saved with them, if it is ours, and their
            origin. Raises `UserError` for what is no whole model.
    """

    name: str
    about: str
    config: type[Any]
    signature: tuple[str, ...]
    presets: Mapping[str, Overrides]
    weight_bound: Mapping[str, tuple[str, ...]]
    units: tuple[str, ...]
    implementation: str
    owns: Callable[[Collection[str]], bool]
    facts: Callable[[Mapping[str, Any], Any, str], dict[str, str]]

    @functools.cached_property
    def sections(self) -> dict[str, type]:
        """Section -> its class, in the order of ``--help`` and config.yaml."""
        return {name: kind for name, kind in hints(self.config).items() if _is_section(kind)}

    @property
    def model_sections(self) -> dict[str, type]:
        """The sections that are not shared by all families."""
        return {name: cls for name, cls in self.sections.items() if name not in SHARED_SECTIONS}

    def unbound_fields(self, section: str) -> list[str]:
        """Fields of a weight-bound section that weights do not depend on, such as the context of a causal model."""
        names = [field.name for field in dataclasses.fields(self.sections[section])]
        return [name for name in names if name not in self.weight_bound[section]]


class Scheduler(Protocol):
    """A learning rate schedule by batches and epochs."""

    def step_batch(self, batch: float) -> None:
        """Where the run is in batches."""

    def step_epoch(self, epoch: int) -> None:
        """Where the run is in epochs, from 0."""

    def last_lr(self) -> float:
        """The learning rate of the last step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""


@dataclasses.dataclass
class Trained:
    """A trained model with what belongs to it, as `couloir.inference.loading` gives it out.

    Attributes:
        family: whose it is. config: what it was built from. model: in eval mode, on ``device``. front_end: on the same.
        origin: where it came from, for messages. files: what it depends on. average: which weights of the files.
    """

    family: ModelFamily
    config: Any
    model: nn.Module
    front_end: FrontEnd
    device: torch.device
    origin: str
    average: str
    files: list[Path]


class ModelFamily(Protocol):
    """The code of a family. ``config`` is the family's own `RunConfig` everywhere.

    Attributes:
        spec: its description. per_token: names of the tensors that have a row per vocabulary entry.
    """

    spec: FamilySpec
    per_token: re.Pattern[str]

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign names of tensors -> ours."""

    def sizes(self, weights: Mapping[str, Tensor], said: Any, typed: Collection[str], origin: str) -> Any:
        """The configuration brought to the sizes that weights have.

        Args:
            weights: a state dict. said: what defaults and flags say. typed: fields that a person gave.
            origin: what to call the weights in an error.

        Raises:
            UserError: a typed field contradicts the weights.
        """

    def read_sizes(self, weights: Mapping[str, Tensor], saved: Any | None, origin: str) -> Any:
        """The configuration of weights for inference: what was saved with them, else all read off them."""

    def sizes_to_start_from(
        self,
        weights: Mapping[str, Tensor],
        config: Any,
        former: Any | None,
        typed: Collection[str],
        modules: Collection[str],
        origin: str,
    ) -> Any:
        """The configuration of a new run that begins with ``modules`` (empty: all) of a checkpoint's weights.

        Args:
            weights: of the checkpoint. config: what defaults, preset and flags say. former: what was saved with it, if
                it is ours. typed: fields given as flags. modules: names of parts. origin: the checkpoint.
        """

    def sized_as(self, config: Any, other: Any, typed: Collection[str]) -> Any:
        """``config`` with another run's model, but for the fields that were typed."""

    def vocab_size(self, config: Any) -> int:
        """Entries of the vocabulary."""

    def with_vocab_size(self, config: Any, size: int) -> Any:
        """The configuration for a vocabulary of another size."""

    def kinds(self, config: Any) -> tuple[str, ...]:
        """What the model can be searched as ("ctc", "transducer"), the preferred one first."""

    def is_preset(self, config: Any, name: str) -> bool:
        """Whether the model takes the weights of a preset's."""

    def build(self, config: Any) -> nn.Module:
        """A freshly initialised model."""

    def check_tokenizer(self, config: Any, pieces: list[str]) -> None:
        """Refuse to train with a vocabulary that the model cannot be trained with. Raises `UserError`."""

    def front_end(self, config: Any) -> FrontEnd:
        """Its features, the same in training, decoding and inference."""

    def objective(self, model: nn.Module, front_end: FrontEnd, config: Any) -> Objective:
        """The training loss."""

    def optimizer(self, model: nn.Module, config: Any) -> tuple[torch.optim.Optimizer, Scheduler]:
        """What trains the model, with its learning rate schedule, by the section ``optim``."""

    def output_frames(self, config: Any, num_samples: int) -> int:
        """Frames of the encoder's output for that many samples; below 1 where they are too few for its front end."""

    def reason_to_skip(self, config: Any, tokens: list[int], num_samples: int) -> str | None:
        """Why an utterance cannot be trained on; None where it can."""

    def with_context(self, config: Any, chunk_size: int | None, left_context_frames: int | None) -> Any:
        """The model with one context of streaming. Raises `UserError` where it cannot have that."""

    def backend(self, trained: Trained, vocabulary: Vocabulary, kind: str | None) -> Backend:
        """What the Recognizer asks."""

    def export_parts(self, model: nn.Module, kind: str = "", streaming: bool = False) -> list[ExportPart]:
        """The files of a model.

        Args:
            model: to export. kind: one of `kinds`; "" leaves it to the family. streaming: in chunks.

        Raises:
            UserError: there are none of that kind.
        """
        ...

    def scripted_part(self, model: nn.Module) -> ScriptedPart:
        """A whole model as one TorchScript file. Raises `UserError` where there is none."""
        ...

    def check_full_context(self, config: Any, given: Collection[str], remedy: str) -> None:
        """Refuse a context that was asked for where files take whole recordings.

        Args:
            config: with the flags. given: names of the fields that were typed. remedy: what to do instead.

        Raises:
            UserError: a model of limited context was asked for.
        """
