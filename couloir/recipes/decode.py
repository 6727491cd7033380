"""Decode test sets, write icefall's result files and one report over all of them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from couloir.audio import SAMPLE_RATE
from couloir.config import flag_name, from_mapping, given_flags
from couloir.data.batch import Batch
from couloir.data.module import DataModule
from couloir.decoding.ctc_config import CtcSearchConfig
from couloir.decoding.ctc_methods import CtcSearch
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.decoding.transducer.methods import TransducerSearch
from couloir.errors import UserError, must_be, shown, unknown_name
from couloir.evaluation.alignment import units_of
from couloir.evaluation.evaluate import Result, evaluate
from couloir.evaluation.files import write_decoding_files
from couloir.features.fbank import PADDING_LOG_MEL
from couloir.models.zipformer.config import ZipformerConfig
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.run import LoadedRun, build_data, load_run, output_frames
from couloir.recipes.run_config import Overrides
from couloir.training.config import AveragingConfig
from couloir.training.progress import LINE, LogFile

AVERAGED = "-use-averaged-model"
TAIL_FRAMES = 30


class Method(Protocol):
    """A decoding method, ready to use."""

    def __call__(self, encoder_out: Tensor, lens: Tensor, references: Any) -> dict[str, list[Hypothesis]]:
        """Result key -> a hypothesis per utterance, of (B, S, D) with lengths (B,)."""

    def text_words(self, hypothesis: Hypothesis) -> list[str] | None:
        """The words that a graph found; None where the tokens are to be decoded."""


@dataclasses.dataclass
class Search:
    """A decoding method and the names of its results.

    Fields:
        decode: the method. name: the folder of its results. suffix: what its settings add to their files' names.
        reference: what the method is told of a batch's reference transcripts.
    """

    decode: Method
    name: str
    suffix: str
    reference: Callable[[Batch], Any]


def ctc_search(run: LoadedRun, namespace: argparse.Namespace) -> Search:
    """Search on the CTC head by the flags of `CtcSearchConfig`. Raises `UserError` as `CtcSearch`."""
    config = from_mapping(CtcSearchConfig, given_flags(namespace, CtcSearchConfig))
    method = CtcSearch(config, run.model, run.tokenizer, run.device)
    return Search(method, config.decoding_method, config.suffix(), lambda batch: batch.texts)


def transducer_search(run: LoadedRun, namespace: argparse.Namespace) -> Search:
    """Search on the transducer by the flags of `TransducerSearchConfig`.

    Raises:
        UserError: a model without a transducer, or as `TransducerSearch`.
    """
    heads = run.config.heads
    if not heads.use_transducer:
        raise must_be("--exp-dir", "a model with a transducer", f"{run.exp_dir}", "train with --use-transducer True")
    config = from_mapping(TransducerSearchConfig, given_flags(namespace, TransducerSearchConfig))
    method = TransducerSearch(config, run.model, run.tokenizer, run.device)
    return Search(method, config.decoding_method, config.suffix(heads.context_size), lambda batch: batch.tokens)


@torch.inference_mode()
def encode_batch(run: LoadedRun, config: DecodeConfig, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features and encoder of a batch on the run's device: (B, S, D) and lengths (B,)."""
    feats, feat_lens = run.fbank(batch.audio, batch.audio_lens)
    if run.config.zipformer.causal:  # icefall's tail, so that the last chunk is whole
        feats, feat_lens = F.pad(feats, (0, 0, 0, TAIL_FRAMES), value=PADDING_LOG_MEL), feat_lens + TAIL_FRAMES
    return run.model.forward_encoder(feats, feat_lens, padding=config.decode_padding)


@torch.inference_mode()
def search_batch(
    run: LoadedRun, search: Search, batch: Batch, encoded: tuple[Tensor, Tensor], name: str
) -> dict[str, list[Result]]:
    """Result key -> the results of a batch of the test set ``name``, of what `encode_batch` gave."""
    found = search.decode(*encoded, search.reference(batch))
    return {
        key: _results(run, batch, [text_of(run, search, best) for best in hypotheses], name)
        for key, hypotheses in found.items()
    }


def _results(run: LoadedRun, batch: Batch, heard: list[str], name: str) -> list[Result]:
    seconds = (batch.audio_lens / SAMPLE_RATE).tolist()
    return [
        Result(id, run.tokenizer.prepare(text), hyp, language, name, duration)
        for id, text, hyp, language, duration in zip(batch.ids, batch.texts, heard, batch.languages, seconds)
    ]


def text_of(run: LoadedRun, search: Search, hypothesis: Hypothesis) -> str:
    """What was said: the words that a graph found, else the tokens' text."""
    words = search.decode.text_words(hypothesis)
    return run.tokenizer.decode(hypothesis.tokens) if words is None else " ".join(words)


