"""Configuration files of anyone are plain values, or one line that names file and line; flags and values by type."""

from __future__ import annotations

import codecs
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from couloir.config import Floats, Ints, convert, from_mapping, option, read_yaml, write_yaml
from couloir.errors import LONGEST_MESSAGE, UserError
from couloir.plain_yaml import parse_yaml

GOOD = {"a": {"b": 1, "c": [0.5, 1e-05, -3], "d": "x: y", "e": True, "f": None, "g": "1:30"}, "h": {}, "i": "é ɡ"}
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefghi", "bcdefghij")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{c}: &{c} {{<<: [{','.join([f'*{p}'] * 9)}]}}\n" for p, c in zip("abcdefghi", "bcdefghij")
)


def read(path: Path, text: str | bytes):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_yaml(tmp_path / "c.yaml", GOOD)
    assert read_yaml(tmp_path / "c.yaml") == GOOD


TEXTS = [
    "1e3",
    "1e400",
    "007",
    "0x1f",
    "1_000",
    "12:30:45",
    "2001-09-09",
    "yes",
    "no",
    "~",
    "null",
    ".nan",
    ".inf",
    "=",
    "<<",
    "- a",
    "# b",
    "",
    " ",
    "a\tb",
    "1.",
    "é\u2028b",
    "\ufeffx",
    "!!set",
    "&a",
    "*a",
    "-",
    "0o17",
    "+1",
    "1.5",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, text: str) -> None:
    write_yaml(tmp_path / "c.yaml", {"a": {"b": text, "c": [text]}})
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"b": text, "c": [text]}}


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0", 0),
        ("1.5", 1.5),
        ("1.0e-05", 1e-5),
        (".5", 0.5),
        ("true", True),
        ("No", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2001-99-99", "2001-99-99"),
        ("2001-09-09 10:00:00", "2001-09-09 10:00:00"),
        ("1:99:99", "1:99:99"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("1e400", "1e400"),
        ("1_0", "1_0"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("[1, a]", [1, "a"]),
        ("a b", "a b"),
    ],
)
def test_scalars(scalar: str, value: object) -> None:
    found = parse_yaml(f"a: {scalar}\n", "c.yaml")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("head", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_marks_of_other_editors(tmp_path: Path, end: str, head: bytes) -> None:
    assert read(tmp_path / "c.yaml", head + f"a:{end}  b: 1{end}".encode()) == {"a": {"b": 1}}
    assert read(tmp_path / "c.yaml", f"a:{end}  b: 1{end}".encode("utf-16")) == {"a": {"b": 1}}


def test_aliases_and_merges_of_a_sane_size(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n"
    assert read(tmp_path / "c.yaml", text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


REFUSED = {
    "empty": ("", "but is empty"),
    "comments alone": ("# a\n", "but is empty"),
    "a list": ("- a\n", "a YAML mapping, but is list"),
    "a text": ("hello\n", "a YAML mapping, but is str"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2 of"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line 3 of .*a new key.*`a` again"),
    "a key twice below": ("a:\n  x: 1\n  x: 1\n", "line 3 of"),
    "python/object": ("a: !!python/object/apply:os.system ['true']\n", "line 1 of"),
    "python/name": ("a: !!python/name:os.system\n", "line 1 of"),
    "a tag of its own": ("a: !mine 3\n", "line 1 of .*`!mine`"),
    "binary": ("a: 1\nb: !!binary aGk=\n", "line 2 of"),
    "set": ("a: !!set {x, y}\n", "line 1 of"),
    "omap": ("a: !!omap [x: 1]\n", "line 1 of"),
    "pairs": ("a: !!pairs [x: 1]\n", "line 1 of"),
    "timestamp": ("a: !!timestamp 2001-09-09\n", "line 1 of"),
    "float that is none": ("a: !!float abc\n", "not valid YAML"),
    "bool that is none": ("a: !!bool abc\n", "not valid YAML"),
    "null key": ("~: {}\n", "line 1 of .*a key that is text"),
    "number as key": ("a: {1: 3}\n", "line 1 of .*a key that is text.*quotes"),
    "no as key": ("a:\n  no: 3\n", "line 2 of .*`no`"),
    "list as key": ("? [a, b]\n: 1\n", "line 1 of"),
    "mapping as key": ("{a: 1}: 2\n", "line 1 of"),
    "deep lists": ("a: " + "[" * 5000 + "\n", "within each other"),
    "deep lists that end": ("a: " + "[" * 400 + "]" * 400 + "\n", "within each other"),
    "deep mappings": ("".join(" " * n + "a:\n" for n in range(400)), "within each other"),
    "aliases": (LAUGHS, "aliases counted"),
    "merges": (MERGES, "aliases counted"),
    "an alias in itself": ("a: &a {b: *a}\n", "holds itself"),
    "an alias of nothing": ("a: *b\n", "line 1 of"),
    "digits": ("a: " + "9" * 5000 + "\n", "not valid YAML"),
    "tab as indent": ("a:\n\tb: 1\n", "line 2 of"),
    "NUL": ("a: \0\n", "not valid YAML"),
    "a control": ("a: \x07\n", "not valid YAML"),
    "an open quote": ("a: 'b\n", "line 2 of|line 1 of"),
    "Latin-1": (b"a: 1\nb: \xe9\n", "line 2 of .*must be UTF-8"),
    "UTF-16 without a mark": ("a: 1\n".encode("utf-16-le"), "UTF-16 without"),
    "too long": ("a: '" + "x" * (1 << 17) + "'\n", "at most"),
    "many values": ("a: [" + "1," * 20100 + "]\n", "at most 20000 values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_in_one_short_line(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    begin = time.process_time()
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path / "c.yaml", text)
    assert str(tmp_path / "c.yaml") in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000 and time.process_time() - begin < 20


def test_messages_are_bounded_where_they_are_made() -> None:
    assert len(str(UserError("x" * 25_000_000))) < LONGEST_MESSAGE + 100
    assert str(UserError("short")) == "short"


@dataclass(frozen=True)
class Settings:
    """One field of each type."""

    whole: int = option(1)
    real: float = option(1.0)
    truth: bool = option(False)
    text: str = option("")
    place: Path = option(Path())
    wholes: Ints = option(())
    reals: Floats = option(())
    maybe: int | None = option(None)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("whole", "5", 5),
        ("whole", 5.0, 5),
        ("whole", "-1", -1),
        ("real", "1e-3", 1e-3),
        ("real", 2, 2.0),
        ("truth", "Yes", True),
        ("truth", 0, False),
        ("text", 5, "5"),
        ("text", "no", "no"),
        ("place", "a/b", Path("a/b")),
        ("wholes", "1,2", (1, 2)),
        ("wholes", [1, "2", 3.0], (1, 2, 3)),
        ("wholes", 4, (4,)),
        ("reals", [1, 2.5], (1.0, 2.5)),
        ("wholes", "", ()),
        ("maybe", None, None),
        ("maybe", "none", None),
        ("maybe", "3", 3),
        ("whole", 2**63 - 1, 2**63 - 1),
    ],
)
def test_values_of_each_type(key: str, value: object, expected: object) -> None:
    found = getattr(from_mapping(Settings, {key: value}), key)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("whole", value)
            for value in ("x", 1.5, None, True, [1], {"a": 1}, math.nan, math.inf, "1e400", "9" * 5000, 10**30, b"1")
        ),
        *(("real", value) for value in ("x", None, False, [1.0], {}, math.nan, -math.inf, "nan", "1e400", 10**400)),
        *(("truth", value) for value in ("maybe", None, [True], 2, 0.5)),
        *(("text", value) for value in (None, True, ["a"], {"a": 1}, b"a")),
        *(("place", value) for value in (None, True, ["a"], 5)),
        *(("wholes", value) for value in (None, {"1": 2}, [[1]], [1.5], [None], "1,x", [True], 5.5)),
        *(("reals", value) for value in ([math.nan], "1,inf", [[]])),
        ("maybe", "x"),
        ("maybe", [1]),
        ("other", 1),
        (3, 1),
        (None, 1),
    ],
)
def test_values_of_no_such_type_are_refused_in_one_line(key: object, value: object) -> None:
    with pytest.raises(UserError, match=f"`--{key}` must be|unknown key") as error:
        from_mapping(Settings, {key: value})  # type: ignore[dict-item]
    assert "\n" not in str(error.value) and len(str(error.value)) < LONGEST_MESSAGE + 100


