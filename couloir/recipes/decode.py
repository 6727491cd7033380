"""Decode test sets, write icefall's result files and one report over all of them."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import torch
from rich.progress import track
from torch import Tensor

from couloir.audio import SAMPLE_RATE
from couloir.config import from_mapping, given_flags
from couloir.data.batch import Batch
from couloir.data.module import DataModule
from couloir.decoding.ctc import ctc_greedy_search, ctc_prefix_beam_search
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.decoding.transducer.methods import TransducerSearch
from couloir.errors import UserError, must_be, unknown_name
from couloir.evaluation.alignment import units_of
from couloir.evaluation.evaluate import Result, evaluate
from couloir.evaluation.files import write_decoding_files
from couloir.recipes.decode_config import CtcDecodeConfig, DecodeConfig
from couloir.recipes.run import LoadedRun, build_data, load_run
from couloir.recipes.run_config import Overrides
from couloir.training.config import AveragingConfig

AVERAGED = "-use-averaged-model"


class Search(Protocol):
    """A decoding method, ready to use. ``method`` names the folder of its results, ``suffix`` their files."""

    method: str
    suffix: str

    def __call__(self, encoded: Tensor, lens: Tensor, tokens: list[list[int]]) -> dict[str, list[Hypothesis]]:
        """Result key -> a hypothesis per utterance, of (B, S, D) with lengths (B,); ``tokens`` are the references."""
        ...

    def text(self, hypothesis: Hypothesis) -> str:
        """What was said."""
        ...


class CtcSearch:
    """Search on the CTC head.

    Args:
        run: the model. namespace: the flags of `CtcDecodeConfig`.
    """

    suffix = ""

    def __init__(self, run: LoadedRun, namespace: argparse.Namespace) -> None:
        self.run = run
        self.config = from_mapping(CtcDecodeConfig, given_flags(namespace, CtcDecodeConfig))
        self.method = self.config.decoding_method

    def __call__(self, encoded: Tensor, lens: Tensor, tokens: list[list[int]]) -> dict[str, list[Hypothesis]]:
        """As `Search.__call__`."""
        log_probs = self.run.model.ctc_log_probs(encoded)
        if self.method == "ctc-greedy-search":
            return {"ctc-greedy-search": ctc_greedy_search(log_probs, lens)}
        return {"prefix-beam-search": ctc_prefix_beam_search(log_probs, lens, beam=self.config.beam_size)}

    def text(self, hypothesis: Hypothesis) -> str:
        """As `Search.text`."""
        return self.run.tokenizer.decode(hypothesis.tokens)


class TransducerDecoding:
    """Search on the transducer.

    Args:
        run: the model. namespace: the flags of `TransducerSearchConfig`.

    Raises:
        UserError: a model without a transducer, or as `TransducerSearch`.
    """

    def __init__(self, run: LoadedRun, namespace: argparse.Namespace) -> None:
        if not run.config.heads.use_transducer:
            raise must_be(
                "--exp-dir", "a model with a transducer", f"{run.exp_dir}", "train with --use-transducer True"
            )
        config = from_mapping(TransducerSearchConfig, given_flags(namespace, TransducerSearchConfig))
        self.run, self.method = run, config.decoding_method
        self.suffix = config.suffix(run.config.heads.context_size)
        self.search = TransducerSearch(config, run.model, run.tokenizer, run.device)

    def __call__(self, encoded: Tensor, lens: Tensor, tokens: list[list[int]]) -> dict[str, list[Hypothesis]]:
        """As `Search.__call__`."""
        return self.search(encoded, lens, tokens)

    def text(self, hypothesis: Hypothesis) -> str:
        """As `Search.text`; graphs of words give words."""
        words = self.search.text_words(hypothesis)
        return self.run.tokenizer.decode(hypothesis.tokens) if words is None else " ".join(words)


@torch.inference_mode()
def decode_batch(run: LoadedRun, config: DecodeConfig, search: Search, batch: Batch) -> dict[str, list[Hypothesis]]:
    """Features, encoder and search of one batch."""
    batch = batch.to(run.device)
    feats, feat_lens = run.fbank(batch.audio, batch.audio_lens)
    encoded, lens = run.model.forward_encoder(feats, feat_lens, padding=config.decode_padding)
    return search(encoded, lens, batch.tokens)


def decode_set(
    run: LoadedRun, config: DecodeConfig, search: Search, data: DataModule, name: str
) -> dict[str, list[Result]]:
    """Result key -> the results of one test set, in the order of its utterances."""
    results: dict[str, list[Result]] = {}
    loader = data.test_loader(name)
    for batch in track(loader, description=f"decoding {name}", total=len(loader)):
        for utterance, reason in batch.skipped:
            logging.warning("%s left out: %s", utterance, reason)
        if not len(batch):
            continue
        for key, hypotheses in decode_batch(run, config, search, batch).items():
            results.setdefault(key, []).extend(
                Result(id, run.tokenizer.prepare(text), search.text(best), language, name, seconds)
                for id, text, best, language, seconds in zip(
                    batch.ids, batch.texts, hypotheses, batch.languages, (batch.audio_lens / SAMPLE_RATE).tolist()
                )
            )
    return results


def decode_test_sets(
    namespace: argparse.Namespace,
    recipe: str,
    defaults: Overrides,
    make_search: Callable[[LoadedRun, argparse.Namespace], Search],
) -> None:
    """The whole of a decoding program: load the run, decode every test set, write files and the report.

    Of a method with many results (one per scale of a language model) all are in the files, and the best is reported.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    config = from_mapping(DecodeConfig, given_flags(namespace, DecodeConfig))
    averaging = from_mapping(AveragingConfig, given_flags(namespace, AveragingConfig))
    run = load_run(namespace, averaging, recipe, defaults, config.device)
    search = make_search(run, namespace)
    data = build_data(run.config, run.tokenizer)
    out_dir, suffix = run.exp_dir / search.method, _suffix(run.suffix, search.suffix)
    everything: dict[str, list[Result]] = {}
    rates: Counter[str] = Counter()
    for name in _chosen_sets(config.test_sets, data):
        results = decode_set(run, config, search, data, name)
        rates.update(write_decoding_files(out_dir, name, suffix, _as_units(results, config.unit)))
        for key, rows in results.items():
            everything.setdefault(key, []).extend(rows)
    if not everything:
        raise UserError("the test sets hold no utterance that can be decoded; see the warnings above")
    best = min(everything, key=lambda key: rates[key])
    evaluation = evaluate(everything[best], unit=config.unit)
    evaluation.write(out_dir, "report", f"{best}, {suffix}")
    print(evaluation.to_text())
    print(f"files and report.html: {out_dir}")


def _suffix(run: str, search: str) -> str:
    """icefall's order: epoch and average, the search's settings, whether the averaged model was used."""
    if not search:
        return run
    start = run.removesuffix(AVERAGED)
    return start + search + ("_" + AVERAGED[1:] if start != run else "")


def _as_units(results: dict[str, list[Result]], unit: str) -> dict[str, list[tuple[str, list[str], list[str]]]]:
    return {key: [(r.id, units_of(r.ref, unit), units_of(r.hyp, unit)) for r in rows] for key, rows in results.items()}


def _chosen_sets(names: str, data: DataModule) -> list[str]:
    there = data.test_sets()
    if not there:
        logging.warning("no test set (a folder test-* beside train): decoding dev, the validation utterances")
        there = ["dev"]
    chosen = [name.strip() for name in names.split(",") if name.strip()] or there
    for name in chosen:
        if name not in there:
            raise unknown_name("test set", name, there)
    return chosen
