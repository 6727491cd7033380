"""Every decoding method of a run on the same encoded speech: what method_table.py and decoding_rtf.py share."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from couloir.audio import SAMPLE_RATE
from couloir.data.batch import Batch
from couloir.decoding.ctc_config import CTC_METHODS, FUSIONS
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.search import Search
from couloir.decoding.transducer.config import METHODS
from couloir.errors import must_be
from couloir.evaluation.evaluate import Result
from couloir.files import atomic_write
from couloir.recipes.decode import ctc_search, encode_batch, results_of, search_batch, transducer_search
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.lm import prepare_graphs, train_neural_lm
from couloir.recipes.lm_config import GraphConfig, LmTrainConfig
from couloir.recipes.run import LoadedRun, load_run
from couloir.recipes.run_config import saved_config
from couloir.training.config import AveragingConfig

ENCODER = "features and encoder"
LM_EPOCHS = 12
LM_SIZES: dict[str, Any] = {"rnn_lm_embedding_dim": 128, "rnn_lm_hidden_dim": 128, "rnn_lm_num_layers": 1}
SAMPLED = {"num_paths": 50}
HOTWORDS, HOTWORD_TOKENS = "hotwords", 8
WITHOUT_FAST_NEED = ("beam_search",)  # endless where the weights are random
Flags = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What decoding came to.

    Fields:
        speech_s: seconds of speech. seconds: wall time of the encoder (`ENCODER`) and of each method's search.
        results: method -> result key -> results.
    """

    speech_s: float
    seconds: dict[str, float]
    results: dict[str, dict[str, list[Result]]]


def trained_run(exp_dir: Path, device: str, **averaging: Any) -> LoadedRun:
    """A run directory of either recipe. Raises `UserError` when it is none."""
    saved = saved_config(exp_dir)
    if saved is None:
        raise must_be("--exp-dir", "a run directory with a config.yaml", exp_dir)
    namespace = argparse.Namespace(exp_dir=str(exp_dir))
    return load_run(namespace, AveragingConfig(**averaging), None, {}, device)


def prepare_language(run: LoadedRun, folder: Path) -> None:
    """LG, n-grams and a small RNN LM from the run's training transcripts, in ``folder``; made once.

    Without word boundaries in the vocabulary (phones) a "word" is a token, and the lexicon spells it by itself.
    """
    if (folder / f"epoch-{LM_EPOCHS}.pt").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, text = run.tokenizer, folder / "text"
    tokenizer.save_tokens(folder / "tokens.txt")
    with atomic_write(text, "w") as out:
        for line in run.data().train_texts():
            spaced = line if tokenizer.has_boundary else " ".join(tokenizer.pieces[i] for i in tokenizer.encode(line))
            out.write(spaced + "\n")
    source = str(folder / "tokens.txt")
    prepare_graphs(GraphConfig(text, source, folder))
    lm = LmTrainConfig(text, source, lm_exp_dir=str(folder), num_epochs=LM_EPOCHS)
    train_neural_lm(lm, NeuralLmConfig(**LM_SIZES))


