"""Phone feature error rates: edit distance between strings of articulatory feature vectors.

The feature table is panphon's (Mortensen et al. 2016) and so is the distance: a substitution costs half the sum of
the differences of the 24 features, a deletion or insertion 1 for each specified and 1/2 for each unspecified feature,
all divided by 24. Published numbers called PFER divide that distance by different things; `CONVENTIONS` names them.

Importing panphon takes a second, and its distance does about 80 pairs a second. So the table is read from its data
file, and the dynamic program runs over many pairs at once, in whole numbers (units of 1/48), hence exactly.
"""
# Shapes: K segments, N utterances, P pairs.

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from couloir.errors import UserError
from couloir.text.ipa import TIE

NUM_FEATURES = 24
UNIT = 2 * NUM_FEATURES  # whole-number costs are 48ths, because an unspecified feature counts one half
CONVENTIONS = {
    "utterance": "mean over utterances of the feature edit distance itself, as ZIPA reports it (not a percentage)",
    "phones": "total distance per reference phone, % (panphon's feature_error_rate)",
    "longer": "mean over utterances of the distance divided by the longer string's phones, % (panphon's div_maxlen)",
    "features": "total distance per reference feature, an unspecified one counting half, %: an empty hypothesis is 100",
}

Ids = NDArray[np.intp]

# Preceding letters that a panphon segment may go on after, with a second letter: a tie, and the glottal mark that it
# also writes before a letter.
_JOINERS = TIE + "ˀ"
# ZIPA's texts have the ASCII g, which panphon does not know; superscript digits are panphon's own default for tones.
_TO_PANPHON = str.maketrans("g¹²³⁴⁵", "ɡ˩˨˧˦˥")
_CELLS = 1 << 15  # dynamic-program cells of one row over a batch of pairs: what stays in a core's cache


class FeatureTable:
    """panphon's segments and their features, and the segmentation of texts into them."""

    def __init__(self, path: Path) -> None:
        """Read ``ipa_all.csv`` of the panphon package."""
        with open(path, encoding="utf-8", newline="") as source:
            rows = list(csv.reader(source))
        names = [unicodedata.normalize("NFD", row[0]) for row in rows[1:]]
        value = {"+": 1, "0": 0, "-": -1}
        self.features = np.array([[value[cell] for cell in row[1:]] for row in rows[1:]], dtype=np.int8)
        self.ids = {name: i for i, name in enumerate(names)}
        self.longest = max(map(len, names))
        marks = {name[k] for name in self.ids for k in range(1, len(name)) if name[k - 1] not in _JOINERS}
        # No segment begins in one cluster and ends in another, so clusters can be looked up one by one.
        self._clusters = re.compile(rf".(?:[{re.escape(''.join(sorted(marks)))}]|(?<=[{_JOINERS}]).)*", re.DOTALL)
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Row numbers of a text's segments: the longest that fits, left to right; as in panphon the rest is skipped."""
        found: list[int] = []
        known = self._known
        for cluster in self._clusters.findall(unicodedata.normalize("NFD", text)):
            ids = known.get(cluster)
            if ids is None:
                ids = known[cluster] = self._split(cluster)[0]
            found += ids
        return found

    def unknown(self, text: str) -> list[str]:
        """The characters of a text that panphon passes over (``ɚ`` for one), white space apart."""
        return [c for c in self._split(unicodedata.normalize("NFD", text))[1] if not c.isspace()]

    def _split(self, text: str) -> tuple[list[int], list[str]]:
        found: list[int] = []
        unknown: list[str] = []
        text, at = text.translate(_TO_PANPHON), 0
        while at < len(text):
            sizes = range(min(self.longest, len(text) - at), 0, -1)
            size = next((n for n in sizes if text[at : at + n] in self.ids), 0)
            if size:
                found.append(self.ids[text[at : at + size]])
            else:
                unknown.append(text[at])
            at += size or 1
        return found, unknown


@lru_cache(maxsize=1)
def feature_table() -> FeatureTable:
    """The table of the installed panphon. Raises `UserError` without it."""
    spec = find_spec("panphon")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("PFER needs panphon's feature table; pip install panphon")
    return FeatureTable(Path(spec.submodule_search_locations[0]) / "data" / "ipa_all.csv")


