"""Who meets a shape such as (B, S, V) in a file finds at its head what the letters stand for."""

import ast
import re

import pytest
from programs import ROOT

SIZE = r"(?:\d+ ?\* ?)?[A-Z]'?(?: ?[-+*/]{1,2} ?(?:\d+|[A-Z]))*"
FILES = sorted((ROOT / "couloir").rglob("*.py"))


def letters_of(text):
    """The letters of all shapes in a text: tuples of letters, numbers and sums of them."""
    found = set()
    for inside in re.findall(r"\(([^()\n]{1,40})\)", text):
        sizes = [size.strip() for size in inside.split(",")]
        sizes = sizes[:-1] if sizes[-1] == "" and len(sizes) > 1 else sizes
        is_shape = "," in inside and all(re.fullmatch(rf"{SIZE}|\d+|\.\.\.", size) for size in sizes)
        found |= {letter for size in sizes for letter in re.findall("[A-Z]'?", size)} if is_shape else set()
    return found


def legend_of(text):
    """What a file's head says after "Shapes:", in its docstring or in the comment behind it."""
    lines = text.splitlines()
    end = ast.parse(text).body[0].end_lineno
    while end < len(lines) and (lines[end].startswith("#") or not lines[end]):
        end += 1
    head = " ".join(line.lstrip("# ") for line in lines[:end])
    return head.partition("Shapes: ")[2]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("(B, S, V) and (B,) but (N) is none", {"B", "S", "V"}),
        ("(N+B+1,), (2 * B, T - 1), (..., C'), (R, 4)", {"N", "B", "T", "C'", "R"}),
        ("f(B, 1), (x, Y), (BOS, EOS), (A, B-c)", {"B"}),
        ("(1, 2), (S_i, D), ()", set()),
    ],
)
def test_what_a_shape_is(text, letters):
    assert letters_of(text) == letters


def test_shapes_are_found():
    with_shapes = [path for path in FILES if letters_of(path.read_text(encoding="utf-8"))]
    assert len(with_shapes) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_letter_is_explained_at_the_head(path):
    text = path.read_text(encoding="utf-8")
    legend = legend_of(text) if text.strip() else ""
    # T' is some other T.
    letters = sorted({letter.rstrip("'") for letter in letters_of(text)})
    lacking = [letter for letter in letters if not re.search(rf"(?<![\w']){letter}'? (=|\w)", legend)]
    assert not lacking, f"add a line `# Shapes: {lacking[0]} ...` behind the docstring"
