"""From a configuration, or from a run directory, to live objects: tokenizer, model, data."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import torch

from couloir.checkpoint import load_weights
from couloir.config import Ints
from couloir.data.module import DataModule
from couloir.errors import must_be
from couloir.features.front_end import FrontEnd, make_front_end
from couloir.files import atomic_path
from couloir.inference.pretrained import as_published, check_size
from couloir.machine import pick_device
from couloir.models.zipformer.architecture import adapted
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import AsrModel, build_model, num_subsampled_frames
from couloir.recipes.run_config import (
    Overrides,
    RunConfig,
    TextConfig,
    build_config,
    lay_over_saved,
    unasked_data,
)
from couloir.recipes.source import KEPT_TOKENIZER, find_source, refuse_other_kind, tokenizer_of
from couloir.text.ipa import remove_diacritics
from couloir.text.tokenizer import Tokenizer, first_other, load_tokenizer
from couloir.text.units import AUTO, PHONE, UNIT_FILE, Unit, unit_beside, unit_named, unit_of
from couloir.training.averaging import load_averaged
from couloir.training.config import AveragingConfig


def build_fbank(config: RunConfig) -> FrontEnd:
    """The one feature extractor of training, decoding and inference."""
    return make_front_end(config.fbank)


def with_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The configuration with the tokenizer's vocabulary size, as it is saved with the run."""
    return dataclasses.replace(config, heads=dataclasses.replace(config.heads, vocab_size=tokenizer.vocab_size))


