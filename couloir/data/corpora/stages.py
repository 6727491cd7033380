"""The stages of ``prepare.sh`` from builders to Shar folders. Each can be repeated and killed at any point."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from couloir.audio import SAMPLE_RATE, audio_seconds, load_audio
from couloir.data.corpora.base import NO_TRANSCRIPT, REPEATED, UNREADABLE, Corpus, Dropped, Phone, Utterance
from couloir.data.corpora.config import SPLITS, TRAIN, FilterConfig, SharConfig, SplitConfig, is_split, split_order
from couloir.data.corpora.keyed import normal_key
from couloir.data.corpora.manifest import (
    dropped_path,
    fingerprint,
    is_done,
    mark_done,
    read_manifest,
    write_dropped,
    write_manifest,
)
from couloir.data.corpora.parts import (
    Part,
    PendingSplit,
    announce,
    forget_parts,
    refuse_missing_parts,
    refuse_other_parts,
)
from couloir.data.corpora.splits import assign_splits
from couloir.data.corpora.times import OUTSIDE, inside
from couloir.data.shar import SharUtterance, refuse_foreign_files, write_shards
from couloir.errors import UserError
from couloir.files import name_of_id
from couloir.progress import log, track
from couloir.text.g2p import phonemize
from couloir.text.ipa import segment
from couloir.text.languages import in_small_letters
from couloir.text.units import PHONE, Unit, save_unit

_MOST_UNREADABLE = 0.5


def manifest_path(data_dir: Path, corpus: str) -> Path:
    """A corpus as its builder sees it."""
    return data_dir / "manifests" / f"{corpus}.jsonl.gz"


def transcripts_path(data_dir: Path, corpus: str, unit: Unit = PHONE) -> Path:
    """A corpus with what is to be recognised: IPA, words, or characters."""
    return data_dir / unit.plural / f"{corpus}.jsonl.gz"


# Stage: manifests


def make_manifest(corpus: Corpus, download_dir: Path, data_dir: Path, options: object) -> None:
    """List a corpus with the duration of each utterance; what cannot be opened or is outside its recording is dropped.

    Raises `UserError` when that is most of them.
    """
    out = manifest_path(data_dir, corpus.name)
    inputs = fingerprint(corpus.name, options, files=corpus.sources(download_dir))
    if is_done(out, inputs):
        log(f"{corpus.name}: manifest is there already")
        return
    kept: list[Utterance] = []
    dropped: list[Dropped] = []
    ids: set[str] = set()
    names: set[str] = set()
    for item in track(corpus.utterances(download_dir), f"{corpus.name}: reading headers"):
        item = item if isinstance(item, Dropped) else _measured(item, normal_key(item.id) in ids)
        ids.add(normal_key(item.id))
        item = dataclasses.replace(item, id=f"{corpus.name}_{name_of_id(item.id, names, blank='-')}")
        if isinstance(item, Dropped):
            dropped.append(item)
        else:
            kept.append(item)
    write_dropped(dropped_path(data_dir, "manifests", corpus.name), dropped)
    unread = [item for item in dropped if item.reason not in (NO_TRANSCRIPT, REPEATED)]
    if len(unread) > _MOST_UNREADABLE * (len(kept) + len(unread)) or not kept:
        first = "; ".join(f"{item.id}: {item.detail}" for item in (unread or dropped)[:1]) or "it has none"
        raise UserError(
            f"{len(dropped)} of {len(kept) + len(dropped)} utterances of {corpus.name} cannot be used: {first}"
        )
    write_manifest(out, kept)
    mark_done(out, inputs)
    hours = sum(u.duration or 0 for u in kept) / 3600
    log(f"{corpus.name}: {len(kept)} utterances, {hours:.2f} h; {reasons(dropped)}")


def _measured(utterance: Utterance, is_repeated: bool) -> Utterance | Dropped:
    """The utterance inside its recording, or why it is left out."""
    if is_repeated:
        return Dropped(utterance.id, REPEATED)
    try:
        length = recording_seconds(utterance.audio)
    except UserError as error:
        return Dropped(utterance.id, UNREADABLE, str(error))
    try:
        return inside(utterance, length)
    except UserError as error:
        return Dropped(utterance.id, OUTSIDE, str(error))


def reasons(dropped: Iterable[Dropped]) -> str:
    """How many were left out for which reason, in words."""
    counts = Counter(item.reason for item in dropped)
    return "; ".join(f"{count} left out: {reason}" for reason, count in counts.most_common()) or "none left out"


@lru_cache(maxsize=1024)
def recording_seconds(audio: str) -> float:
    """Length of a recording in s, without decoding it where the header tells. Raises `UserError`."""
    return audio_seconds(Path(audio))


# Stage: phones


def make_phones(corpus: str, data_dir: Path, nj: int, voices: Mapping[str, str] | None = None) -> None:
    """Bring gold phones to IPA normal form and make IPA of words where there are no phones.

    ``voices`` says which espeak voice pronounces a language, where it is not the usual one.
    """
    source, out = manifest_path(data_dir, corpus), transcripts_path(data_dir, corpus)
    inputs = fingerprint(voices, files=[source])
    if is_done(out, inputs):
        log(f"{corpus}: phones are there already")
        return
    utterances = [_normalised(utterance) for utterance in read_manifest(source)]
    pronounced, failed = _pronounce([u for u in utterances if not u.ipa and u.phones is None], nj, voices or {})
    utterances = [pronounced.get(utterance.id, utterance) for utterance in utterances]
    unspoken = [utterance for utterance in utterances if not utterance.ipa]
    dropped = [
        Dropped(u.id, "cannot be pronounced", failed[u.language]) if u.language in failed and u.phones is None
        else Dropped(u.id, "no phones", repr(u.text))
        for u in unspoken
    ]  # fmt: skip
    write_dropped(dropped_path(data_dir, "phones", corpus), dropped)
    if failed and len(dropped) == len(utterances):
        raise UserError(next(iter(failed.values())))
    write_manifest(out, [utterance for utterance in utterances if utterance.ipa])
    mark_done(out, inputs)
    log(f"{corpus}: {len(utterances) - len(dropped)} utterances have phones; {reasons(dropped)}")


def _normalised(utterance: Utterance) -> Utterance:
    """An utterance whose IPA, where it has any, is in normal form without spaces."""
    if utterance.phones is None:
        return dataclasses.replace(utterance, ipa="".join(segment(utterance.ipa)))
    phones = [Phone("".join(segment(phone.symbol)), phone.start, phone.duration) for phone in utterance.phones]
    phones = [phone for phone in phones if phone.symbol]
    return dataclasses.replace(utterance, phones=tuple(phones), ipa="".join(phone.symbol for phone in phones))


def _pronounce(
    utterances: list[Utterance], nj: int, voices: Mapping[str, str]
) -> tuple[dict[str, Utterance], dict[str, str]]:
    """Id -> utterance with IPA made from its words; language -> why none of its words can be pronounced."""
    by_language: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_language.setdefault(utterance.language, []).append(utterance)

    def speak(language: str) -> list[str] | UserError:
        voice = voices.get(language, language)
        try:
            texts = in_small_letters([u.text for u in by_language[language]], language)
            return phonemize({voice: texts})[voice]
        except UserError as error:
            return error

    pronounced, failed = {}, {}
    with ThreadPoolExecutor(nj) as pool:
        for (language, members), spoken in zip(by_language.items(), pool.map(speak, by_language)):
            if isinstance(spoken, UserError):
                log(f"WARNING: {len(members)} utterances in `{language}` are left out: {spoken}")
                failed[language] = str(spoken)
                continue
            for utterance, ipa in zip(members, spoken):
                pronounced[utterance.id] = dataclasses.replace(utterance, ipa=ipa.replace(" ", ""))
    return pronounced, failed


# Stage: Shar


def make_shar(
    corpora: list[str],
    data_dir: Path,
    filters: FilterConfig,
    splits: SplitConfig,
    shar: SharConfig,
    nj: int,
    part: Part | None = None,
    unit: Unit = PHONE,
) -> None:
    """Filter, split and write ``shar/SPLIT`` folders; a split without utterances has no folder.

    A ``part`` makes its shards only. When all parts have, a call without one moves the folders to their place.
    Raises `UserError` where a part is missing then, and where one had other flags.
    """
    sources = [transcripts_path(data_dir, name, unit) for name in corpora]
    inputs = fingerprint(corpora, filters, splits, shar, files=sources)
    root = data_dir / "shar"
    if is_done(root, inputs):
        log("Shar folders are there already")
        return
    refuse_other_parts(root, inputs)
    by_split = _by_split(corpora, data_dir, filters, splits, part is None or part.index == 0, unit)
    for name in _splits_of_before(root):
        by_split.setdefault(name, [])
    names = sorted(by_split, key=split_order)
    pending = [PendingSplit(root / name, inputs, -(-len(by_split[name]) // shar.shard_size)) for name in names]
    if part is not None:
        announce(root, inputs, part)
        for split in pending:
            _make_shards(split, by_split[split.final.name], shar.shard_size, nj, part)
        return
    refuse_missing_parts(root, inputs, pending)
    root.mkdir(parents=True, exist_ok=True)
    for split in pending:
        _write_split(split, by_split[split.final.name], data_dir, shar.shard_size, nj)
    forget_parts(root)
    save_unit(root, unit)
    mark_done(root, inputs)


def _splits_of_before(root: Path) -> list[str]:
    """Splits that an earlier run wrote."""
    marks = (path.name.removeprefix(".").removesuffix(".done") for path in root.glob(".*.done"))
    return [name for name in marks if is_split(name)]


def _by_split(
    corpora: list[str], data_dir: Path, filters: FilterConfig, splits: SplitConfig, lists: bool, unit: Unit
) -> dict[str, list[tuple[Utterance, str]]]:
    """The utterances of each split, each with its corpus; ``lists`` says whether to list those that are dropped."""
    by_split: dict[str, list[tuple[Utterance, str]]] = {split: [] for split in SPLITS}
    for corpus in corpora:
        kept, dropped = apply_filter(read_manifest(transcripts_path(data_dir, corpus, unit)), filters, unit)
        if lists:
            write_dropped(dropped_path(data_dir, "filter", corpus), dropped)
        for utterance, split in zip(kept, assign_splits(kept, splits)):
            by_split.setdefault(split, []).append((utterance, corpus))
    if not by_split[TRAIN]:
        raise UserError(
            f"no utterance is left for training; {data_dir}/dropped says why, --min-seconds and others decide"
        )
    return by_split


def _write_split(
    pending: PendingSplit, utterances: list[tuple[Utterance, str]], data_dir: Path, shard_size: int, nj: int
) -> None:
    """Make the shards of a split that are missing, and move it to its place."""
    folder, split = pending.final, pending.final.name
    for leftover in folder.parent.glob(f".{split}.*.*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if not utterances:
        shutil.rmtree(folder, ignore_errors=True)
        dropped_path(data_dir, "shar", split).unlink(missing_ok=True)
        log(f"{split}: no utterances, no folder")
        return
    if is_done(folder, pending.inputs):
        log(f"{split}: Shar folder is there already")
        return
    refuse_foreign_files(folder)
    _make_shards(pending, utterances, shard_size, nj, Part(0, 1))
    summary = pending.summary()
    if not summary.num_utterances:
        forget_parts(folder.parent)
        name, why = summary.skipped[0]
        raise UserError(f"none of the {len(utterances)} recordings of {split} can be decoded; {name}: {why}")
    write_dropped(
        dropped_path(data_dir, "shar", split), [Dropped(id, "cannot be decoded", why) for id, why in summary.skipped]
    )
    pending.move_in()
    log(f"{split}: {summary.num_utterances} utterances, {summary.duration_s / 3600:.2f} h, {summary.num_shards} shards")


def _make_shards(
    pending: PendingSplit, utterances: list[tuple[Utterance, str]], shard_size: int, nj: int, part: Part
) -> None:
    """Make those of a part's shards that are missing."""
    numbers = [number for number in pending.missing() if number % part.count == part.index]
    if not numbers:
        return
    shards = [utterances[number * shard_size : (number + 1) * shard_size] for number in numbers]
    mine = list(itertools.chain.from_iterable(shards))
    tracked = track(mine, f"{pending.final.name}: writing", len(mine))
    pending.folder.mkdir(parents=True, exist_ok=True)
    jobs = min(nj, len(numbers))  # a process per shard at most: starting one takes seconds
    made = write_shards((_to_shar(*pair) for pair in tracked), pending.folder, shard_size, numbers, jobs)
    for number, summary in made:
        pending.mark(number, summary)
    if part.count > 1:
        log(f"{pending.final.name}: part {part} made {len(numbers)} of {pending.count} shards")


