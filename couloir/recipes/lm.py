"""Language models and graphs for decoding, made from a text."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from couloir.decoding.graph import build_lg, read_lexicon, spell_words
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.lm_training import KINDS, train_lm
from couloir.decoding.ngram import estimate_arpa
from couloir.errors import UserError
from couloir.files import atomic_write
from couloir.inference.checkpoints import pick_device
from couloir.recipes.lm_config import GraphConfig, LmTrainConfig
from couloir.text.tokenizer import Tokenizer, load_tokenizer


def read_sentences(path: Path, tokenizer: Tokenizer) -> list[str]:
    """The lines of a text that the vocabulary can spell; the number of others goes to the log.

    Raises:
        UserError: none is left, naming a symbol that the vocabulary lacks.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    unknown = [tokenizer.unknown_symbols(line) for line in lines]
    kept = [line for line, symbols in zip(lines, unknown) if not symbols]
    if not kept:
        why = f"`{min(unknown[0])}` is not in the vocabulary" if unknown else "it is empty"
        raise UserError(f"{path} has no sentence that --bpe-model can spell: {why}")
    if len(kept) < len(lines):
        first = min(next(symbols for symbols in unknown if symbols))
        logging.warning("%d of %d sentences left out: symbols such as `%s`", len(lines) - len(kept), len(lines), first)
    return kept


def train_neural_lm(config: LmTrainConfig, sizes: NeuralLmConfig) -> list[float]:
    """Train the LM of ``--lm-type`` with the sizes that decoding has flags for; validation perplexity by epoch."""
    tokenizer = load_tokenizer(config.bpe_model)
    sentences = [tokenizer.encode(line) for line in read_sentences(config.lm_text, tokenizer)]
    period = round(1 / config.valid_share)
    valid = sentences[::period]
    training = [one for i, one in enumerate(sentences) if i % period] or sentences
    torch.manual_seed(config.seed)
    lm = KINDS[config.lm_type](tokenizer.vocab_size, **sizes.lm_sizes(config.lm_type)).to(pick_device(config.device))
    return train_lm(
        lm, training, valid, config.lm_exp_dir, config.num_epochs, config.lr, config.max_tokens, config.seed
    )


def prepare_graphs(config: GraphConfig) -> None:
    """Write LG.npz with its words.txt and lexicon.txt, and the n-gram over tokens, into ``--lang-dir``.

    Raises:
        UserError: a text that cannot be spelt, a bad lexicon, or as `build_lg`.
    """
    tokenizer = load_tokenizer(config.bpe_model)
    sentences = read_sentences(config.lm_text, tokenizer)
    words = [sentence.split() for sentence in sentences]
    if config.lexicon:
        lexicon = read_lexicon(config.lexicon, tokenizer.pieces)
    else:
        lexicon = spell_words((word for sentence in words for word in sentence), tokenizer)
    folder, known = config.lang_dir, set(lexicon.words)
    folder.mkdir(parents=True, exist_ok=True)
    covered = [sentence for sentence in words if known.issuperset(sentence)]
    if not covered:
        raise UserError(f"no sentence of {config.lm_text} has all its words in the lexicon {config.lexicon}")
    estimate_arpa(covered, config.ngram_order, folder / f"words.{config.ngram_order}gram.arpa")
    pieces = [[tokenizer.pieces[i] for i in tokenizer.encode(sentence)] for sentence in sentences]
    estimate_arpa(pieces, config.tokens_ngram, folder / f"{config.tokens_ngram}gram.arpa")
    lexicon.save(folder / "lexicon.txt", tokenizer.pieces)
    with atomic_write(folder / "words.txt", "w") as out:
        out.writelines(f"{word} {i}\n" for i, word in enumerate(lexicon.words))
    graph = build_lg(lexicon, folder / f"words.{config.ngram_order}gram.arpa", tokenizer.vocab_size)
    graph.save(folder / "LG.npz")
    print(f"{folder}: {len(lexicon.words) - 1} words, LG of {graph.num_arcs} arcs")