def with_unit(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The configuration with the unit of the transcripts, as it is saved with the run.

    Raises:
        UserError: the tokenizer is of another unit than was asked for.
    """
    origin, asked = Path(config.text.bpe_model), config.text.unit
    said = unit_beside(origin) or (PHONE if tokenizer.is_ipa else None)
    if said and asked not in (AUTO, said.name):
        raise must_be("--unit", f"{said.name} or {AUTO}", asked, f"the texts of {origin} are {said.plural}")
    unit = said or unit_of(tokenizer.spelling())
    text = dataclasses.replace(config.text, unit=unit.name if asked == AUTO else asked)
    return dataclasses.replace(config, text=text)


def scored_in(config: RunConfig, tokenizer: Tokenizer) -> Unit:
    """The unit in which a run's errors are counted: what a flag says, or the run, or its tokenizer."""
    own = PHONE if tokenizer.is_ipa else unit_of(tokenizer.spelling())
    asked = config.text.unit
    return own if asked in (AUTO, own.name) else unit_named(asked)


def build_data(config: RunConfig, tokenizer: Tokenizer | None) -> DataModule:
    """The data module of --manifest-dir, which leaves out of training what is too long for the model's output."""
    return DataModule(
        config.data,
        tokenizer,
        config.trainer.seed,
        num_output_frames=functools.partial(output_frames, config),
        text_transform=remove_diacritics if config.text.remove_diacritics else None,
    )


def output_frames(config: RunConfig, num_samples: int) -> int:
    """Frames of the encoder's output for so many samples; below 1 where they are too few for its front end."""
    feature_frames = torch.tensor(config.fbank.num_frames(num_samples))
    return int(num_subsampled_frames(feature_frames, config.zipformer))


def keep_tokenizer(config: RunConfig) -> None:
    """Copy the tokenizer into the run directory, so that decoding does not depend on where it came from.

    Raises:
        OSError: it cannot be written, on a full disk for one.
    """
    source, kept = Path(config.text.bpe_model), config.trainer.exp_dir / KEPT_TOKENIZER
    files = [source, source.with_name(UNIT_FILE)] if source.is_file() else sorted(source.iterdir())
    files = [path for path in files if path.suffix in (".model", ".txt") and path.is_file()]
    if files[0].parent.resolve() == kept.resolve():
        return
    for path in files:
        with atomic_path(kept / path.name) as target:
            shutil.copyfile(path, target)
    # Of a run that was begun with another tokenizer and saved nothing.
    for path in {*kept.iterdir()} - {kept / path.name for path in files}:
        path.unlink()


def check_vocabulary(tokenizer: Tokenizer, origin: str, exp_dir: Path) -> None:
    """Refuse a tokenizer whose tokens are not those that a run was trained with, which its directory keeps.

    Args:
        tokenizer: the one from ``origin``. exp_dir: the run's directory; in one that keeps none all are right.

    Raises:
        UserError: another number of tokens, or another token in some place.
    """
    kept = exp_dir / KEPT_TOKENIZER
    if not kept.is_dir():
        return
    ours, former = tokenizer.pieces, load_tokenizer(kept).pieces
    place = first_other(ours, former)
    if len(ours) != len(former):
        found = f"which has {len(ours)} tokens, not {len(former)}"
    elif place is not None:
        found = f"whose token {place} is `{ours[place]}`, not `{former[place]}`"
    else:
        return
    expected = f"the tokenizer that {exp_dir} was trained with, as {kept} is"
    raise must_be("--bpe-model", expected, f"{origin}, {found}", "give that one, or another --exp-dir")


@dataclasses.dataclass
class LoadedRun:
    """A trained model with what belongs to it.

    Attributes:
        exp_dir: the folder of its weights. config: with what the flags ask for laid over what was saved.
        unasked_data: see `run_config.unasked_data`. trained_context: chunk sizes and left contexts of training.
    """

    exp_dir: Path
    config: RunConfig
    model: AsrModel
    tokenizer: Tokenizer
    fbank: FrontEnd
    suffix: str
    device: torch.device
    unasked_data: str = ""
    trained_context: tuple[Ints, Ints] = ZipformerConfig.chunk_size, ZipformerConfig.left_context_frames

    def as_trained(self) -> RunConfig:
        """The configuration with the contexts of training in place of the one that was asked for here."""
        chunks, lefts = self.trained_context
        zipformer = dataclasses.replace(self.config.zipformer, chunk_size=chunks, left_context_frames=lefts)
        return dataclasses.replace(self.config, zipformer=zipformer)

    def data(self, max_duration: float | None = None) -> DataModule:
        """The run's data, in batches of so many seconds, which need not be those of training.

        Raises:
            UserError: its configuration names them, nobody else, and they are not within what it may name.
        """
        if self.unasked_data:
            named = "where the run says that its data are is not followed out of the working folder"
            raise must_be("--manifest-dir", "given", "missing", f"{named}: give it, perhaps as {self.unasked_data}")
        data = dataclasses.replace(self.config.data, max_duration=max_duration or self.config.data.max_duration)
        return build_data(dataclasses.replace(self.config, data=data), self.tokenizer)


def load_run(
    namespace: argparse.Namespace,
    averaging: AveragingConfig,
    recipe: str,
    defaults: Overrides,
    device: str = "auto",
    hub: bool = False,
) -> LoadedRun:
    """Load the averaged model of ``--exp-dir``.

    A run directory needs nothing else, nor do foreign checkpoints (icefall's, ZIPA's), a folder of them or one file,
    beside a tokenizer: their sizes are read off the weights. With ``hub`` it may be a hub id too.

    Raises `UserError`: no checkpoint there, flags that contradict it, another vocabulary.
    """
    named = namespace.exp_dir if hasattr(namespace, "exp_dir") else defaults["trainer"]["exp_dir"]
    source = find_source(str(named), hub)
    saved, origin = source.saved(), source.hub_id or str(source.path)
    if saved is not None and saved.recipe != recipe:
        raise must_be("--exp-dir", f"a run of {recipe}", f"{origin}, a run of {saved.recipe}")
    config = lay_over_saved(saved, namespace) if saved else build_config(namespace, recipe, defaults)
    kind = "transducer" if config.heads.use_transducer else "ctc"
    refuse_other_kind(source, kind)
    given = hasattr(namespace, "bpe_model") or (saved is None and config.text.bpe_model != TextConfig.bpe_model)
    tokens = Path(config.text.bpe_model) if given else None
    if source.is_registered:
        tokens, averaging = as_published(source.hub_id, source.folder, tokens, averaging)
    unasked = unasked_data(config, namespace, source.folder) if saved else ""
    weights, suffix = load_averaged(source.path, averaging)
    if saved is None:
        zipformer, heads = adapted(config.zipformer, config.heads, weights, vars(namespace), origin)
        features = dataclasses.replace(config.fbank, feature_dim=zipformer.feature_dim)
        config = dataclasses.replace(config, zipformer=zipformer, heads=heads, fbank=features)
    if source.is_registered:
        check_size(source.hub_id, config.zipformer, kind)
    tokens = tokens or tokenizer_of(source, config, foreign=saved is None)
    tokenizer = load_tokenizer(tokens)
    check_vocabulary(tokenizer, str(tokens), source.folder)
    config = with_vocabulary(config, tokenizer)
    model = build_model(config.zipformer, config.heads)
    load_weights(model, weights, origin)
    target = pick_device(device)
    logging.info(
        "loaded %s (%s), %.1f M parameters, on %s",
        origin,
        suffix,
        sum(p.numel() for p in model.parameters()) / 1e6,
        target,
    )
    frontend = build_fbank(config).to(target)
    run = LoadedRun(source.folder, config, model.to(target).eval(), tokenizer, frontend, suffix, target, unasked)
    if saved is not None:
        run.trained_context = saved.zipformer.chunk_size, saved.zipformer.left_context_frames
    return run