def apply_filter(
    utterances: Iterable[Utterance], config: FilterConfig, unit: Unit = PHONE
) -> tuple[list[Utterance], list[Dropped]]:
    """Keep what has a plausible length and speaking rate; the rest comes with the reason."""
    kept, dropped = [], []
    slowest, fastest = config.rates(unit)
    for utterance in utterances:
        seconds = utterance.duration or 0.0
        rate = len(unit.split(utterance.target)) / max(seconds, 1e-9)
        reason = ""
        if seconds < config.min_seconds:
            reason = f"shorter than {config.min_seconds:g} s"
        elif seconds > config.max_seconds:
            reason = f"longer than {config.max_seconds:g} s"
        elif rate < slowest:
            reason = f"fewer than {slowest:g} {unit.plural} per second"
        elif rate > fastest:
            reason = f"more than {fastest:g} {unit.plural} per second"
        if reason:
            detail = f"{seconds:.2f} s, {rate:.1f} {unit.plural}/s, {utterance.language}: {utterance.text}"
            dropped.append(Dropped(utterance.id, reason, detail))
        else:
            kept.append(utterance)
    return kept, dropped


def _to_shar(utterance: Utterance, corpus: str) -> SharUtterance:
    audio: str | np.ndarray = utterance.audio
    if utterance.start is not None:
        first = round(utterance.start * SAMPLE_RATE)
        audio = _samples(utterance.audio)[first : first + round((utterance.duration or 0.0) * SAMPLE_RATE)]
    return SharUtterance(
        id=utterance.id,
        audio=audio,
        text=utterance.target,
        language=utterance.language,
        speaker=f"{corpus}_{utterance.speaker}" if utterance.speaker else "",
        alignment=None if utterance.spelling else utterance.phones,
        custom={
            "orthography": utterance.text,
            "corpus": corpus,
            **({"prescribed_split": utterance.split} if utterance.split else {}),
            **({"recording": "/".join(Path(utterance.audio).parts[-2:])} if utterance.start is not None else {}),
        },
    )


@lru_cache(maxsize=1)
def _samples(path: str) -> np.ndarray:
    """A long recording, kept while its utterances are cut out; one that cannot be read gives no samples."""
    try:
        return load_audio(path)
    except UserError:
        return np.zeros(0, np.float32)
