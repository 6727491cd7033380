"""The one door to a trained model: run directories, checkpoints, folders of other systems, models of the hub.

What the programs of recipes, the Recognizer, fine-tuning and ``couloir info`` load goes through `open_source`, which
reads the configuration that lies with weights, `Opened.read_weights` and `assemble`. Each file is read once. Whose
model it is, its configuration says or the names of its tensors do, see `couloir.families.registry`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from couloir.checkpoint import CheckpointReader, load_weights
from couloir.errors import UserError, must_be
from couloir.families import registry
from couloir.families.base import FamilySpec, ModelFamily, Trained
from couloir.families.saved import config_from_plain, model_config_from_plain
from couloir.inference.backend import Backend
from couloir.inference.registry import HUB_MODELS
from couloir.inference.source import Source
from couloir.inference.tokenizers import find_tokenizer
from couloir.inference.vocabulary import read_vocabulary, tokenizer_files
from couloir.machine import pick_device
from couloir.training.averaging import Averaged, averaged, newest_weights
from couloir.training.config import AveragingConfig
from couloir.training.run_dir import saved_mapping
from couloir.weight_files import CONFIG_FILE


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
    reader: CheckpointReader

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
        found = averaged(self.source.path, averaging, self.reader)
        self._learn_family(found.weights)
        return replace(found, weights=self.family.adapt_weights(found.weights))

    def look_at_weights(self) -> Averaged:
        """Names and shapes of the weights that are taken where nothing else is asked for. Raises as `read_weights`."""
        found = newest_weights(self.source.path, self.reader)
        self._learn_family(found.weights)
        return replace(found, weights=self.family.adapt_weights(found.weights))

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


def open_source(source: Source) -> Opened:
    """Read the configuration of a model. Raises `UserError` for a damaged file, or a family that is not known."""
    reader = CheckpointReader()
    values = saved_mapping(source.path, reader)
    spec = registry.family_of_values(values, str(source.path)) if values else None
    return Opened(source, values if spec else {}, spec, reader)


def assemble(
    opened: Opened, weights: Averaged, config: Any, device: str, saved: Any = None, files: Sequence[Path] = ()
) -> Trained:
    """The model in eval mode on a device, with its front end.

    Args:
        opened: where it comes from. weights: as read. config: what it is built from. device: "auto", "cpu" or "cuda".
        saved: see `Trained`. files: what it depends on beside the weights.

    Raises:
        UserError: weights and configuration do not fit.
    """
    family = opened.family
    model = family.build(config)
    load_weights(model, weights.weights, opened.source.name)
    target = pick_device(device)
    return Trained(
        family=family,
        config=config,
        saved=saved,
        model=model.to(target).eval(),
        front_end=family.front_end(config).to(target),
        device=target,
        origin=f"{opened.source.path} ({weights.suffix})",
        average=weights.suffix,
        files=[*weights.files, *files],
    )


def open_backend(
    source: Source,
    *,
    tokens: Path | None = None,
    device: str = "auto",
    averaging: AveragingConfig | None = None,
    model_type: str | None = None,
    chunk_size: int | None = None,
    left_context_frames: int | None = None,
) -> Backend:
    """A model for the Recognizer.

    Args:
        source: where the weights are. tokens: tokenizer (``bpe.model``, ``tokens.txt`` or a folder); None looks for
            it beside the weights.
        device: "auto", "cpu" or "cuda". averaging: which checkpoints of a folder to average.
        model_type: "ctc" or "transducer" for a model that has both; None prefers CTC.
        chunk_size, left_context_frames: of a causal model, as of `pretrained.open_model`.

    Raises:
        UserError: there is no checkpoint, no tokenizer, or they do not fit each other, or the model cannot have that
            context.
    """
    opened, averaging = open_source(source), averaging or AveragingConfig()
    if source.is_registered:
        tokens, averaging = as_published(source, tokens, averaging)
    weights = opened.read_weights(averaging)
    family = opened.family
    config = family.read_sizes(weights.weights, opened.model_config(), str(source.path))
    if (chunk_size, left_context_frames) != (None, None):
        config = family.with_context(config, chunk_size, left_context_frames)
    kinds = family.kinds(config)
    if model_type and model_type not in kinds:
        raise must_be("--model-type", " or ".join(kinds), f"{model_type}, which {source.path} has no head for")
    if source.is_registered:
        check_published(source, family, config, model_type or kinds[0])
    tokens = find_tokenizer(source.folder, opened.values, tokens)
    vocabulary = read_vocabulary(tokens, family.vocab_size(config), str(source.path))
    files = [*tokenizer_files(tokens), *source.folder.glob(CONFIG_FILE)]
    return family.backend(assemble(opened, weights, config, device, files=files), vocabulary, model_type)


def as_published(source: Source, tokens: Path | None, averaging: AveragingConfig) -> tuple[Path, AveragingConfig]:
    """The tokenizer and the average of a registered model.

    Args:
        source: of it. tokens: a tokenizer to use in place of its own. averaging: as asked for; an average of a certain
            size stays as it is.

    Raises:
        UserError: the tokenizer cannot be fetched.
    """
    from couloir.inference.hub import fetch_tokenizer

    average = HUB_MODELS[source.hub_id].average
    if average and not averaging.avg:
        averaging = replace(averaging, avg=average)
    if tokens is None:
        try:
            tokens = find_tokenizer(source.folder, {}, None)
        except UserError:
            tokens = fetch_tokenizer()
    return tokens, averaging


def check_published(source: Source, family: ModelFamily, config: Any, kind: str) -> None:
    """Refuse weights that are not of the size and ``kind`` that a registered id stands for. Raises `UserError`."""
    known = HUB_MODELS[source.hub_id]
    if family.spec.name != known.family or not family.is_preset(config, known.preset) or kind != known.kind:
        wanted = f"a {known.kind} model of size {known.preset}"
        raise must_be(f"the weights of {source.hub_id}", wanted, "something else")
