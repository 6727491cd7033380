"""Decode test sets, write icefall's result files and one report over all of them."""
# Shapes: B batch, D model dimension, S output frames.

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from couloir.audio import SAMPLE_RATE
from couloir.config import flag_name, from_mapping, given_flags
from couloir.data.batch import Batch
from couloir.data.folder import FEWEST_TO_JUDGE
from couloir.data.index import Utterance
from couloir.data.module import DataModule
from couloir.decoding.ctc_config import CtcSearchConfig
from couloir.decoding.ctc_methods import CtcSearch
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.search import Results, Search
from couloir.decoding.transducer.config import TransducerSearchConfig
from couloir.decoding.transducer.methods import TransducerSearch
from couloir.errors import UserError, must_be, shown, unknown_name
from couloir.evaluation.evaluate import Result, evaluate
from couloir.evaluation.files import result_names, write_decoding_files
from couloir.families.registry import DEFAULT
from couloir.files import atomic_write
from couloir.inference.formats import table
from couloir.inference.frame_times import frame_times
from couloir.inference.transcript import Transcript, transcript_of
from couloir.inference.vocabulary import Vocabulary
from couloir.progress import log_to_screen, logged_to, track
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.run import LoadedRun, load_run, own_unit, refuse_other_transcripts, scored_in
from couloir.recipes.run_config import Overrides
from couloir.text.units import WORD, Unit
from couloir.training.config import AveragingConfig

AVERAGED = "-use-averaged-model"
TAIL_FRAMES = 30


def ctc_search(run: LoadedRun, namespace: argparse.Namespace) -> Search:
    """Search on the CTC head by the flags of `CtcSearchConfig`. Raises `UserError` as `CtcSearch`."""
    config = from_mapping(CtcSearchConfig, given_flags(namespace, CtcSearchConfig))
    return CtcSearch(config, run.model, run.tokenizer, run.device)


def transducer_search(run: LoadedRun, namespace: argparse.Namespace) -> Search:
    """Search on the transducer by the flags of `TransducerSearchConfig`.

    Raises:
        UserError: a model without a transducer, or as `TransducerSearch`.
    """
    if "transducer" not in run.family.kinds(run.config):
        raise must_be("--exp-dir", "a model with a transducer", f"{run.exp_dir}", "train with --use-transducer True")
    config = from_mapping(TransducerSearchConfig, given_flags(namespace, TransducerSearchConfig))
    return TransducerSearch(config, run.model, run.tokenizer, run.device)


