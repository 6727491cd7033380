"""Which pieces may follow which, so that all that is emitted is spelt of certain phones. Needs numpy alone.

A set of pieces is not enough where a phone is spelt with several: with ``tʰ`` as ``t`` and ``ʰ``, a set would let a
lone ``t`` through, and ``aʰ``.
"""
# Shapes: Q states, V vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import is_marks

BLANK = 0
_FRESH, _ENDED = 0, -1
"""Where a text may stand other than inside a phone: at its or a word's beginning, and after a phone."""
_Places = frozenset[int]


@dataclass(frozen=True)
class Restriction:
    """The smallest automaton that reads the pieces of permitted texts. Q states, of which 0 is the start; V pieces.

    Attributes:
        following: (Q, V) int, the state after a piece; -1 where the piece may not come. Blank changes no state.
        final: (Q,) bool, the states in which no phone is left unfinished.
    """

    following: np.ndarray
    final: np.ndarray

    @cached_property
    def allowed(self) -> np.ndarray:
        """(V,) bool, the pieces that may come somewhere."""
        return np.any(self.following >= 0, axis=0)

    @property
    def is_mask(self) -> bool:
        """Whether the allowed pieces may come in any order."""
        return len(self.final) == 1

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Whether token ids spell permitted phones alone."""
        state = 0
        for token in tokens:
            state = int(self.following[state, token])
            if state < 0:
                return False
        return bool(self.final[state])

    def digest(self) -> str:
        """Eight hexadecimal digits that another restriction does not have."""
        return hashlib.sha256(self.following.astype("<i8").tobytes() + self.final.tobytes()).hexdigest()[:8]


def restrict(vocabulary: Vocabulary, phones: Sequence[str]) -> Restriction:
    """The restriction to phones, in all the ways in which the pieces of a vocabulary spell them."""
    tree = _Tree(phones)
    surfaces = {i: vocabulary.ipa_surface(i) for i in range(1, len(vocabulary))}
    found: list[_Places] = [frozenset([_FRESH])]
    states = {found[0]: 0}
    rows = []
    for places in found:  # which grows meanwhile
        row = np.full(len(vocabulary), -1)
        row[BLANK] = states[places]
        for piece, surface in surfaces.items():
            reached = tree.after(places, surface)
            if reached and reached not in states:
                states[reached] = len(found)
                found.append(reached)
            row[piece] = states.get(reached, -1)
        rows.append(row)
    final = np.array([_FRESH in places or _ENDED in places for places in found])
    return _smallest(*_without_dead_ends(np.array(rows), final))


class _Tree:
    """The phones' letters as a tree: for each node its children by letter, and whether a phone ends there."""

    def __init__(self, phones: Iterable[str]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.ends = [False]
        for phone in phones:
            node = 0
            for letter in phone:
                if letter not in self.children[node]:
                    self.children[node][letter] = len(self.ends)
                    self.children.append({})
                    self.ends.append(False)
                node = self.children[node][letter]
            self.ends[node] = True

    def after(self, places: _Places, text: str) -> _Places:
        """The places where one can be after a text; none where it is not permitted."""
        if not text:
            return frozenset()
        for i, letter in enumerate(text):
            if is_marks(letter) and (i or is_marks(text)):  # it belongs to the letter before it and begins no phone
                places = places - {_FRESH, _ENDED}
            nodes = {node for place in places if (node := self._next(place, letter)) is not None}
            places = frozenset(nodes | {_ENDED for node in nodes if self.ends[node]})
        return places

    def _next(self, place: int, letter: str) -> int | None:
        if letter == " ":
            return _FRESH if place in (_FRESH, _ENDED) else None
        return self.children[max(place, 0)].get(letter)


def _without_dead_ends(following: np.ndarray, final: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the states from which no final one is reached: the rest of such a phone has no piece."""
    alive = final
    while True:
        more = alive | ((following >= 0) & alive[following]).any(1)
        if (more == alive).all():
            break
        alive = more
    names = np.append(np.where(alive, np.cumsum(alive) - 1, -1), -1)
    return names[following][alive], final[alive]


def _smallest(following: np.ndarray, final: np.ndarray) -> Restriction:
    """The automaton with one state for all that differ in nothing (Moore 1956)."""
    classes = final.astype(int)
    while True:
        signature = np.column_stack([classes, np.where(following >= 0, classes[following], -1)[:, 1:]])
        _, first, new = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        new = new.reshape(-1)
        if len(first) == len(set(classes.tolist())):
            break
        classes = new
    order = np.argsort(first)  # numbered by their first states, so that the start stays 0
    names = np.append(np.argsort(order)[new], -1)
    kept = first[order]
    return Restriction(names[following][kept], final[kept])
