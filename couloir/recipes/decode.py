"""Decode test sets, write icefall's result files and one report over all of them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import torch
from rich.progress import track
from torch import Tensor

from couloir.audio import SAMPLE_RATE
from couloir.config import from_mapping, given_flags
from couloir.data.batch import Batch
from couloir.data.module import DataModule
from couloir.decoding.ctc import ctc_greedy_search, ctc_prefix_beam_search
from couloir.decoding.hypothesis import Hypothesis
from couloir.errors import unknown_name
from couloir.evaluation.alignment import units_of
from couloir.evaluation.evaluate import Result, evaluate
from couloir.evaluation.files import write_decoding_files
from couloir.recipes.decode_config import CtcDecodeConfig
from couloir.recipes.run import LoadedRun, build_data, load_run
from couloir.recipes.run_config import Overrides
from couloir.training.config import AveragingConfig

Search = Callable[[LoadedRun, CtcDecodeConfig, Tensor, Tensor], dict[str, list[Hypothesis]]]


def ctc_search(run: LoadedRun, config: CtcDecodeConfig, encoded: Tensor, lens: Tensor) -> dict[str, list[Hypothesis]]:
    """Result key -> one hypothesis per utterance, of encoder output (B, S, D) with lengths (B,)."""
    log_probs = run.model.ctc_log_probs(encoded)
    if config.decoding_method == "ctc-greedy-search":
        return {"ctc-greedy-search": ctc_greedy_search(log_probs, lens)}
    return {"prefix-beam-search": ctc_prefix_beam_search(log_probs, lens, beam=config.beam_size)}


@torch.inference_mode()
def decode_batch(run: LoadedRun, config: CtcDecodeConfig, search: Search, batch: Batch) -> dict[str, list[Hypothesis]]:
    """Features, encoder and search of one batch."""
    batch = batch.to(run.device)
    feats, feat_lens = run.fbank(batch.audio, batch.audio_lens)
    encoded, lens = run.model.forward_encoder(feats, feat_lens, padding=config.decode_padding)
    return search(run, config, encoded, lens)


def decode_set(
    run: LoadedRun, config: CtcDecodeConfig, search: Search, data: DataModule, name: str
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
                Result(id, run.tokenizer.prepare(text), run.tokenizer.decode(best.tokens), language, name, seconds)
                for id, text, best, language, seconds in zip(
                    batch.ids, batch.texts, hypotheses, batch.languages, (batch.audio_lens / SAMPLE_RATE).tolist()
                )
            )
    return results


def decode_test_sets(namespace: argparse.Namespace, recipe: str, defaults: Overrides, search: Search) -> None:
    """The whole of a decoding program: load the run, decode every test set, write files and the report."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    config = from_mapping(CtcDecodeConfig, given_flags(namespace, CtcDecodeConfig))
    averaging = from_mapping(AveragingConfig, given_flags(namespace, AveragingConfig))
    run = load_run(namespace, averaging, recipe, defaults, config.device)
    data = build_data(run.config, run.tokenizer)
    out_dir = run.exp_dir / config.decoding_method
    everything: dict[str, list[Result]] = {}
    for name in _chosen_sets(config.test_sets, data):
        results = decode_set(run, config, search, data, name)
        write_decoding_files(out_dir, name, run.suffix, _as_units(results, config.unit))
        for key, rows in results.items():
            everything.setdefault(key, []).extend(rows)
    for key, rows in everything.items():
        evaluation = evaluate(rows, unit=config.unit)
        evaluation.write(out_dir, "report" if len(everything) == 1 else f"report-{key}", f"{key}, {run.suffix}")
        print(evaluation.to_text())
    print(f"files and report.html: {out_dir}")


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