def test_convert_reads_what_a_flag_says() -> None:
    assert convert(Floats, "0.9, 1.1") == (0.9, 1.1)


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(part) for key, part in value.items())
    return all(map(_plain, value)) if isinstance(value, list) else isinstance(value, (str, int, float, type(None)))


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_plain_values_or_one_line(tmp_path: Path, times: int) -> None:
    rng, seen = random.Random(1), {"read": 0, "refused": 0}
    good = yaml.safe_dump(GOOD, sort_keys=False, allow_unicode=True)
    parts = [
        "&a ",
        "*a",
        "!!set ",
        "- ",
        "? ",
        ": ",
        "{",
        "[",
        "'",
        '"',
        "\t",
        "\0",
        "<<: ",
        "1e9",
        ".nan",
        "\n",
        "|",
        "%",
        "@",
    ]
    for _ in range(times):
        text = good
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(["", rng.choice(parts), text[:at]]) + text[at + rng.randrange(4) :]
        try:
            assert _plain(read(tmp_path / "c.yaml", text))
            seen["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error) and len(str(error)) < 1000
            seen["refused"] += 1
    assert min(seen.values()) >= times * 0.05


@pytest.mark.parametrize(
    "text", ["a: !!int ''", "a: !!float ''", "a: !!bool ''", 'a: "\\ud800"', '"\\udcff": 1', "a: [{b: !!int ''}]"]
)
def test_values_that_no_text_can_hold_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="config.yaml") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
