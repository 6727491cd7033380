"""Weights of another run as the start of a new one, its vocabulary perhaps another."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from couloir.checkpoint import Weights
from couloir.errors import UserError, must_be, unknown_name
from couloir.families.base import RunConfig
from couloir.families.registry import family
from couloir.inference.opening import Opened, open_source
from couloir.inference.source import Source
from couloir.inference.tokenizers import kept_tokenizer
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run_config import saved_config
from couloir.text.tokenizer import Tokenizer, load_tokenizer
from couloir.training.config import AveragingConfig

NAMED_TOKENS = 20


def sized(config: RunConfig, finetune: FinetuneConfig, typed: Collection[str]) -> Any:
    """The configuration with the sizes of the checkpoint that a run starts from; which heads it has is its own.

    They are read off the weights, and where the checkpoint is this project's out of its configuration, which also
    knows what weights do not tell. A run that goes on has its own config.yaml.

    Args:
        config: what defaults, preset and flags say. finetune: where the weights are. typed: fields given as flags.

    Raises:
        UserError: a flag that contradicts a part of the checkpoint that is taken; no checkpoint, or another family's.
    """
    makes = family(config.family)
    going_on = saved_config(config.trainer.exp_dir)
    if going_on is not None:
        return makes.sized_as(config, going_on, typed)
    if not finetune.do_finetune:
        return config
    opened = _opened(finetune)
    weights, _ = opened.look_at_weights()
    opened.refuse_other_family(config.family, "--finetune-ckpt")
    former = opened.config()
    weights = makes.adapt_weights(weights)
    return makes.sizes_to_start_from(weights, config, former, typed, finetune.modules, finetune.finetune_ckpt)


def _opened(finetune: FinetuneConfig) -> Opened:
    return open_source(Source(Path(finetune.finetune_ckpt)))


def initialise(model: nn.Module, tokenizer: Tokenizer, config: FinetuneConfig) -> None:
    """Copy a checkpoint's weights into a freshly built model, and say in the log what was and was not taken.

    Of embedding and output layers the rows of tokens that both vocabularies have are taken; the rows of new tokens
    stay as they were initialised, and so do modules that the checkpoint lacks.

    Raises:
        UserError: an unknown module; a tensor that is missing or has another shape; a vocabulary of another size
            without the tokenizer that belongs to it.
    """
    if not config.do_finetune:
        return
    path, opened = Path(config.finetune_ckpt), _opened(config)
    weights = opened.read_weights(AveragingConfig()).weights
    per_token = opened.family.per_token
    own = model.state_dict()
    chosen = _chosen(own, weights, config.modules, path)
    sizes = {len(weights[name]) for name in chosen if per_token.fullmatch(name)}
    rows = _matching_rows(tokenizer, _vocabulary_of(path, config), sizes, path) if sizes else None
    for name in chosen:
        tensor, found = own[name], weights[name]
        if per_token.fullmatch(name) and rows is not None:
            new, old = rows
            if found.shape[1:] != tensor.shape[1:]:
                raise _other_shape(name, tensor, found, path)
            tensor[new] = found[old].to(tensor.dtype)
        elif found.shape != tensor.shape:
            raise _other_shape(name, tensor, found, path)
        else:
            tensor.copy_(found)
    taken = sorted({name.split(".")[0] for name in chosen})
    fresh = sorted({name.split(".")[0] for name in own} - set(taken))
    left = sorted({name.split(".")[0] for name in weights} - set(taken))
    logging.info("from %s: %s", path, ", ".join(taken))
    if left and not config.modules:
        logging.warning("left in %s, as this model has no place for it: %s", path, ", ".join(left))
    if fresh:
        logging.warning("not taken from %s, trained from scratch: %s", path, ", ".join(fresh))


def _other_shape(name: str, tensor: Tensor, found: Tensor, path: Path) -> UserError:
    remedy = "give the model flags that it was trained with, or leave that module out of --init-modules"
    return must_be(f"{path}: {name}", f"{tuple(tensor.shape)}", tuple(found.shape), remedy)


def _chosen(own: Weights, weights: Weights, modules: list[str], path: Path) -> list[str]:
    """Names of the tensors to take: those of ``modules``, or of all modules that the checkpoint has."""
    known = sorted({name.split(".")[0] for name in own})
    there = {name.split(".")[0] for name in weights}
    for module in modules:
        if not any(name.startswith(module + ".") for name in own):
            raise unknown_name("module in --init-modules:", module, known)
    wanted = modules or [module for module in known if module in there]
    names = [name for name in own if any(name.startswith(module + ".") for module in wanted)]
    missing = next((name for name in names if name not in weights), None)
    if missing or not names:
        what = f"tensor `{missing}`" if missing else "module of this model"
        raise UserError(f"{path} has no {what}; give the model flags that it was trained with, or other --init-modules")
    return names


def _vocabulary_of(path: Path, config: FinetuneConfig) -> Tokenizer | None:
    if config.finetune_bpe_model:
        return load_tokenizer(config.finetune_bpe_model)
    kept = kept_tokenizer(path.parent)
    return load_tokenizer(kept) if kept else None


def _matching_rows(
    tokenizer: Tokenizer, former: Tokenizer | None, sizes: set[int], path: Path
) -> tuple[list[int], list[int]] | None:
    """New and former ids of the tokens that both vocabularies have; None where all tensors are copied whole.

    Args:
        tokenizer, former: the vocabularies. sizes: rows of the checkpoint's tensors that have a row per token.
        path: of the checkpoint.
    """
    if former is None and sizes == {tokenizer.vocab_size}:
        logging.warning("%s does not tell its tokens; they are taken to be those of --bpe-model", path)
        return None
    if former is None:
        raise must_be(
            "--finetune-bpe-model", f"the tokenizer of {path}, which has {max(sizes)} tokens", "missing",
            f"--bpe-model has {tokenizer.vocab_size}",
        )  # fmt: skip
    if sizes != {former.vocab_size}:
        raise must_be("--finetune-bpe-model", f"of {max(sizes)} tokens, as {path}", former.vocab_size)
    if former.pieces == tokenizer.pieces:
        return None
    place = {piece: i for i, piece in enumerate(former.pieces)} | {tokenizer.pieces[0]: 0}
    new = [i for i, piece in enumerate(tokenizer.pieces) if piece in place]
    _say(tokenizer, former, new)
    return new, [place[tokenizer.pieces[i]] for i in new]


def _say(tokenizer: Tokenizer, former: Tokenizer, carried: list[int]) -> None:
    fresh = [piece for i, piece in enumerate(tokenizer.pieces) if i not in set(carried)]
    dropped = [piece for piece in former.pieces if piece not in set(tokenizer.pieces)]
    logging.warning(
        "the vocabulary has changed: %d of %d tokens carried over; new and untrained: %s; dropped: %s",
        len(carried),
        tokenizer.vocab_size,
        _listed(fresh),
        _listed(dropped),
    )


def _listed(pieces: list[str]) -> str:
    more = f" and {len(pieces) - NAMED_TOKENS} more" if len(pieces) > NAMED_TOKENS else ""
    return (" ".join(pieces[:NAMED_TOKENS]) or "none") + more