def prepare_hotwords(run: LoadedRun, folder: Path, test_set: str) -> None:
    """A phrase of each utterance of the test set, and as many of training that none of them holds.

    A phrase is eight tokens from a third of the way into the transcript.
    """
    data, tokenizer = run.data(), run.tokenizer
    here = [text for batch in data.test_loader(test_set) for text in batch.texts]
    phrases: list[str] = []
    for texts, wanted in ((here, len(here)), (data.train_texts(), 2 * len(here))):
        for text in texts:
            ids = tokenizer.encode(text)
            phrase = "".join(tokenizer.pieces[i] for i in ids[len(ids) // 3 :][:HOTWORD_TOKENS]).replace("▁", " ")
            ours = texts is here or not any(phrase in other for other in here)
            if len(ids) >= 2 * HOTWORD_TOKENS and ours and len(phrases) < wanted:
                phrases.append(phrase.strip())
    with atomic_write(folder / HOTWORDS, "w") as out:
        out.write("\n".join(phrases) + "\n")


def transducer_methods(folder: Path) -> dict[str, Flags]:
    """Name -> flags of each of decode.py's methods, with what `prepare_language` made."""
    lang = {"lang_dir": str(folder)}
    neural = {"lm_exp_dir": str(folder), "lm_epoch": LM_EPOCHS, **LM_SIZES}
    flags: dict[str, Flags] = {method: {} for method in METHODS}
    for method in METHODS:
        if "nbest" in method:
            flags[method] |= SAMPLED
        if "_LG" in method:
            flags[method] |= {**lang, "ngram_lm_scale": 0.1}
        if "_lm_" in method or "LODR" in method:
            flags[method] |= neural
        if "LODR" in method:
            flags[method] |= lang
    flags["modified_beam_search_LODR"] |= {"ngram_lm_scale": -0.1}
    flags["modified_beam_search_lm_shallow_fusion, n-gram"] = {**lang, "lm_type": "ngram", "lm_scale": 0.2}
    if (folder / HOTWORDS).is_file():
        for method in ("modified_beam_search", "fast_beam_search"):
            flags[f"{method}, {HOTWORDS}"] = {"context_file": str(folder / HOTWORDS), "context_score": 1.0}
    return flags


def ctc_methods(folder: Path, attention: bool) -> dict[str, Flags]:
    """As `transducer_methods`, of ctc_decode.py's methods; those that need an attention decoder where there is one."""
    lang = {"lang_dir": str(folder), "lm_dir": str(folder)}
    wanted = [m for m in CTC_METHODS if m not in FUSIONS and (attention or "attention" not in m)]
    flags: dict[str, Flags] = dict.fromkeys(wanted, lang | SAMPLED)
    neural = {"nnlm_scale": 0.2, "lm_exp_dir": str(folder), "lm_epoch": LM_EPOCHS, **LM_SIZES}
    ngram = {"lodr_ngram": str(folder / "2gram.arpa"), "lodr_lm_scale": 0.2}
    lodr = {"lodr_ngram": str(folder / "2gram.arpa"), "lodr_lm_scale": -0.1}
    given = {"RNN": neural, "n-gram": ngram, "RNN and LODR": neural | lodr}
    if (folder / HOTWORDS).is_file():
        given[HOTWORDS] = {"context_file": str(folder / HOTWORDS), "context_score": 1.0}
    for name, fusion in given.items():
        flags[f"{FUSIONS[0]}, {name}"] = fusion
    return flags


def searches(run: LoadedRun, folder: Path, chosen: Iterable[str] = ()) -> Iterator[tuple[str, Search]]:
    """(name, method) of each method that the run's heads allow, or of the ``chosen`` names among them."""
    heads, names = run.config.heads, set(chosen)
    programs: list[tuple[Callable[..., Search], dict[str, Flags]]] = []
    if heads.use_transducer:
        programs.append((transducer_search, transducer_methods(folder)))
    if heads.use_ctc:
        programs.append((ctc_search, ctc_methods(folder, heads.use_attention_decoder)))
    for make, methods in programs:
        for name, flags in methods.items():
            if not names or name in names:
                flags = {"decoding_method": name.partition(",")[0], **flags}
                yield name, make(run, argparse.Namespace(**flags))


def measure(run: LoadedRun, methods: dict[str, Search], batches: Iterable[Batch], name: str) -> Measured:
    """Encode each batch once and search it by each method."""
    seconds = dict.fromkeys((ENCODER, *methods), 0.0)
    results: dict[str, dict[str, list[Result]]] = {method: {} for method in methods}
    config, speech = DecodeConfig(), 0.0
    for number, batch in enumerate(batches, 1):
        batch = batch.to(run.device)
        if number == 1 and run.device.type == "cuda":  # what is loaded and chosen at the first use is no method's
            encoded = encode_batch(run, config, batch)
            for search in methods.values():
                search_batch(search, batch, encoded)
        begin = _now(run.device)
        encoded = encode_batch(run, config, batch)
        seconds[ENCODER] += _now(run.device) - begin
        speech += float(batch.audio_lens.sum()) / SAMPLE_RATE
        for method, search in methods.items():
            begin = _now(run.device)
            found = search_batch(search, batch, encoded)
            seconds[method] += _now(run.device) - begin
            for key, best in found.items():
                results[method].setdefault(key, []).extend(results_of(run, search, batch, best, name))
        logging.info("batch %d, %.0f s of speech", number, speech)
    return Measured(speech, seconds, results)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
