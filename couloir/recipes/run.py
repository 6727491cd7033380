"""From a configuration, or from a run directory, to live objects: tokenizer, model, data."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import torch
from torch import nn

from couloir.data.module import DataModule
from couloir.errors import must_be
from couloir.features.fbank import Fbank
from couloir.features.kaldi import num_frames
from couloir.files import atomic_path
from couloir.inference.checkpoints import pick_device
from couloir.models.architecture import adapted
from couloir.models.asr import AsrModel, build_model, num_subsampled_frames
from couloir.recipes.run_config import Overrides, RunConfig, build_config, lay_over_saved, saved_config
from couloir.text.ipa import remove_diacritics
from couloir.text.tokenizer import Tokenizer, load_tokenizer
from couloir.training.averaging import load_averaged
from couloir.training.checkpoint import load_weights
from couloir.training.config import AveragingConfig

KEPT_TOKENIZER = "lang"


def build_fbank(config: RunConfig) -> Fbank:
    """The one feature extractor of training, decoding and inference."""
    return Fbank(config.fbank)


def with_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The configuration with the tokenizer's vocabulary size, as it is saved with the run."""
    return dataclasses.replace(config, heads=dataclasses.replace(config.heads, vocab_size=tokenizer.vocab_size))


def build_data(config: RunConfig, tokenizer: Tokenizer | None) -> DataModule:
    """The data module of --manifest-dir, which leaves out of training what is too long for the model's output."""
    return DataModule(
        config.data,
        tokenizer,
        config.trainer.seed,
        num_output_frames=functools.partial(_output_frames, config),
        text_transform=remove_diacritics if config.text.remove_diacritics else None,
    )


def _output_frames(config: RunConfig, num_samples: int) -> int:
    feature_frames = torch.tensor(num_frames(num_samples, config.fbank))
    return int(num_subsampled_frames(feature_frames, config.zipformer))


def keep_tokenizer(config: RunConfig) -> None:
    """Copy the tokenizer into the run directory, so that decoding does not depend on where it came from."""
    source = Path(config.text.bpe_model)
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        if path.suffix in (".model", ".txt"):
            with atomic_path(config.trainer.exp_dir / KEPT_TOKENIZER / path.name) as target:
                shutil.copyfile(path, target)


@dataclasses.dataclass
class LoadedRun:
    """A trained model with what belongs to it."""

    exp_dir: Path
    config: RunConfig
    model: AsrModel
    tokenizer: Tokenizer
    fbank: nn.Module
    suffix: str
    device: torch.device


def load_run(
    namespace: argparse.Namespace, averaging: AveragingConfig, recipe: str, defaults: Overrides, device: str = "auto"
) -> LoadedRun:
    """Load the averaged model of ``--exp-dir``.

    A run directory needs nothing else, nor does a folder of foreign checkpoints (icefall's, ZIPA's) beside a tokenizer:
    their sizes are read off the weights.

    Raises `UserError`: no checkpoint there, flags that contradict it, a vocabulary of another size.
    """
    exp_dir = Path(str(getattr(namespace, "exp_dir", defaults["trainer"]["exp_dir"])))
    saved = saved_config(exp_dir)
    if saved is not None and saved.recipe != recipe:
        raise must_be("--exp-dir", f"a run of {recipe}", f"{exp_dir}, a run of {saved.recipe}")
    config = lay_over_saved(saved, namespace) if saved else build_config(namespace, recipe, defaults)
    weights, suffix = load_averaged(exp_dir, averaging)
    if saved is None:
        zipformer, heads = adapted(config.zipformer, config.heads, weights, vars(namespace), str(exp_dir))
        config = dataclasses.replace(config, zipformer=zipformer, heads=heads)
    tokenizer = load_tokenizer(_tokenizer_path(config, exp_dir))
    config = with_vocabulary(config, tokenizer)
    model = build_model(config.zipformer, config.heads)
    load_weights(model, weights, str(exp_dir))
    target = pick_device(device)
    logging.info(
        "loaded %s (%s), %.1f M parameters, on %s",
        exp_dir,
        suffix,
        sum(p.numel() for p in model.parameters()) / 1e6,
        target,
    )
    return LoadedRun(
        exp_dir, config, model.to(target).eval(), tokenizer, build_fbank(config).to(target), suffix, target
    )


def _tokenizer_path(config: RunConfig, exp_dir: Path) -> Path:
    """--bpe-model, or the copy that training left in the run directory when the original has moved."""
    path, kept = Path(config.text.bpe_model), exp_dir / KEPT_TOKENIZER
    if path.exists() or not kept.is_dir():
        return path
    return kept / path.name if (kept / path.name).exists() else kept
