"""The one door to a trained model: run directories, checkpoints, folders of other systems, models of the hub.

What the programs of recipes, the Recognizer and fine-tuning load goes through `opening.open_source`, which reads the
configuration that lies with weights, `Opened.read_weights` and `assemble`; ``couloir info`` stops before the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from couloir.checkpoint import load_weights
from couloir.errors import UserError, must_be
from couloir.families.base import ModelFamily, Trained
from couloir.inference.backend import Backend
from couloir.inference.opening import Opened, open_source
from couloir.inference.registry import HUB_MODELS
from couloir.inference.source import Source
from couloir.inference.tokenizers import find_tokenizer
from couloir.inference.vocabulary import read_vocabulary, tokenizer_files
from couloir.machine import pick_device
from couloir.training.averaging import Averaged
from couloir.training.config import AveragingConfig
from couloir.weight_files import CONFIG_FILE


def assemble(opened: Opened, weights: Averaged, config: Any, device: str, files: Sequence[Path] = ()) -> Trained:
    """The model in eval mode on a device, with its front end.

    Args:
        opened: where it comes from. weights: as read. config: what it is built from. device: "auto", "cpu" or "cuda".
        files: what it depends on beside the weights.

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