def _costs(features: NDArray[np.int8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Whole-number costs between K segments: substitutions (K, K) and deletion = insertion (K,)."""
    # |a - b| of -1, 0, 1 counts the two thresholds that a and b are on different sides of, so that all sums of
    # differences are one matrix product (of small whole numbers, exact in float32).
    above = np.concatenate([features >= 0, features > 0], axis=1).astype(np.float32)
    size = above.sum(1)
    sub = size[:, None] + size[None] - 2 * (above @ above.T)
    return sub.astype(np.int32), (2 - (features == 0)).sum(1, dtype=np.int32)


def _batch_savings(sub: NDArray, shorter: Ids, longer: Ids, lens: Ids, longer_lens: Ids) -> NDArray:
    """What each pair of a batch of P saves against deleting one string and inserting the other.

    With all deletion and insertion costs taken out, a step that deletes or inserts is free and a substitution has the
    cost ``sub`` (K, K) <= 0; the least sum over an alignment is a running minimum along the longer string, which numpy
    does for the whole batch at once.

    Args:
        shorter: (n, P), longer: (m, P) rows of ``sub``, padded with anything; lens, longer_lens: (P,).
    """
    flat, width = sub.ravel(), sub.shape[1]
    row = np.zeros((len(longer) + 1, longer.shape[1]), dtype=sub.dtype)
    savings = np.zeros(longer.shape[1], dtype=sub.dtype)
    for i, symbols in enumerate(shorter, 1):
        diagonal = flat.take(symbols * width + longer)
        diagonal += row[:-1]
        np.minimum(row[1:], diagonal, out=row[1:])
        np.minimum.accumulate(row, axis=0, out=row)
        done = np.flatnonzero(lens == i)
        savings[done] = row[longer_lens[done], done]
    return savings


def _padded(strings: list[Ids]) -> Ids:
    out = np.zeros((max(map(len, strings), default=0), len(strings)), dtype=np.intp)
    for column, string in enumerate(strings):
        out[: len(string), column] = string
    return out


def _savings(sub: NDArray[np.int32], pairs: list[tuple[Ids, Ids]]) -> NDArray[np.int64]:
    """`_batch_savings` of (shorter, longer) pairs of any lengths, batched with others of about their size."""
    savings = np.zeros(len(pairs), dtype=np.int64)
    sizes = np.array([(len(longer), len(shorter)) for shorter, longer in pairs]).reshape(-1, 2)
    order = np.lexsort((sizes[:, 1], sizes[:, 0]))
    at = 0
    while at < len(order):
        batch = order[at : at + max(1, _CELLS // (sizes[order[at], 0] + 1))]
        at += len(batch)
        longer_lens, lens = sizes[batch].T
        costs = sub.astype(np.int16 if lens.max() * 2 * UNIT < 1 << 15 else np.int32)
        shorter, longer = _padded([pairs[p][0] for p in batch]), _padded([pairs[p][1] for p in batch])
        savings[batch] = _batch_savings(costs, shorter, longer, lens, longer_lens)
    return savings


def distances_of_ids(refs: Sequence[list[int]], hyps: Sequence[list[int]]) -> NDArray[np.float64]:
    """Feature edit distances of pairs of segment strings (row numbers of `feature_table`), in panphon's unit."""
    everything = [np.array(ids, dtype=np.intp) for ids in (*refs, *hyps)]
    if not everything:
        return np.zeros(0)
    used = np.zeros(len(feature_table().features), dtype=bool)
    used[np.concatenate(everything)] = True
    renumber = np.cumsum(used) - 1
    sub, indel = _costs(feature_table().features[used])
    strings = [renumber[ids] for ids in everything]
    pairs = [(a, b) if len(a) <= len(b) else (b, a) for a, b in zip(strings, strings[len(refs) :])]
    weight = np.array([indel[string].sum() for string in strings], dtype=np.int64)
    total = weight[: len(refs)] + weight[len(refs) :]
    if used.any():
        total += _savings(sub - indel[:, None] - indel[None], pairs)
    return total / UNIT


def feature_edit_distances(refs: Sequence[str], hyps: Sequence[str]) -> NDArray[np.float64]:
    """panphon's ``Distance().feature_edit_distance`` of many pairs of IPA texts at once, (len(refs),).

    The one departure: ASCII ``g`` is read as the IPA letter ``ɡ``, as ZIPA's evaluation does; panphon drops it.
    """
    table = feature_table()
    return distances_of_ids([table(text) for text in refs], [table(text) for text in hyps])


@dataclass(frozen=True)
class FeatureErrors:
    """Per-utterance sums from which every convention is made, each (N,)."""

    distance: NDArray[np.float64]
    ref_phones: NDArray[np.int64]
    hyp_phones: NDArray[np.int64]
    ref_features: NDArray[np.float64]

    def take(self, which: NDArray) -> FeatureErrors:
        """The same of some utterances (indices or a mask)."""
        return FeatureErrors(
            self.distance[which], self.ref_phones[which], self.hyp_phones[which], self.ref_features[which]
        )

    def rates(self) -> dict[str, float]:
        """The value under each of `CONVENTIONS`; nan where there is nothing to divide by."""
        longer = np.maximum(self.ref_phones, self.hyp_phones)
        relative = np.divide(self.distance, longer, out=np.zeros(len(longer)), where=longer > 0)
        total = float(self.distance.sum())
        phones, features = int(self.ref_phones.sum()), float(self.ref_features.sum())
        return {
            "utterance": float(self.distance.mean()) if len(self.distance) else float("nan"),
            "phones": 100 * total / phones if phones else float("nan"),
            "longer": 100 * float(relative.mean()) if len(relative) else float("nan"),
            "features": 100 * total / features if features else float("nan"),
        }

    def spread(self) -> dict[str, float]:
        """Mean, median, quartiles and standard deviation of the per-utterance distance, as ZIPA tabulates it."""
        if not len(self.distance):
            return {}
        low, median, high = np.percentile(self.distance, [25, 50, 75])
        values = {"mean": self.distance.mean(), "median": median, "q25": low, "q75": high, "std": self.distance.std()}
        return {name: float(value) for name, value in values.items()}


def feature_errors(refs: Sequence[str], hyps: Sequence[str]) -> FeatureErrors:
    """Distances and lengths of pairs of IPA texts."""
    table = feature_table()
    ref_ids, hyp_ids = [table(text) for text in refs], [table(text) for text in hyps]
    indel = _indel_units()
    return FeatureErrors(
        distances_of_ids(ref_ids, hyp_ids),
        np.array([len(ids) for ids in ref_ids], dtype=np.int64),
        np.array([len(ids) for ids in hyp_ids], dtype=np.int64),
        np.array([indel[ids].sum() / UNIT for ids in ref_ids], dtype=np.float64),
    )


@lru_cache(maxsize=1)
def _indel_units() -> NDArray[np.int64]:
    return (2 - (feature_table().features == 0)).sum(1)


def pfer(refs: Sequence[str], hyps: Sequence[str]) -> dict[str, float]:
    """PFER of a test set under each of `CONVENTIONS`."""
    return feature_errors(refs, hyps).rates()
