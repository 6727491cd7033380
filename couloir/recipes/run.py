"""From a configuration, or from a run directory, to live objects: tokenizer, model, data."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from couloir.data.module import DataModule
from couloir.errors import UserError, must_be
from couloir.families.base import ModelFamily, RunConfig, with_sections
from couloir.families.registry import DEFAULT, family, spec_of
from couloir.families.saved import with_unbound_of
from couloir.features.front_end import FrontEnd
from couloir.files import atomic_path
from couloir.inference.loading import as_published, assemble, check_published
from couloir.inference.opening import open_source
from couloir.inference.registry import HUB_MODELS
from couloir.inference.source import Source, locate
from couloir.inference.tokenizers import KEPT_TOKENIZER, find_tokenizer, kept_tokenizer
from couloir.recipes.run_config import Overrides, build_config, lay_over_saved, unasked_data
from couloir.text.config import TextConfig
from couloir.text.ipa import remove_diacritics
from couloir.text.tokenizer import Tokenizer, first_other, load_tokenizer
from couloir.text.units import AUTO, PHONE, UNIT_FILE, Unit, unit_beside, unit_named, unit_of
from couloir.training.config import AveragingConfig


def with_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> Any:
    """The configuration with the tokenizer's vocabulary size, as it is saved with the run."""
    return family(config.family).with_vocab_size(config, tokenizer.vocab_size)