@torch.inference_mode()
def encode_batch(run: LoadedRun, config: DecodeConfig, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features and encoder of a batch on the run's device: (B, S, D) and lengths (B,)."""
    feats, feat_lens = run.fbank(batch.audio, batch.audio_lens)
    if run.model.context():  # icefall's tail, so that the last chunk is whole
        feats, feat_lens = F.pad(feats, (0, 0, 0, TAIL_FRAMES), value=run.fbank.padding_value), feat_lens + TAIL_FRAMES
    return run.model.forward_encoder(feats, feat_lens, padding=config.decode_padding)


@torch.inference_mode()
def search_batch(search: Search, batch: Batch, encoded: tuple[Tensor, Tensor]) -> Results:
    """What a method finds in a batch, of what `encode_batch` gave."""
    return search(*encoded, batch.texts)


def results_of(run: LoadedRun, search: Search, batch: Batch, found: list[Hypothesis], name: str) -> list[Result]:
    """What was found in a batch of the test set ``name``, as texts to be scored."""
    return _results(run, batch, [text_of(run, search, best) for best in found], name)


def timed_batch(run: LoadedRun, search: Search, batch: Batch, found: list[Hypothesis]) -> list[Transcript]:
    """What was found in a batch, with times."""
    vocabulary = Vocabulary(run.tokenizer.pieces)
    times = frame_times(run.model.geometry(), run.fbank.config)
    transcripts = list[Transcript]()
    for name, best, seconds in zip(batch.ids, found, (batch.audio_lens / SAMPLE_RATE).tolist()):
        texts = search.text_words(best)
        words = None if texts is None else (texts, search.word_lengths(best))
        transcripts.append(transcript_of(name, best, vocabulary, times, seconds, words))
    return transcripts


def write_times(folder: Path, names: dict[str, str], timed: dict[str, list[Transcript]], unit: Unit) -> None:
    """Write ``times-NAME.ctm`` of each result: words where a graph found them or ``unit`` is the word, else phones."""
    for key, transcripts in timed.items():
        if unit is WORD:
            transcripts = [dataclasses.replace(one, said=one.words()) for one in transcripts]
        with atomic_write(folder / f"times-{names[key]}.ctm", "w") as out:
            out.write(table("ctm", sorted(transcripts, key=lambda one: one.name)))


def _results(run: LoadedRun, batch: Batch, texts: list[str], name: str) -> list[Result]:
    seconds = (batch.audio_lens / SAMPLE_RATE).tolist()
    return [
        Result(id, run.tokenizer.prepare(text), hyp, language, name, duration)
        for id, text, hyp, language, duration in zip(batch.ids, batch.texts, texts, batch.languages, seconds)
    ]


def text_of(run: LoadedRun, search: Search, hypothesis: Hypothesis) -> str:
    """What was said: the words that a graph found, else the tokens' text."""
    words = search.text_words(hypothesis)
    return run.tokenizer.decode(hypothesis.tokens) if words is None else " ".join(words)


@dataclasses.dataclass
class DecodedSet:
    """What came of one test set.

    Fields:
        results: result key -> results, longest utterances first. seen: utterances of the set.
        timed: result key -> what was found, with times, where that was asked for.
        unread: those without usable audio. too_short: those too short for the encoder.
    """

    results: dict[str, list[Result]] = dataclasses.field(default_factory=dict)
    timed: dict[str, list[Transcript]] = dataclasses.field(default_factory=dict)
    seen: int = 0
    unread: int = 0
    too_short: int = 0

    def note(self, name: str) -> str:
        """A line on what the figures of the set hold beside what was decoded; "" where that is nothing."""
        parts = ((self.too_short, "too short for the model"), (self.unread, "without usable audio"))
        found = [f"{count} {what}" for count, what in parts if count]
        if not found:
            return ""
        return f"{name}: of {self.seen} utterances {', '.join(found)}, scored as if nothing was found in them"


def decode_set(run: LoadedRun, config: DecodeConfig, search: Search, data: DataModule, name: str) -> DecodedSet:
    """The results of one test set.

    In an utterance that is too short for the encoder, or whose audio is unusable, nothing is found, which counts as
    errors: the set has all its utterances, whatever becomes of them. Raises `UserError` for a set without any.
    """
    done, lost = DecodedSet(), list[Result]()
    loader = data.test_loader(name, judge=False)
    for batch in track(loader, f"decoding {name}", len(loader)):
        done.seen += len(batch) + len(batch.unread)
        done.unread += len(batch.unread)
        lost += [_nothing_found(run, utterance, name) for utterance in batch.unread]
        batch, rest = _split_short(run, batch)
        done.too_short += len(rest)
        lost += _results(run, rest, [""] * len(rest), name)
        if not len(batch):
            continue
        batch = batch.to(run.device)
        found = search_batch(search, batch, encode_batch(run, config, batch))
        for key, hypotheses in found.items():
            done.results.setdefault(key, []).extend(results_of(run, search, batch, hypotheses, name))
            if config.write_ctm:
                done.timed.setdefault(key, []).extend(timed_batch(run, search, batch, hypotheses))
    if not done.seen:
        raise UserError(f"{name} holds no utterance that can be decoded")
    if lost:
        if not done.results:
            done.results = {key: [] for key in _result_keys(run, config, search, lost[0])}
        for rows in done.results.values():
            rows += lost
        logging.warning("%s: %s", done.note(name), ", ".join(result.id for result in lost))
    return done


def _nothing_found(run: LoadedRun, utterance: Utterance, name: str) -> Result:
    reference = run.tokenizer.prepare(utterance.text)
    return Result(utterance.id, reference, "", utterance.language, name, utterance.duration)


def _result_keys(run: LoadedRun, config: DecodeConfig, search: Search, result: Result) -> list[str]:
    """The keys of a method's results, which only decoding tells: of a second of silence."""
    tokens, lens = [run.tokenizer.encode(result.ref)], torch.tensor([SAMPLE_RATE])
    silence = Batch([""], [result.ref], [""], [""], tokens, torch.zeros(1, SAMPLE_RATE), lens).to(run.device)
    return list(search_batch(search, silence, encode_batch(run, config, silence)))


def _split_short(run: LoadedRun, batch: Batch) -> tuple[Batch, Batch]:
    """The utterances that the encoder makes at least one frame of, and the others."""
    # The tail that `encode_batch` adds for a causal model is long enough by itself.
    long_enough, too_short = list[int](), list[int]()
    for row, samples in enumerate(batch.audio_lens.tolist()):
        enough = run.model.context() or run.family.output_frames(run.config, samples) > 0
        (long_enough if enough else too_short).append(row)
    return batch.select(long_enough), batch.select(too_short)


def decode_test_sets(
    namespace: argparse.Namespace,
    recipe: str,
    defaults: Overrides,
    make_search: Callable[[LoadedRun, argparse.Namespace], Search],
    family: str = DEFAULT,
    zipa_names: bool = False,
) -> None:
    """The whole of a decoding program: load the run, decode every test set, write files and the report.

    Of a method with many results (one per scale of a language model) all are in the files, and the best is reported.

    Args:
        namespace: the flags. recipe: whose runs are decoded. defaults: of the recipe, for foreign checkpoints.
        make_search: the method that the flags ask for. family: whose models the recipe makes.
        zipa_names: see `_suffix`.
    """
    log_to_screen()
    config = from_mapping(DecodeConfig, given_flags(namespace, DecodeConfig))
    averaging = from_mapping(AveragingConfig, given_flags(namespace, AveragingConfig))
    run = load_run(namespace, averaging, recipe, defaults, config.device, family=family)
    _check_context(run.model.context(), config)
    search = make_search(run, namespace)
    data = run.data()
    out_dir, suffix = run.exp_dir / search.name, _suffix(run, search, zipa_names)
    with logged_to(out_dir / f"log-decode-{suffix}-{time.strftime('%Y-%m-%d-%H-%M-%S')}"):
        given = sorted((flag_name(name), value) for name, value in vars(namespace).items() if value is not None)
        flags = " ".join(f"{flag} {value}" for flag, value in given)
        logging.info("%s of %s, on %s: %s", search.name, run.exp_dir, run.device, flags)
        _decode_and_score(run, config, search, data, suffix)


def _decode_and_score(run: LoadedRun, config: DecodeConfig, search: Search, data: DataModule, suffix: str) -> None:
    out_dir = run.exp_dir / search.name
    everything: dict[str, list[Result]] = {}
    rates: Counter[str] = Counter()
    sets, failures = dict[str, DecodedSet](), list[str]()
    unit = scored_in(run.config, run.tokenizer)
    if not config.skip_scoring:
        refuse_other_transcripts(run.config, own_unit(run.tokenizer), unit)
    for name in _chosen_sets(config.test_sets, data):
        try:
            done = decode_set(run, config, search, data, name)
        except UserError as error:  # the other sets have their results
            logging.error("%s", error)
            failures.append(str(error))
            continue
        sets[name] = done
        units, score = _as_units(done.results, unit), not config.skip_scoring
        found = write_decoding_files(out_dir, name, suffix, units, score)
        write_times(out_dir, result_names(name, suffix, units), done.timed, unit)
        logging.info("%s: %s", name, ", ".join(f"{key} {rate} %" for key, rate in found.items()) or "not scored")
        rates.update(found)
        for key, rows in done.results.items():
            everything.setdefault(key, []).extend(rows)
    if everything and not config.skip_scoring:
        best = min(everything, key=lambda key: rates[key])
        notes = [note for name, done in sets.items() if (note := done.note(name))]
        evaluation = evaluate(everything[best], unit, notes=[*notes, *failures])
        evaluation.write(out_dir, "report", f"{best}, {suffix}")
        print(shown(evaluation.to_text(), lines=True))
    if everything:
        print(f"files{' and report.html' * (not config.skip_scoring)}: {shown(out_dir)}")
    _judge(sets, failures, data.config.max_skipped_share)


def _judge(sets: dict[str, DecodedSet], failures: list[str], most: float) -> None:
    """End with an error when a set has no result, or too many of its utterances have no usable audio."""
    if sets and all(done.unread == done.seen for done in sets.values()):
        raise UserError("no utterance of the test sets has usable audio; the warnings above say why")
    lacking = [
        f"{name}: {done.unread} of {done.seen} utterances have no usable audio, more than --max-skipped-share {most}; "
        "they count as errors"
        for name, done in sets.items()
        if done.unread >= FEWEST_TO_JUDGE and done.unread > most * done.seen
    ]
    if failures or lacking:
        raise UserError("; ".join([*failures, *lacking]))


def _suffix(run: LoadedRun, search: Search, zipa_names: bool) -> str:
    """icefall's names: epoch and average, the chunks, the search's settings, whether the averaged model was used.

    ZIPA's are those of the exported files, with a dash in place of some underscores.
    """
    context = run.model.context()
    chunks = "_chunk-{}_left-context-{}".format(*context) if context else ""
    if zipa_names and not chunks + search.suffix:
        return run.suffix
    start = run.suffix.removesuffix(AVERAGED)
    averaged = "_" + AVERAGED[1:] if start != run.suffix else ""
    return re.sub(r"^((?:epoch|iter)-\d+)-(avg-\d+)$", r"\1_\2", start) + chunks + search.suffix + averaged


def _check_context(context: tuple[int, int] | None, config: DecodeConfig) -> None:
    """Refuse several chunk sizes, among which training alone draws, and a left context of no chunk.

    Args:
        context: of the model, see `SpeechModel.context`. config: with the flags.
    """
    if context is None:
        return
    for flag, values in (("--chunk-size", config.chunk_size), ("--left-context-frames", config.left_context_frames)):
        if values is not None and len(values) != 1:
            raise must_be(flag, "one value in decoding", ",".join(map(str, values)), f"such as {flag} {values[-1]}")
    chunk, left = context
    if config.left_context_frames not in (None, (-1,)) and chunk < 0:
        raise UserError("`--left-context-frames` has no effect without `--chunk-size`; give both or neither")
    said = "full context" if chunk < 0 else f"chunks of {chunk} frames (20 ms each), left context {left} (-1: all)"
    logging.info("a causal model, decoded with %s", said)


def _as_units(results: dict[str, list[Result]], unit: Unit) -> dict[str, list[tuple[str, list[str], list[str]]]]:
    return {key: [(r.id, unit.split(r.ref), unit.split(r.hyp)) for r in rows] for key, rows in results.items()}


def _chosen_sets(names: str, data: DataModule) -> list[str]:
    there = data.test_sets()
    if not there:
        logging.warning("no test set (a folder test-* beside train): decoding dev, the validation utterances")
        there = ["dev"]
    chosen = [name.strip() for name in names.split(",") if name.strip()] or there
    known = sorted({*there, "dev", *data.dev_sets()})
    for name in chosen:
        if name not in known:
            raise unknown_name("test set", name, known)
    return chosen
