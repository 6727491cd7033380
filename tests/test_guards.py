"""Pages that name a test for a promise name one that is there."""

import ast
import re

import pytest
from programs import ROOT

PAGES = ("CONTRIBUTING.md", "docs/security.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def guards(page):
    return NAMED.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_every_guard_that_is_named_is_there(page):
    named = guards(page)
    assert len(named) > 20
    for path, test in named:
        assert (ROOT / path).is_file(), path
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in tests, f"{path}::{test}"
        assert any(name.startswith("test_") for name in tests), path


@pytest.mark.parametrize("page", PAGES)
def test_every_row_has_a_guard(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    (table,) = re.findall(r"\| (?:kind|promise) \| guarded by \|\n\|---\|---\|\n((?:\|.*\n)+)", text)
    for row in table.splitlines():
        assert NAMED.search(row), row
