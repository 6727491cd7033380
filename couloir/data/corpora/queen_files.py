"""The data file of "Flight of the Amazon Queen": recordings, and the scripts that say what is spoken in them.

A directory of named parts: ``*.SB`` recordings (MP3), ``*.DOG`` dialogues, ``*.CUT`` cut scenes, ``QUEEN.JAS`` and
``QUEEN2.JAS`` the objects and the hero's remarks. Numbers are big-endian. A line of a script has a key; where it is
cut by animation codes (``*`` and two characters), its n-th piece is the recording of that name with n behind it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from couloir.errors import must_be

RECORDING = ".SB"
HERO = "joe"
_MAGIC, _HEAD, _ENTRY = b"QTBLCEM10\0\0\0\1", 15, 21
_BANK = 20  # bytes of a header that scripts begin with
_CODE = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|..)")
# Of QUEEN2.JAS: the first of the hero's general answers, which are JOE0001 and so on; his descriptions come after them.
_FIRST_ANSWER, _ANSWERS = 1187, 40
_NODE_BYTES, _OBJECT_BYTES = 96, 36
# Whom a dialogue's file is named for, and what the same person is called among the objects of cut scenes. One actor may
# play several; what other objects say is by someone unknown.
_CAST = {
    "AND": "Anderson",
    "APE": "gorilla",
    "BOB": "Trader Bob",
    "BUD": "Bud",
    "CHEF": "chef",
    "CHIEF": "chief",
    "DEATH": "ferryman",
    "DOG": "guard dog",
    "FAYE": "Faye",
    "FRANK": "Frank",
    "HENRY": "Henry",
    "IAN": "Ian",
    "JIM": "Jimmy",
    "JOHN": "John",
    "KLUNK": "Klunk",
    "LARIS": "",
    "LOLA": "Lola",
    "LOU": "Skip",
    "MAN": "",
    "NAOMI": "Naomi",
    "ORACLE": "guardian",
    "PRIN": "Princess Azura",
    "SEC": "secretary",
    "SHOWERAM": "showering Amazon",
    "SPARKY": "Sparky",
    "TALLPYG": "",
    "TAM": "Mary-Lou",
    "WEDGE": "",
    "WITCH": "witch doctor",
    "ZOMBIE": "zombie woman",
}
_BY_OBJECT = {name: key.lower() for key, name in _CAST.items() if name} | {"Joe King": HERO}


@dataclass(frozen=True)
class Line:
    """A line of a script: its key, what is spoken in each piece ("" for none), and who speaks, "" where not known."""

    key: str
    pieces: list[str]
    speaker: str

    @property
    def spoken(self) -> dict[str, str]:
        """Name of a recording, without its suffix -> what is spoken in it."""
        return {f"{self.key}{n:X}": text for n, text in enumerate(self.pieces, 1) if re.search("[A-Za-z]", text)}


class DataFile:
    """The parts of the data file by name. Raises `UserError` when it is another file or release, or is cut short."""

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, path.read_bytes()
        if not self.content.startswith(_MAGIC):
            raise must_be(str(path), "the data file of the game with speech (MP3)", "another file or release")
        self.parts: dict[str, tuple[int, int]] = {}
        for i in range(self._numbers(13, "H")[0]):
            name, _, offset, size = self._numbers(_HEAD + i * _ENTRY, "12sBII")
            if offset + size > len(self.content):
                raise must_be(str(path), "whole", f"cut short before {name!r}")
            self.parts[name.split(b"\0")[0].decode("ascii", "replace")] = (offset, size)

    def read(self, name: str) -> bytes:
        """The bytes of a part. Raises `UserError` where there is none of that name."""
        if name not in self.parts:
            raise must_be(str(self.path), f"a file with {name}", "one without")
        offset, size = self.parts[name]
        return self.content[offset : offset + size]

    def named(self, suffix: str) -> list[str]:
        """The names of the parts that end so, sorted."""
        return sorted(name for name in self.parts if name.endswith(suffix))

    def lines(self) -> Iterator[Line]:
        """Every line of the scripts. Raises `UserError` for a script that is damaged."""
        table = self.read("QUEEN2.JAS").decode("latin-1").split("\r\n")
        objects = self._objects(table)
        readers = [(name, lambda script, name=name: _dialogue(script, name)) for name in self.named(".DOG")]
        readers += [(name, lambda script, name=name: _cut_scene(script, name, objects)) for name in self.named(".CUT")]
        for name, read in readers:
            try:
                yield from read(self.read(name)[_BANK:])
            except (struct.error, IndexError):
                raise must_be(f"{self.path}: {name}", "a script of the game", "damaged") from None
        yield from _remarks(table)

    def _objects(self, table: list[str]) -> list[str]:
        """The name of each object, whose numbers begin at 1."""
        script = self.read("QUEEN.JAS")[_BANK:]
        _, names, objects, descriptions = struct.unpack_from(">4H", script)
        indices = [abs(struct.unpack_from(">h", script, 8 + 16 * i)[0]) for i in range(objects)]
        first = descriptions - 1  # the names, counted from 1, come behind the descriptions, one less than are said
        return ["", *(table[first + i] if 0 < i <= names else "" for i in indices)]

    def _numbers(self, offset: int, kinds: str) -> tuple:
        try:
            return struct.unpack_from(">" + kinds, self.content, offset)
        except struct.error:
            raise must_be(str(self.path), "whole", "cut short in its directory") from None


def pieces(text: str) -> list[str]:
    """A line's pieces between its codes."""
    return [piece.strip() for piece in _CODE.split(text)]


