"""Checks of prepared data: shards whole, audio as long as its cut says, texts in the vocabulary, splits apart."""

from __future__ import annotations

import tarfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.data.corpora.config import HELDOUT, SPLITS, TRAIN, UNSEEN_LANGUAGES, UNSEEN_SPEAKERS
from couloir.data.corpora.registry import unit_of_data
from couloir.data.corpora.statistics import read_cuts, shar_splits
from couloir.errors import UserError
from couloir.limits import MAX_MEMBER_BYTES
from couloir.progress import track
from couloir.text.ipa import remove_diacritics
from couloir.text.spelling import has_digits
from couloir.text.tokenizer import Tokenizer, load_tokenizer
from couloir.text.units import Unit

_ROUNDING_S = 0.02


@dataclass
class Findings:
    """What validation found, a line each: ``problems`` are to be fixed, ``warnings`` only to be known."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def validate(data_dir: Path, nj: int) -> Findings:
    """Look at every utterance; ``nj`` threads decode the audio."""
    tokenizer = load_tokenizer(data_dir / "lang") if (data_dir / "lang").is_dir() else None
    cuts = {split: list(read_cuts(data_dir / "shar" / split)) for split in shar_splits(data_dir)}
    tars = [path for split in cuts for path in sorted((data_dir / "shar" / split).glob("recording.*.tar"))]
    unit = unit_of_data(data_dir)
    problems = [line for split, items in cuts.items() for cut in items for line in _cut(cut, split, tokenizer, unit)]
    lengths: dict[str, float] = {}
    with ThreadPoolExecutor(nj) as pool:
        for found, broken in track(pool.map(_audio_lengths, tars), "decoding every utterance", len(tars)):
            lengths.update(found)
            problems += broken
    for split, items in cuts.items():
        for cut in items:
            length = lengths.get(cut["id"])
            if length is None:
                problems.append(f"{split}: {cut['id']} has no audio in its shard")
            elif abs(length - cut["duration"]) > 1 / SAMPLE_RATE:
                problems.append(f"{split}: {cut['id']} must last {cut['duration']} s, but lasts {length} s")
    between = _between_splits(cuts)
    return Findings([*problems, *between.problems], [*between.warnings, *([] if unit.is_ipa else _with_digits(cuts))])


def _with_digits(cuts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How many transcripts of each split hold digits, in place of the words that were spoken."""
    counts = {split: sum(has_digits(cut["supervisions"][0]["text"]) for cut in items) for split, items in cuts.items()}
    said = "transcripts hold digits, not the words that are spoken; write them out"
    return [f"{split}: {count} {said}" for split, count in counts.items() if count]


def _audio_lengths(path: Path) -> tuple[dict[str, float], list[str]]:
    """Seconds of each utterance of a shard, and what could not be decoded."""
    lengths, problems = {}, []
    try:
        with tarfile.open(path, "r") as archive:
            for member in archive:
                if not member.name.endswith(".flac"):
                    continue
                if not member.isreg() or member.issparse() or member.size > MAX_MEMBER_BYTES:
                    problems.append(f"{path}: {member.name} is no audio, but a link, a sparse file or too large")
                    continue
                content = archive.extractfile(member)
                data = content.read() if content else b""
                try:
                    lengths[member.name[: -len(".flac")]] = len(load_audio(data, name=member.name)) / SAMPLE_RATE
                except UserError as error:
                    problems.append(f"{path}: {error}")
    except (tarfile.TarError, EOFError, OSError) as error:
        problems.append(f"{path} is damaged: {error}")
    return lengths, problems


def _cut(cut: dict[str, Any], split: str, tokenizer: Tokenizer | None, unit: Unit) -> Iterator[str]:
    """Problems of one cut's text and phone times."""
    supervision = cut["supervisions"][0]
    text, where = supervision["text"], f"{split}: {cut['id']}"
    if not unit.split(text):
        yield f"{where} has no {unit.plural}"
    # A vocabulary may have been made from texts without diacritics; then the trainer removes them as well.
    forms = () if split != TRAIN else (text, remove_diacritics(text)) if unit.is_ipa else (text,)
    if tokenizer and (unknown := min((tokenizer.unknown_symbols(form) for form in forms), key=len, default=set())):
        yield f"{where} has symbols outside the vocabulary: {' '.join(sorted(unknown))}"
    phones = (supervision.get("alignment") or {}).get("phone")
    if phones is None:
        return
    if "".join(phone[0] for phone in phones) != text:
        yield f"{where} has timed phones that differ from its text"
    if any(start < -_ROUNDING_S or start + length > cut["duration"] + _ROUNDING_S for _, start, length, *_ in phones):
        yield f"{where} has phones outside its {cut['duration']} s"
    if any(before[1] > after[1] + 1e-6 for before, after in pairwise(phones)):
        yield f"{where} has phones out of order"


def _between_splits(cuts: dict[str, list[dict[str, Any]]]) -> Findings:
    """Utterances, speakers, languages and sentences that are in two splits and must not be."""
    findings = Findings()
    seen: dict[str, str] = {}
    values: dict[str, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    prescribed: set[Any] = set()
    for split, items in cuts.items():
        for cut in items:
            supervision = cut["supervisions"][0]
            if seen.setdefault(cut["id"], split) != split:
                findings.problems.append(f"{cut['id']} is in {seen[cut['id']]} and in {split}")
            for what, value in _kept_apart(supervision).items():
                values[what][split].add(value)
                if supervision.get("custom", {}).get("prescribed_split"):
                    prescribed.add((what, value))
    for what, split in (("speaker", UNSEEN_SPEAKERS), ("language", UNSEEN_LANGUAGES), ("sentence", HELDOUT)):
        for shared in sorted(values[what][split] & values[what][TRAIN], key=str):
            line = f"{split}: the {what} {shared} is in {TRAIN} as well"
            if (what, shared) in prescribed:
                findings.warnings.append(f"{line}, as the data itself prescribes")
            else:
                findings.problems.append(line)
    findings.warnings += _shared_by_prescription(cuts)
    return findings


def _shared_by_prescription(cuts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How many speakers, recordings and sentences are in training and in a split that the data itself prescribes."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    prescribed = set()
    for split, items in cuts.items():
        for supervision in (cut["supervisions"][0] for cut in items):
            custom = supervision.get("custom", {})
            prescribed |= {split} if custom.get("prescribed_split") else set()
            values["speakers", split].add(supervision.get("speaker", ""))
            values["recordings", split].add(custom.get("recording", ""))
            if split == TRAIN or split not in SPLITS:  # those of `HELDOUT` are named one by one
                values["sentences", split].add(custom.get("orthography", ""))
    counts = {
        (what, split): len(found & values[what, TRAIN] - {""})
        for (what, split), found in values.items()
        if split != TRAIN and {split, TRAIN} <= prescribed
    }
    return [
        f"{split}: {count} {what} are in {TRAIN} as well, as the data itself prescribes"
        for (what, split), count in sorted(counts.items())
        if count and (what, split) != ("speakers", UNSEEN_SPEAKERS)  # those are named one by one
    ]


def _kept_apart(supervision: dict[str, Any]) -> dict[str, Any]:
    """What of an utterance a split may be tested on: its speaker where known, its language, its sentence."""
    custom = supervision.get("custom", {})
    sentence = (custom.get("corpus"), supervision.get("language"), custom.get("orthography") or supervision["text"])
    values = {"language": supervision.get("language"), "sentence": sentence}
    return values | ({"speaker": supervision["speaker"]} if supervision.get("speaker") else {})
