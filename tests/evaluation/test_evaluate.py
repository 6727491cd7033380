from __future__ import annotations

import html.parser
import json
import math
import random

import numpy as np
import pytest

from couloir.errors import UserError
from couloir.evaluation import plots
from couloir.evaluation.alignment import Counts
from couloir.evaluation.evaluate import Result, bootstrap_interval, evaluate
from couloir.evaluation.pfer import CONVENTIONS, pfer
from couloir.text.units import CHAR, NAMED_PHONE

RESULTS = [
    Result("a", "pata", "bata", "cs", "seen", 1.0),
    Result("b", "t͡saː ɡo", "t͡sa ɡo", "nl", "seen", 2.0),
    Result("c", "kɚ", "kɚm", "nl", "unseen", 0.5),
    Result("d", "ma", "", "cs", "unseen", 1.5),
]


class Page(html.parser.HTMLParser):
    """Collects what a page would load or run, and checks that its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "path", "rect"):
            self.open.append(tag)
        self.outside += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload", "onerror")]
        self.outside += [tag] if tag in ("script", "link", "iframe", "img") else []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in ("path", "rect"):
            assert self.open.pop() == tag


def test_tables_add_up():
    evaluation = evaluate(RESULTS)
    assert evaluation.rate_name == "PER"
    assert evaluation.overall.counts == Counts(insertions=1, deletions=2, substitutions=2, correct=8)
    assert evaluation.overall.counts.rate == pytest.approx(100 * 5 / 12)
    assert set(evaluation.tables) == {"language", "split", "split and language"}
    for rows in evaluation.tables.values():
        assert sum((row.counts for row in rows), Counts()) == evaluation.overall.counts
        assert sum(row.utterances for row in rows) == 4
        assert sum(row.seconds for row in rows) == 5.0
        assert [row.counts.rate for row in rows] == sorted((row.counts.rate for row in rows), reverse=True)
    nl = next(row for row in evaluation.tables["language"] if row.name == "nl")
    assert nl.pfer == pytest.approx(pfer(["t͡saːgo", "kɚ"], ["t͡sago", "kɚm"]))
    assert dict(evaluation.confusions) == {
        ("p", "b"): 1,
        ("aː", "a"): 1,
        (None, "m"): 1,
        ("m", None): 1,
        ("a", None): 1,
    }
    assert evaluation.unknown == {"ɚ": 2}


def test_words_and_characters():
    results = [Result("a", "the cat", "the bat"), Result("b", "", "x y")]
    words, characters = evaluate(results, "word"), evaluate(results, "char")
    assert (words.overall.counts.rate, characters.overall.counts.rate) == (150.0, 50.0)
    assert not words.overall.pfer and not words.tables
    with pytest.raises(UserError, match="unit"):
        evaluate(results, "letter")


def test_phones_with_names_are_counted_by_their_blanks():
    """ARPABET: HH is one phone; its features are not panphon's."""
    found = evaluate([Result("a", "HH AH0 L OW1", "HH AH0 L AO1 W")], NAMED_PHONE)
    assert (found.rate_name, found.unit, found.overall.counts.rate) == ("PER", "phone", 50.0)
    assert not found.overall.pfer and not found.unknown and "PER" in found.to_text() and found.to_html()


def test_a_unit_is_its_name():
    results = [Result("a", "你 好", "你好")]
    assert evaluate(results, CHAR).to_json() == evaluate(results, "char").to_json()


def test_interval_covers_and_is_seeded():
    draw = np.random.default_rng(0)
    reference = draw.integers(5, 60, 400)
    errors = draw.binomial(reference, 0.1)
    low, high = bootstrap_interval(errors, reference)
    rate = errors.sum() / reference.sum()
    # The plain formula for a ratio of sums over utterances gives nearly the same width.
    width = 2 * 1.96 * np.sqrt(((errors - rate * reference) ** 2).sum()) / reference.sum()
    assert low < 100 * rate < high and high - low == pytest.approx(100 * width, rel=0.1)
    assert bootstrap_interval(errors, reference) == (low, high)
    assert bootstrap_interval(errors, reference, seed=1) != (low, high)
    assert all(math.isnan(v) for v in bootstrap_interval(np.array([1]), np.array([0])))


def test_report_files(tmp_path):
    hostile = Result('<script>alert("x")</script>', "ta", "da", "<b>&", "seen")
    evaluation = evaluate([*RESULTS, hostile])
    evaluation.write(tmp_path, title="A <title>")
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert values["overall"]["rate"] == pytest.approx(evaluation.overall.counts.rate, abs=1e-6)
    assert set(values["overall"]["pfer"]) == set(CONVENTIONS)
    assert set(values["overall"]["distance"]) == {"mean", "median", "q25", "q75", "std"}
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert all(meaning in text for meaning in CONVENTIONS.values())
    assert "per language" in text and "p -> b" in text and "ɚ (2)" in text
    html_text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html_text)
    assert not page.open and not page.outside
    assert "<script>" not in html_text and "&lt;script&gt;" in html_text and "A &lt;title&gt;" in html_text


@pytest.mark.parametrize(
    "results", [[], [Result("a", "", "")], [Result("a", "", "pa", "xx")], [Result("a", "pa", "pa")]]
)
def test_degenerate_sets_still_have_reports(results):
    evaluation = evaluate(results)
    assert evaluation.to_text()
    assert not Page(evaluation.to_html()).open
    assert "NaN" not in evaluation.to_json() and "Infinity" not in evaluation.to_json()


def test_ticks_are_round_and_reach_the_top():
    draw = random.Random(0)
    for _ in range(100):
        top = 10 ** draw.uniform(-2, 3)
        marks = plots.ticks(top)
        assert marks[0] == 0 and marks[-1] >= top * 0.999 and 2 <= len(marks) <= 8
    assert plots.ticks(float("inf")) == [0.0, 1.0]


EDGES = {
    "nothing": ([], 0.0, 0),
    "empty_hypotheses": ([Result("a", "pa", "", "ru", "t", 1.0), Result("b", "ta", "", "ru", "t", 2.0)], 100.0, 4),
    "empty_references": ([Result("a", "", "pa", "ru", "t", 1.0)], float("inf"), 0),
    "both_empty": ([Result("a", "", "", "ru", "t", 1.0)], 0.0, 0),
    "no_duration": ([Result("a", "", ""), Result("b", "p", "")], 100.0, 1),
}


@pytest.mark.parametrize("unit", ["phone", "char"])
@pytest.mark.parametrize(("results", "rate", "reference"), EDGES.values(), ids=EDGES)
def test_edges_have_a_row_and_reports_without_nan(results, rate, reference, unit):
    found = evaluate(results, unit, notes=["<b> of 2"])
    assert (found.overall.counts.rate, found.overall.counts.reference) == (rate, reference)
    assert found.overall.utterances == len(results)
    assert json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(name))["notes"] == ["<b> of 2"]
    assert "nan" not in found.to_text() and "Note: <b> of 2" in found.to_text()
    assert "&lt;b&gt; of 2" in found.to_html() and "<b> of 2" not in found.to_html()
