from __future__ import annotations

import math
import random

import kaldialign
import pytest

from couloir.errors import UserError
from couloir.evaluation import alignment
from couloir.evaluation.alignment import Counts


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, previous = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def test_counts_are_levenshteins():
    draw = random.Random(0)
    for _ in range(200):
        ref, hyp = (draw.choices("abc*", k=draw.randint(0, 9)) for _ in range(2))
        pairs = alignment.align(ref, hyp)
        counts = alignment.count(pairs)
        assert counts.errors == levenshtein(ref, hyp)
        assert (counts.reference, counts.correct + counts.substitutions + counts.insertions) == (len(ref), len(hyp))
        assert [a for a, _ in pairs if a is not None] == ref
        assert [b for _, b in pairs if b is not None] == hyp


def test_a_literal_star_is_a_token():
    assert alignment.count(alignment.align(["*", "a"], ["a"])) == Counts(deletions=1, correct=1)


def test_units():
    assert alignment.units_of("t͡ɕaː  ɡo", "phone") == ["t͡ɕ", "aː", "g", "o"]
    assert alignment.units_of("a  b", "word") == ["a", "b"]
    assert alignment.units_of("a bc ", "char") == ["a", "b", "c"]
    with pytest.raises(UserError, match="unit"):
        alignment.units_of("a", "syllable")


@pytest.mark.parametrize(
    ("errors", "reference", "rate"), [(0, 0, 0.0), (1, 0, math.inf), (2, 2, 100.0), (1, 8, 12.5), (3, 2, 150.0)]
)
def test_empty_references_divide_nothing(errors, reference, rate):
    assert alignment.error_rate(errors, reference) == rate
    assert Counts(insertions=errors, correct=reference).rate == rate


def test_a_set_is_the_sum_of_its_texts():
    texts = [("ab", "a"), ("", "b"), ("cd", "cx"), ("", "")]
    counts = [alignment.count(alignment.align(list(ref), list(hyp))) for ref, hyp in texts]
    assert alignment.total(counts) == Counts(insertions=1, deletions=1, substitutions=1, correct=2)
    assert alignment.total([]) == Counts() and alignment.total(counts).rate == 75.0


@pytest.mark.parametrize("ref", [[], ["a"], ["a", "a"], ["*"], ["\0"], ["ab", "c"], [""]])
@pytest.mark.parametrize("hyp", [[], ["a"], ["b", "a"], ["*", "*"], ["\0", "a"], ["abc"], [""]])
def test_counts_and_rates_are_kaldialigns_at_the_edges(ref, hyp):
    """Nothing against nothing is 0, something against nothing infinite; no unit stands for a gap."""
    expected = kaldialign.edit_distance(ref, hyp)
    counts = alignment.count(alignment.align(ref, hyp))
    assert counts.reference == expected["ref_len"] and counts.errors == expected["total"]
    names = (("insertions", "ins"), ("deletions", "del"), ("substitutions", "sub"))
    assert [getattr(counts, ours) for ours, _ in names] == [expected[theirs] for _, theirs in names]
    assert counts.rate == pytest.approx(100 * expected["err_rate"])
