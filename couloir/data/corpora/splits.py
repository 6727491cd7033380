"""Which utterance goes where: decided by digests of texts and speakers, so that it never depends on order or chance."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from couloir.data.corpora.base import Utterance
from couloir.data.corpora.config import (
    DEV,
    HELDOUT,
    SPLITS,
    TRAIN,
    UNSEEN_LANGUAGES,
    UNSEEN_SPEAKERS,
    SplitConfig,
    is_split,
    split_order,
)
from couloir.errors import must_be

_FEWEST_SPEAKERS = 4
_UNSEEN = (UNSEEN_SPEAKERS, UNSEEN_LANGUAGES)


def assign_splits(utterances: Sequence[Utterance], config: SplitConfig) -> list[str]:
    """The split of each utterance of one corpus.

    In this order: languages kept out; what the corpus prescribes; speakers kept out, where a language has at least
    four; held-out sentences; dev; the rest is train. A speaker or a sentence of which the corpus prescribes the split
    of some utterances is not torn apart by where the others go.

    Raises:
        UserError: a prescribed split has a name that there is not.
    """
    splits = [_prescribed(utterance, config) for utterance in utterances]
    free = [i for i, split in enumerate(splits) if not split]
    by_language: dict[str, list[int]] = defaultdict(list)
    for i in free:
        by_language[utterances[i].language].append(i)
    prescribed = [utterance for utterance, split in zip(utterances, splits) if split and split == utterance.split]
    away = {u.speaker for u in prescribed if u.split == UNSEEN_SPEAKERS} - {""}
    seen = sorted({u.split for u in prescribed} - {*_UNSEEN}, key=split_order, reverse=True)  # training counts most
    bound = {u.speaker for u in prescribed if u.split in seen}
    away = _pick_speakers([utterances[i] for i in free], away - bound, bound, config)
    for language, members in by_language.items():
        rest = [i for i in members if utterances[i].speaker not in away]
        for i in members:
            splits[i] = UNSEEN_SPEAKERS if utterances[i].speaker in away else TRAIN
        texts = [_sentence(utterances[i]) for i in rest]
        fixed = {
            _sentence(u): split for split in seen for u in prescribed if (u.language, u.split) == (language, split)
        }
        heldout = min(config.heldout_utterances, round(config.heldout_share * len(rest)))
        dev = min(config.dev_utterances, math.ceil(config.dev_share * len(rest)))
        key = f"{config.split_seed} {language}"
        for i, split in zip(rest, _pick_sentences(texts, {HELDOUT: heldout, DEV: dev}, fixed, key)):
            splits[i] = split
    return splits


def _prescribed(utterance: Utterance, config: SplitConfig) -> str:
    """The split that does not depend on the other utterances, or ""."""
    if utterance.language in config.unseen_languages:
        return UNSEEN_LANGUAGES
    if utterance.split and not is_split(utterance.split):
        expected = f"one of {', '.join(SPLITS)}, or dev-NAME, test-NAME"
        raise must_be(f"split of {utterance.id}", expected, repr(utterance.split))
    return utterance.split


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _sentence(utterance: Utterance) -> str:
    """What makes two utterances of a language the same sentence."""
    return " ".join((utterance.text or utterance.ipa).lower().split())


def _pick_speakers(utterances: Sequence[Utterance], away: set[str], bound: set[str], config: SplitConfig) -> set[str]:
    """Speakers kept out: those of ``away``, and of each language enough for its share, none of ``bound``.

    They come in the order of their digests, and one who speaks several languages goes or stays with all of them. Where
    each of a language's few speakers has more than the share, it is the one with the fewest. "" is no speaker.
    """
    share, picked = config.unseen_speaker_share, set(away)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for utterance in utterances:
        counts[utterance.language][utterance.speaker] += 1
    enough = {language for language, spoken in counts.items() if len(spoken.keys() - {""}) >= _FEWEST_SPEAKERS}
    room = {language: share * spoken.total() if language in enough else 0.0 for language, spoken in counts.items()}
    for language in sorted(enough) if share else ():
        key = f"{config.split_seed} {language}"
        speakers = sorted(counts[language].keys() - {""}, key=lambda name: _digest(key, "speaker", name))
        candidates = list[tuple[int, int, str]]()
        for speaker in speakers:
            shares = {other: spoken[speaker] for other, spoken in counts.items() if spoken[speaker]}
            if speaker in bound | picked or not shares.keys() <= enough:
                continue
            if all(count <= room[other] for other, count in shares.items()):
                picked.add(speaker)
                for other, count in shares.items():
                    room[other] -= count
            candidates.append((sum(shares.values()), len(candidates), speaker))
        if candidates and not picked & counts[language].keys():
            picked.add(min(candidates)[2])
    return picked


def _pick_sentences(texts: list[str], sizes: dict[str, int], fixed: dict[str, str], key: str) -> list[str]:
    """A split for each text: that of ``fixed``, else the sizes are filled in the order of the texts' digests.

    Equal texts go together.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        groups[_digest(key, "text", text)].append(i)
    splits = [TRAIN] * len(texts)
    room = dict(sizes)
    for _, members in sorted(groups.items()):
        split = fixed.get(texts[members[0]])
        if split is None:
            split = next((name for name, left in room.items() if len(members) <= left), None)
            if split is None:
                continue
            room[split] -= len(members)
        for i in members:
            splits[i] = split
    return splits