def with_unit(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The configuration with the unit of the transcripts, as it is saved with the run.

    Raises:
        UserError: the tokenizer is of another unit than was asked for, than the family has, or than the data.
    """
    origin, asked = Path(config.text.bpe_model), config.text.unit
    said = unit_beside(origin) or (PHONE if tokenizer.is_ipa else None)
    if said and asked not in (AUTO, said.name):
        raise must_be("--unit", f"{said.name} or {AUTO}", asked, f"the texts of {origin} are {said.plural}")
    unit = said or own_unit(tokenizer)
    known = spec_of(config.family).units
    if unit.name not in known:
        raise must_be("--bpe-model", f"a vocabulary of {' or '.join(known)} for {config.family}", f"of {unit.plural}")
    refuse_other_transcripts(config, unit)
    text = dataclasses.replace(config.text, unit=unit.name if asked == AUTO else asked)
    return with_sections(config, text=text)


def own_unit(tokenizer: Tokenizer) -> Unit:
    """The unit of a tokenizer's texts."""
    return PHONE if tokenizer.is_ipa else unit_of(tokenizer.spelling())


def refuse_other_transcripts(config: RunConfig, unit: Unit, *others: Unit) -> None:
    """Refuse data whose transcripts are words where phones are recognised, or the other way round.

    Args:
        unit: of the vocabulary. others: in which errors are counted, say; that one of them is the data's is enough.

    Raises:
        UserError: naming the folder that says so.
    """
    for folder in config.data.folders:
        said = unit_beside(folder)
        if said and all((said is PHONE) != (one.name == PHONE.name) for one in (unit, *others)):
            remedy = f"prepare it with --transcripts {unit.plural}, or give another --bpe-model"
            raise must_be(f"transcripts of {folder}", f"{unit.plural}, as the vocabulary's", said.plural, remedy)


def scored_in(config: RunConfig, tokenizer: Tokenizer) -> Unit:
    """The unit in which a run's errors are counted: what a flag says, or the run, or its tokenizer."""
    own = own_unit(tokenizer)
    asked = config.text.unit
    return own if asked in (AUTO, own.name) else unit_named(asked)


def build_data(config: RunConfig, tokenizer: Tokenizer | None) -> DataModule:
    """The data module of --manifest-dir, which leaves out of training what is too long for the model's output."""
    return DataModule(
        config.data,
        tokenizer,
        config.trainer.seed,
        reason_to_skip=functools.partial(family(config.family).reason_to_skip, config),
        text_transform=remove_diacritics if config.text.remove_diacritics else None,
    )


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
    kept = kept_tokenizer(exp_dir)
    if kept is None:
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
        unasked_data: see `run_config.unasked_data`. saved: what was saved with the weights; None for another system's.
    """

    exp_dir: Path
    config: Any
    model: Any
    tokenizer: Tokenizer
    fbank: FrontEnd
    suffix: str
    device: torch.device
    unasked_data: str = ""
    saved: Any = None

    @property
    def family(self) -> ModelFamily:
        """Whose model it is."""
        return family(self.config.family)

    def as_trained(self) -> Any:
        """The configuration with the contexts of training in place of the one that was asked for here."""
        spec = spec_of(self.config.family)
        return with_unbound_of(self.config, self.saved or spec.config(), spec)

    def data(self, max_duration: float | None = None) -> DataModule:
        """The run's data, in batches of that many seconds, which need not be those of training.

        Raises:
            UserError: its configuration names them, nobody else, and they are not within what it may name.
        """
        if self.unasked_data:
            named = "where the run says that its data are is not followed out of the working folder"
            raise must_be("--manifest-dir", "given", "missing", f"{named}: give it, perhaps as {self.unasked_data}")
        data = dataclasses.replace(self.config.data, max_duration=max_duration or self.config.data.max_duration)
        return build_data(with_sections(self.config, data=data), self.tokenizer)


def load_run(
    namespace: argparse.Namespace,
    averaging: AveragingConfig,
    recipe: str | None,
    defaults: Overrides,
    device: str = "auto",
    hub: bool = False,
    family: str = DEFAULT,
) -> LoadedRun:
    """Load the averaged model of ``--exp-dir``.

    A run directory needs nothing else, nor do foreign checkpoints (icefall's, ZIPA's), a folder of them or one file,
    beside a tokenizer: their sizes are read off the weights. With ``hub`` it may be a hub id too.

    Args:
        namespace: the flags. averaging: which checkpoints. recipe: whose runs the program takes, None for any.
        defaults: of the recipe, for foreign checkpoints. device: "auto", "cpu" or "cuda". hub: see above.
        family: whose models the recipe makes.

    Raises `UserError`: no checkpoint there, flags that contradict it, another vocabulary, family or recipe.
    """
    named = namespace.exp_dir if hasattr(namespace, "exp_dir") else defaults["trainer"]["exp_dir"]
    source = find_source(str(named), hub)
    opened = open_source(source)
    opened.refuse_other_family(family)
    saved = opened.config()
    if saved is not None and recipe not in (None, saved.recipe):
        raise must_be("--exp-dir", f"a run of {recipe}", f"{source.name}, a run of {saved.recipe}")
    config = lay_over_saved(saved, namespace) if saved else build_config(namespace, recipe or "", defaults, family)
    given = hasattr(namespace, "bpe_model") or (saved is None and config.text.bpe_model != TextConfig.bpe_model)
    tokens = Path(config.text.bpe_model) if given else None
    if source.is_registered:
        _refuse_other_kind(source, _kind(config))
        tokens, averaging = as_published(source, tokens, averaging)
    unasked = unasked_data(config, namespace, source.folder) if saved else ""
    weights = opened.read_weights(averaging)
    opened.refuse_other_family(family)
    if saved is None:
        config = opened.family.sizes(weights.weights, config, vars(namespace), source.name)
    if source.is_registered:
        check_published(source, opened.family, config, _kind(config))
    fallback = config.text.bpe_model if saved is None else ""
    tokens = find_tokenizer(source.folder, opened.values, tokens, fallback, "--bpe-model")
    tokenizer = load_tokenizer(tokens)
    check_vocabulary(tokenizer, str(tokens), source.folder)
    config = with_vocabulary(config, tokenizer)
    trained = assemble(opened, weights, config, device)
    logging.info(
        "loaded %s (%s), %.1f M parameters, on %s",
        source.name,
        weights.suffix,
        sum(p.numel() for p in trained.model.parameters()) / 1e6,
        trained.device,
    )
    return LoadedRun(
        source.folder, config, trained.model, tokenizer, trained.front_end, weights.suffix, trained.device, unasked,
        saved,
    )  # fmt: skip


def find_source(name: str, hub: bool) -> Source:
    """What ``--exp-dir`` names; with ``hub`` it may be a hub id, which is fetched. Raises `UserError`."""
    if Path(name).exists():
        return Source(Path(name))
    if not hub:
        raise UserError(f"`--exp-dir` must be a run directory or a checkpoint, but {name} does not exist")
    try:
        return Source(*locate(name, runtime="torch"))
    except UserError as error:
        raise UserError(f"`--exp-dir` names no folder or file here: {error}") from None


def _kind(config: RunConfig) -> str:
    """Which of its heads a run is about: with a transducer, CTC is there to help."""
    return family(config.family).kinds(config)[-1]


def _refuse_other_kind(source: Source, kind: str) -> None:
    """Refuse a published model of another kind than the program's ("ctc" or "transducer"). Raises `UserError`."""
    other = HUB_MODELS[source.hub_id].kind
    if other != kind:
        remedy = f"take the programs of a recipe for {other} models"
        raise must_be("--exp-dir", f"a {kind} model here", f"{source.hub_id}, a {other} model", remedy)
