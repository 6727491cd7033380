"""The game's data file, made here byte by byte: a dialogue, a cut scene, the tables, and recordings of some lines."""

import struct
from pathlib import Path

import pytest

from couloir.data.corpora.amazon_queen import AmazonQueen
from couloir.data.corpora.base import Dropped
from couloir.data.corpora.queen_files import DataFile, pieces
from couloir.errors import UserError

BANK = b"AmBk" + bytes(8) + b"Datas   "


def padded(text: bytes) -> bytes:
    """A string as scripts hold it at an even place: its length, itself, perhaps a zero."""
    return bytes([len(text)]) + text + bytes((len(text) + 1) % 2)


def dialogue() -> bytes:
    """Of talk key 7, with one level: two lines of the hero, one of his partner, two greetings."""
    hero = b"".join(
        entry(number, text) for number, text in ((0, b"Hi Bob.*02Well?*03"), (26, b"Got*XY00(237,112)keys?"))
    )
    partner = entry(26, b"No.*00*01Ask Naomi.")
    partner_at = 32 + 96 + len(hero)
    greetings_at = partner_at + len(partner)
    head = struct.pack(">5h", -1, 3, 7, 2, 1) + bytes(12) + struct.pack(">3H", partner_at, 0, greetings_at) + bytes(4)
    greetings = padded(b"Back again?") + padded(b"Hello again.*02")
    return BANK + head + bytes(96) + hero + partner + greetings


def entry(number: int, text: bytes) -> bytes:
    content = struct.pack(">2h", 0, number) + bytes([len(text)]) + text
    return content + bytes(-len(content) % 4)


def cut_scene(objects: list[int], lines: list[bytes]) -> bytes:
    steps_at = 14
    steps_end = steps_at + 36 * len(objects) + 2
    steps = b"".join(struct.pack(">h", number) + bytes(34) for number in objects)
    # The first string is empty and takes one byte: what follows begins at an odd place.
    at, strings = steps_end, b"\0"
    for text in lines:
        strings += bytes([len(text)]) + text
        if text:
            strings += bytes((at + len(strings)) % 2)
    head = struct.pack(">5h", 0, -len(objects), 0, steps_end, at)
    return BANK + head + bytes(steps_at - len(head)) + steps + bytes(2) + strings


def tables() -> dict[str, bytes]:
    """Objects 1, "Trader Bob", and 2, "rock"; the descriptions are 1186 lines, 40 answers behind them."""
    lines = [f"It's thing {i}*03" for i in range(1186)]
    lines[724:726] = ["Trader Bob", "rock"]  # names 1 and 2
    answers = [f"Answer {i}*03" for i in range(40)]
    answers[1] = "No thanks.*14I'm fine*03"
    head = struct.pack(">4H", 1, 2, 2, 724) + struct.pack(">8h", -1, *[0] * 7) + struct.pack(">8h", 2, *[0] * 7)
    return {"QUEEN.JAS": BANK + head, "QUEEN2.JAS": "\r\n".join([*lines, "", *answers]).encode("latin-1")}


def data_file(parts: dict[str, bytes]) -> bytes:
    head = b"QTBLCEM10\0\0\0\1" + struct.pack(">H", len(parts))
    offset, directory, body = len(head) + 21 * len(parts), b"", b""
    for name, content in parts.items():
        directory += struct.pack(">12sBII", name.encode(), 0, offset + len(body), len(content))
        body += content
    return head + directory + body


@pytest.fixture
def parts():
    scene = cut_scene([0, 1, 2, -2], [b"*FLHey!*01", b"Yes, Joe?", b"", b"Too late."])
    scripts = {"BOB1.DOG": dialogue(), "C9A.CUT": scene, **tables()}
    clips = (
        ["07SSSSJ1", "07SSSSJ2", "07001AJ1", "07001AJ2", "07001AP1", "07001AP3", "07XXXXP1", "07XXXXJ1"]
        + ["C9A__012", "C9A__021", "C9A__041", "JOE00011", "JOE00021", "JOE00411", "MIK_0019"]
    )  # fmt: skip
    return scripts | {f"{clip}.SB": clip.encode() for clip in clips}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    builder = AmazonQueen()
    monkeypatch.setattr("couloir.data.corpora.base.fetch_package", lambda name, folder: folder / name)

    def unpack(deb, target, members):
        (target / "usr").mkdir(parents=True)
        (target / "usr/queen.1c").write_bytes((tmp_path / "given").read_bytes())

    monkeypatch.setattr("couloir.data.corpora.base.unpack", unpack)

    def made(parts):
        (tmp_path / "given").write_bytes(data_file(parts))
        builder.fetch(tmp_path)
        return list(builder.utterances(tmp_path))

    return made


def test_lines_are_paired_with_their_recordings(corpus, parts):
    found = {u.id: (u.speaker, u.text) for u in corpus(parts) if not isinstance(u, Dropped)}
    assert found == {
        "07SSSSJ1": ("joe", "Hi Bob."),
        "07SSSSJ2": ("joe", "Well?"),
        "07001AJ1": ("joe", "Got"),
        "07001AJ2": ("joe", "keys?"),
        "07001AP1": ("bob", "No."),
        "07001AP3": ("bob", "Ask Naomi."),
        "07XXXXP1": ("bob", "Back again?"),
        "07XXXXJ1": ("joe", "Hello again."),
        "C9A__012": ("joe", "Hey!"),
        "C9A__021": ("bob", "Yes, Joe?"),
        "C9A__041": ("", "Too late."),
        "JOE00011": ("joe", "Answer 0"),
        "JOE00411": ("joe", "It's thing 0"),
    }


def test_what_is_left_out_is_named_and_audio_is_the_clips_bytes(corpus, parts):
    utterances = corpus(parts)
    dropped = {u.id: u.reason for u in utterances if isinstance(u, Dropped)}
    assert dropped == {"JOE00021": "line and recordings differ", "MIK_0019": "no transcript"}
    for utterance in utterances:
        if not isinstance(utterance, Dropped):
            assert Path(utterance.audio).read_bytes() == utterance.id.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One*03Two", ["One", "Two"]),
        ("*FLHey*01", ["", "Hey", ""]),
        ("a*XY00(237,112)*FLb", ["a", "", "b"]),
        ("no code", ["no code"]),
        ("*WT*WT*FRNo.*05", ["", "", "", "No.", ""]),
        ("ends with *", ["ends with *"]),
    ],
)
def test_pieces_between_codes(text, expected):
    assert pieces(text) == expected


@pytest.mark.parametrize("keep", [0, 10, 14, 15, 40, 400, -1])
def test_a_file_that_is_cut_short_or_another_is_one_line(tmp_path, parts, keep):
    path = tmp_path / "queen.1c"
    path.write_bytes(data_file(parts)[:keep])
    with pytest.raises(UserError, match="queen.1c"):
        DataFile(path)


def test_damaged_scripts_are_one_line(tmp_path, parts):
    for name in ("BOB1.DOG", "C9A.CUT"):
        path = tmp_path / "queen.1c"
        path.write_bytes(data_file(parts | {name: parts[name][:60]}))
        with pytest.raises(UserError, match=rf"{name}` must be a script of the game, but is damaged"):
            list(DataFile(path).lines())
    path.write_bytes(data_file({name: content for name, content in parts.items() if name != "QUEEN2.JAS"}))
    with pytest.raises(UserError, match="QUEEN2.JAS"):
        list(DataFile(path).lines())
