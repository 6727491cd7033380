"""The report's plots: what is in a phone or a language is text, not TeX."""

import base64
from collections import Counter

import pytest

from couloir.data.corpora.page import as_html
from couloir.data.corpora.statistics import Amount, Statistics

LANGUAGES = ["$x", "$x$", "$\\frac$", "$_$", "a$b$c^", "\\", "%", "_x", "", "<b>", "北", "&amp;", "{}", "\x1b[2J"]


@pytest.mark.parametrize("name", LANGUAGES, ids=ascii)
def test_strange_names_are_drawn_as_they_are(name):
    statistics = Statistics(durations={"train": [1.0, 2.0]}, rates=[3.0, 4.0], units=Counter({name: 3, "a": 2}))
    statistics.amounts["train", "user", name] = Amount(2, 3.0, 5)
    statistics.dropped["user"] = Counter({f"reason {name}": 1})
    page = as_html(statistics, f"Speech in {name}")
    assert "<b>" not in page.replace("<body>", "")
    picture = base64.b64decode(page.split("base64,")[1].split('"')[0])
    assert picture.startswith(b"\x89PNG")
