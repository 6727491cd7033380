"""Which utterance goes where: decided by digests of texts and speakers, so that it never depends on order or chance."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from couloir.data.corpora.base import Utterance
from couloir.data.corpora.config import DEV, HELDOUT, SPLITS, TRAIN, UNSEEN_LANGUAGES, UNSEEN_SPEAKERS, SplitConfig
from couloir.errors import must_be

_FEWEST_SPEAKERS = 4


def assign_splits(utterances: Sequence[Utterance], config: SplitConfig) -> list[str]:
    """The split of each utterance of one corpus.

    In this order: languages kept out; what the corpus prescribes; speakers kept out, where a language has at least
    four; held-out sentences; dev; the rest is train.
    """
    splits = [_prescribed(utterance, config) for utterance in utterances]
    by_language: dict[str, list[int]] = defaultdict(list)
    for i, utterance in enumerate(utterances):
        if not splits[i]:
            by_language[utterance.language].append(i)
    for language, members in by_language.items():
        key = f"{config.split_seed} {language}"
        speakers = _pick_speakers([utterances[i].speaker for i in members], config.unseen_speaker_share, key)
        rest = [i for i in members if utterances[i].speaker not in speakers]
        for i in members:
            splits[i] = UNSEEN_SPEAKERS if utterances[i].speaker in speakers else TRAIN
        texts = [utterances[i].text or utterances[i].ipa for i in rest]
        heldout = min(config.heldout_utterances, round(config.heldout_share * len(rest)))
        dev = min(config.dev_utterances, math.ceil(config.dev_share * len(rest)))
        for i, split in zip(rest, _pick_sentences(texts, {HELDOUT: heldout, DEV: dev}, key)):
            splits[i] = split
    return splits


def _prescribed(utterance: Utterance, config: SplitConfig) -> str:
    """The split that does not depend on the other utterances, or ""."""
    if utterance.language in config.unseen_languages:
        return UNSEEN_LANGUAGES
    if utterance.split and utterance.split not in SPLITS:
        raise must_be(f"split of {utterance.id}", "one of " + ", ".join(SPLITS), repr(utterance.split))
    return utterance.split


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _pick_speakers(speaker_of_utterance: list[str], share: float, key: str) -> set[str]:
    """Speakers whose utterances together are at most ``share`` of all, in the order of their digests.

    Where each of a few speakers has more than that, it is the one with the fewest. "" is no speaker.
    """
    counts: dict[str, int] = defaultdict(int)
    for speaker in filter(None, speaker_of_utterance):
        counts[speaker] += 1
    if len(counts) < _FEWEST_SPEAKERS or share == 0:
        return set()
    room = share * len(speaker_of_utterance)
    picked = set()
    for speaker in sorted(counts, key=lambda name: _digest(key, "speaker", name)):
        if counts[speaker] <= room:
            picked.add(speaker)
            room -= counts[speaker]
    return picked or {min(counts, key=lambda name: (counts[name], _digest(key, "speaker", name)))}


def _pick_sentences(texts: list[str], sizes: dict[str, int], key: str) -> list[str]:
    """A split for each text: the sizes are filled in the order of the texts' digests, equal texts together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        groups[_digest(key, "text", " ".join(text.lower().split()))].append(i)
    splits = [TRAIN] * len(texts)
    room = dict(sizes)
    for _, members in sorted(groups.items()):
        split = next((name for name, left in room.items() if len(members) <= left), None)
        if split is not None:
            room[split] -= len(members)
            for i in members:
                splits[i] = split
    return splits