def _string(script: bytes, at: int, align: int) -> tuple[str, int]:
    """A string with its length in front, and where the next one begins."""
    length = script[at]
    text = script[at + 1 : at + 1 + length].decode("latin-1")
    end = at + 1 + length
    return text, -(-end // align) * align if length or align == 4 else end


def _dialogue(script: bytes, name: str) -> Iterator[Line]:
    """Of the hero (J) and his partner (P): numbered lines, then their greetings when they meet again."""
    levels, _, key, hero_lines, partner_lines = struct.unpack_from(">5h", script)
    partner_at, _, greetings_at = struct.unpack_from(">3H", script, 22)
    partner = re.sub(r"\d*\.DOG$", "", name).lower()
    start = 32 + abs(levels) * _NODE_BYTES
    for letter, speaker, at, count in (("J", HERO, start, hero_lines), ("P", partner, partner_at, partner_lines)):
        for _ in range(count):
            number = struct.unpack_from(">h", script, at + 2)[0]
            text, at = _string(script, at + 4, 4)
            yield Line(f"{key:02d}{number:04X}{letter}" if number else f"{key:02d}SSSS{letter}", pieces(text), speaker)
    for letter, speaker in (("P", partner), ("J", HERO)):
        text, greetings_at = _string(script, greetings_at, 2)
        yield Line(f"{key:02d}XXXX{letter}", pieces(text), speaker)


def _cut_scene(script: bytes, name: str, objects: list[str]) -> Iterator[Line]:
    """One line for each step of the scene, whose object speaks it."""
    _, steps, _, steps_end, strings_at = struct.unpack_from(">5h", script)
    steps = abs(steps)
    key = name.removesuffix(".CUT")[:5].ljust(5, "_")
    _, at = _string(script, strings_at, 2)
    first = steps_end - 2 - _OBJECT_BYTES * steps
    for step in range(steps):
        number = struct.unpack_from(">h", script, first + _OBJECT_BYTES * step)[0]
        named = objects[number] if 0 < number < len(objects) else ""
        text, at = _string(script, at, 2)
        yield Line(f"{key}{step + 1:02d}", pieces(text), HERO if number == 0 else _BY_OBJECT.get(named, ""))


def _remarks(table: list[str]) -> Iterator[Line]:
    """What the hero says of things: general answers first, then descriptions."""
    answers = table[_FIRST_ANSWER : _FIRST_ANSWER + _ANSWERS]
    for number, text in enumerate([*answers, *table[: _FIRST_ANSWER - 1]], 1):
        yield Line(f"JOE{number:04d}", pieces(text), HERO)
