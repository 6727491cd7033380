"""What the name of a folder, of a file or in a table says of a split: training, development or a test."""

from __future__ import annotations

import re
from collections.abc import Sequence

TRAIN, DEV, TEST = "train", "dev", "test"
_KINDS = {
    TRAIN: "train training trn trainset trainingset traindata",
    DEV: "dev devel development devset valid validation validate val valset validset",
    TEST: "test testing tst testset testdata eval evaluation evalset evl heldout holdout",
}
_WORDS = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_LETTERS = re.compile(r"[^\W\d_]+")
_HELD_OUT = re.compile(r"(held|hold)[-_. ]+out", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OWN = re.compile(r"(dev|test)(?:[-_.][^\W_][\w.-]{0,58}|\d{1,8})(?<!\.)", re.IGNORECASE)


def kind_of(name: str) -> str:
    """`TRAIN`, `DEV` or `TEST` where a word of the name says so, else "": ``test-clean``, ``Dev_other``, ``test1``.

    Words end where letters do, and before a capital (``myTestSet``); letters' case does not matter. A name with both
    dev and train (``train-dev``) is of dev, one with dev and test of a test. With both train and test
    (``train-test-split``) it is the name of what holds both, and says nothing.
    """
    kinds = kinds_in(name)
    if {TRAIN, TEST} <= kinds:
        return ""
    return next((kind for kind in (TEST, DEV, TRAIN) if kind in kinds), "")


def kinds_in(name: str) -> set[str]:
    """The kinds of split that words of a name mean."""
    words = _LETTERS.findall(_CAPITAL.sub(" ", _HELD_OUT.sub(r"\1out", name)))
    return {_WORDS[word.lower()] for word in words if word.lower() in _WORDS}


def own_name(name: str) -> str:
    """The name of a development or test set that is one of several, in small letters: ``dev-clean``, ``test2``.

    "" where the name says no more than its kind (``dev``, ``testset``, ``eval``), or cannot be that of a folder.
    """
    found = _OWN.fullmatch(name)
    return name.lower() if found and found[1].lower() == kind_of(name) else ""


def innermost(folders: Sequence[str]) -> str:
    """The name of the innermost of some folders, given from the outside, that says a split; "" where none does."""
    return next((name for name in reversed(folders) if kind_of(name)), "")