def decode_set(
    run: LoadedRun, config: DecodeConfig, search: Search, data: DataModule, name: str
) -> dict[str, list[Result]]:
    """Result key -> the results of one test set, longest utterances first.

    In an utterance too short for the encoder nothing is found, which counts as errors.
    """
    results: dict[str, list[Result]] = {}
    too_short: list[Result] = []
    loader = data.test_loader(name)
    for batch in track(loader, description=f"decoding {name}", total=len(loader)):
        for utterance, reason in batch.skipped:
            logging.warning("%s left out: %s", utterance, reason)
        batch, rest = _split_short(run, batch)
        too_short += _results(run, rest, [""] * len(rest), name)
        if not len(batch):
            continue
        batch = batch.to(run.device)
        for key, rows in search_batch(run, search, batch, encode_batch(run, config, batch), name).items():
            results.setdefault(key, []).extend(rows)
    if too_short:
        ids = ", ".join(result.id for result in too_short)
        text = "%s: %d utterances too short for the model, scored as if nothing was found in them: %s"
        logging.warning(text, name, len(too_short), ids)
    for rows in results.values():
        rows += too_short
    return results


def _split_short(run: LoadedRun, batch: Batch) -> tuple[Batch, Batch]:
    """The utterances that the encoder makes at least one frame of, and the others."""
    # The tail that `encode_batch` adds for a causal model is long enough by itself.
    long_enough, too_short = list[int](), list[int]()
    for row, samples in enumerate(batch.audio_lens.tolist()):
        enough = run.config.zipformer.causal or output_frames(run.config, samples) > 0
        (long_enough if enough else too_short).append(row)
    return batch.select(long_enough), batch.select(too_short)


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
    _check_chunks(run.config.zipformer)
    search = make_search(run, namespace)
    data = build_data(run.config, run.tokenizer)
    out_dir, suffix = run.exp_dir / search.name, _suffix(run, search)
    with _logged_to(out_dir / f"log-decode-{suffix}-{time.strftime('%Y-%m-%d-%H-%M-%S')}"):
        given = sorted((flag_name(name), value) for name, value in vars(namespace).items() if value is not None)
        flags = " ".join(f"{flag} {value}" for flag, value in given)
        logging.info("%s of %s, on %s: %s", search.name, run.exp_dir, run.device, flags)
        _decode_and_score(run, config, search, data, suffix)


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """What is logged inside is written to ``path`` too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, root = LogFile(path, encoding="utf-8"), logging.getLogger()
    handler.setFormatter(logging.Formatter(LINE))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _decode_and_score(run: LoadedRun, config: DecodeConfig, search: Search, data: DataModule, suffix: str) -> None:
    out_dir = run.exp_dir / search.name
    everything: dict[str, list[Result]] = {}
    rates: Counter[str] = Counter()
    for name in _chosen_sets(config.test_sets, data):
        results = decode_set(run, config, search, data, name)
        units, score = _as_units(results, config.unit), not config.skip_scoring
        found = write_decoding_files(out_dir, name, suffix, units, score)
        logging.info("%s: %s", name, ", ".join(f"{key} {rate} %" for key, rate in found.items()) or "not scored")
        rates.update(found)
        for key, rows in results.items():
            everything.setdefault(key, []).extend(rows)
    if not everything:
        raise UserError("the test sets hold no utterance that can be decoded; see the warnings above")
    if config.skip_scoring:
        print(f"files: {shown(out_dir)}")
        return
    best = min(everything, key=lambda key: rates[key])
    evaluation = evaluate(everything[best], unit=config.unit)
    evaluation.write(out_dir, "report", f"{best}, {suffix}")
    print(shown(evaluation.to_text(), lines=True))
    print(f"files and report.html: {shown(out_dir)}")


def _suffix(run: LoadedRun, search: Search) -> str:
    """icefall's names: epoch and average, the chunks, the search's settings, whether the averaged model was used.

    ZIPA's are those of the exported files, with a dash in place of some underscores.
    """
    zipformer = run.config.zipformer
    chunks = (
        f"_chunk-{zipformer.chunk_size[0]}_left-context-{zipformer.left_context_frames[0]}" if zipformer.causal else ""
    )
    if run.config.recipe == "zipformer_crctc" and not chunks + search.suffix:
        return run.suffix
    start = run.suffix.removesuffix(AVERAGED)
    averaged = "_" + AVERAGED[1:] if start != run.suffix else ""
    return re.sub(r"^((?:epoch|iter)-\d+)-(avg-\d+)$", r"\1_\2", start) + chunks + search.suffix + averaged


def _check_chunks(config: ZipformerConfig) -> None:
    """A causal model decodes with one chunk size; training draws among several."""
    for flag, values, example in (
        ("--chunk-size", config.chunk_size, 32),
        ("--left-context-frames", config.left_context_frames, 128),
    ):
        if config.causal and len(values) != 1:
            raise must_be(flag, "one value in decoding", ",".join(map(str, values)), f"give {flag} {example}")


def _as_units(results: dict[str, list[Result]], unit: str) -> dict[str, list[tuple[str, list[str], list[str]]]]:
    return {key: [(r.id, units_of(r.ref, unit), units_of(r.hyp, unit)) for r in rows] for key, rows in results.items()}


def _chosen_sets(names: str, data: DataModule) -> list[str]:
    there = data.test_sets()
    if not there:
        logging.warning("no test set (a folder test-* beside train): decoding dev, the validation utterances")
        there = ["dev"]
    chosen = [name.strip() for name in names.split(",") if name.strip()] or there
    known = sorted({*there, "dev"})
    for name in chosen:
        if name not in known:
            raise unknown_name("test set", name, known)
    return chosen
