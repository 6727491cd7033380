"""Language models and graphs for decoding, made from a text."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import torch

from couloir.decoding.arpa import arpa_words, copy_arpa
from couloir.decoding.graph import build_lg, read_lexicon, spell_words
from couloir.decoding.lm_checkpoint import KINDS
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.lm_training import train_lm
from couloir.decoding.ngram import NgramLm, estimate_arpa
from couloir.decoding.resources import GRAPH, write_word_graph
from couloir.errors import UserError
from couloir.locks import locked
from couloir.machine import pick_device
from couloir.recipes.lm_config import GraphConfig, LmTrainConfig
from couloir.text.tokenizer import TABLE_NAME, Tokenizer, load_tokenizer
from couloir.texts import iterate_lines
from couloir.training.run_dir import run_lock


def read_sentences(path: Path, tokenizer: Tokenizer) -> list[str]:
    """The lines of a text that the vocabulary can spell; the number of others goes to the log.

    Raises:
        UserError: none is left, naming a symbol that the vocabulary lacks.
    """
    lines = [line.strip() for line in iterate_lines(path) if tokenizer.prepare(line).strip()]
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
    """Train the LM of ``--lm-type`` with the sizes that were given, or go on; validation perplexity by epoch."""
    tokenizer = load_tokenizer(config.bpe_model)
    sentences = [tokenizer.encode(line) for line in read_sentences(config.lm_text, tokenizer)]
    period = round(1 / config.valid_share)
    valid = sentences[::period]
    training = [one for i, one in enumerate(sentences) if i % period] or sentences
    torch.manual_seed(config.seed)
    lm = KINDS[config.lm_type](tokenizer.vocab_size, **sizes.lm_sizes(config.lm_type)).to(pick_device(config.device))
    limits = (config.num_epochs, config.lr, config.max_tokens, config.seed)
    with run_lock(Path(config.lm_exp_dir)):
        return train_lm(lm, tokenizer.pieces, training, valid, config.lm_exp_dir, *limits)


def prepare_graphs(config: GraphConfig) -> None:
    """Write LG.npz with its words.txt, lexicon.txt and n-gram, tokens.txt, and the n-gram over tokens, if there is one.

    Raises:
        UserError: a text that cannot be spelt, a bad lexicon or ARPA file, or as `build_lg`; nothing is written then;
            or another process makes that folder.
    """
    folder = config.lang_dir.resolve()
    lock = folder.with_name(f".{folder.name}.lock")
    with (
        locked(lock, config.lang_dir),
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made,
    ):
        said = _make_graphs(config, Path(made))
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(made).iterdir(), key=lambda path: path.name == GRAPH):  # the graph last
            os.replace(path, folder / path.name)
    print(f"{config.lang_dir}: {said}")


def _make_graphs(config: GraphConfig, folder: Path) -> str:
    tokenizer = load_tokenizer(config.bpe_model)
    sentences = read_sentences(config.lm_text, tokenizer) if config.has_text else []
    words = [sentence.split() for sentence in sentences]
    listed, order = arpa_words(config.arpa) if config.arpa else ([word for line in words for word in line], 0)
    lexicon = read_lexicon(config.lexicon, tokenizer.pieces) if config.lexicon else spell_words(listed, tokenizer)
    if len(lexicon.words) < 2:
        raise UserError(f"no word of {config.arpa} can be spelt by --bpe-model; give a --lexicon")
    known = set(lexicon.words)
    if missing := set(listed) - known:
        logging.warning("%d words, such as `%s`, are not in the lexicon and left out of LG", len(missing), min(missing))
    grammar = folder / f"words.{order or config.ngram_order}gram.arpa"
    if config.arpa:
        copy_arpa(config.arpa, grammar)
    else:
        silent = {word for word in missing if not tokenizer.encode(word)}  # punctuation between phones
        spoken = ([word for word in sentence if word not in silent] for sentence in words)
        covered = [sentence for sentence in spoken if known.issuperset(sentence)]
        if not covered:
            raise UserError(f"no sentence of {config.lm_text} has all its words in the lexicon {config.lexicon}")
        estimate_arpa(covered, config.ngram_order, grammar)
    _prepare_token_ngram(config, tokenizer, sentences, folder)
    lexicon.save(folder / "lexicon.txt", tokenizer.pieces)
    tokenizer.save_tokens(folder / TABLE_NAME)
    graph = build_lg(lexicon, config.arpa or grammar, tokenizer.vocab_size, config.ngram_order)
    write_word_graph(folder, graph, lexicon.words, tokenizer.pieces)
    return f"{len(lexicon.words) - 1} words, LG of {graph.num_arcs} arcs"


def _prepare_token_ngram(config: GraphConfig, tokenizer: Tokenizer, sentences: list[str], folder: Path) -> None:
    """Copy or make ``Ngram.arpa``. Raises `UserError` for one of other tokens."""
    if config.tokens_arpa:
        _, order = arpa_words(config.tokens_arpa)
        NgramLm(config.tokens_arpa, tokenizer.pieces)
        copy_arpa(config.tokens_arpa, folder / f"{order}gram.arpa")
    elif sentences:
        pieces = [[tokenizer.pieces[i] for i in tokenizer.encode(sentence)] for sentence in sentences]
        estimate_arpa(pieces, config.tokens_ngram, folder / f"{config.tokens_ngram}gram.arpa")
