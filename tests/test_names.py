"""Names of files for ids that come from elsewhere, and places inside a folder."""

import random
import unicodedata

import pytest

from couloir.errors import UserError
from couloir.files import name_of_id, place_in

WORST = [
    "../../../x", "/etc/passwd", "..", ".", "...", "", " ", "\0", "a\0b", "a\nb", "a\r\nb", "a\tb", "\x1b[2Jx", "a/b",
    "a\\b", "C:\\x", "a:b", "\\\\server\\share", "CON", "con", "Con.wav", "NUL.tar.gz", "aux ", "COM1", "LPT\u00b9",
    "x.", "x. .", " x", "x ", ".hidden", "-rf", "--", "~root", "a*b?", "<a>", '"', "|", "$HOME", "$(id)", "`id`",
    "\ud800", "a\udcff", "\u202egpj.exe", "\u2028", "\ufeff", "\u200b", "a" * 300, "\u00e4" * 300, "\U0001f600" * 100,
    "9" * 5000, "a" * 159 + "\u0301" * 9, "\ue000", "e\u0301", "\u212b", "x" * 160 + ".", "\u00a0", "conin$", "...a",
    "a" * 200_000,
]  # fmt: skip
KEPT = [
    "a",
    "user_r-0000000",
    "x.webm",
    "d.i.r",
    "Ünïcødé",
    "北東",
    "มาลี",
    "habari ya",
    "a'b",
    "a+b=c",
    "a,b;c",
    "(1) [2] {3}",
    "#1",
    "été@x",
]


def is_safe(name):
    """Linux, macOS and Windows take it as the name of one file; a shell, a log and a terminal as nothing else."""
    assert name and name == name.strip() and name == unicodedata.normalize("NFC", name)
    assert len(name.encode("utf-8")) <= 160  # raises where there is a surrogate
    assert not set(name) & set('<>:"/\\|?*$`') and name.isprintable() and name not in (".", "..")
    assert not name.startswith((".", "-", "~")) and not name.endswith(".")
    assert name.split(".")[0].strip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt1", "lpt\u00b9", "conin$")


@pytest.mark.parametrize("id", WORST, ids=lambda id: ascii(id[:12]))
def test_the_worst_ids_become_names_of_one_file(id, tmp_path):
    name = name_of_id(id)
    is_safe(name)
    path = tmp_path / f"{name}.TextGrid"
    path.write_text("x")
    assert list(tmp_path.iterdir()) == [path]
    assert name == name_of_id(id)


@pytest.mark.parametrize("id", KEPT)
def test_an_id_that_is_a_name_stays(id):
    assert name_of_id(id) == id


def test_different_ids_have_different_names():
    ids = [*WORST, *KEPT, "a/c", "a\\c", "a:c", "a-c", "a" * 301, "a" * 302]
    assert len({name_of_id(id) for id in ids}) == len(ids)


def test_blanks_are_replaced_where_an_id_must_have_none():
    assert name_of_id("habari ya", blank="-").startswith("habari-ya")
    taken = set()
    assert len({name_of_id(id, taken, "-") for id in ("a b", "a-b", "a\tb", "a  b")}) == 4


def test_names_that_some_file_systems_take_for_one_are_told_apart():
    taken = set()
    ids = ["a", "A", "a", "É", "é", "e\u0301", "straße", "STRASSE", "strasse", *["x" * 200] * 3]
    names = [name_of_id(id, taken) for id in ids]
    assert names[0] == "a" and names[3] == "É"
    assert len({unicodedata.normalize("NFD", name).casefold() for name in names}) == len(ids)
    for name in names:
        is_safe(name)


def test_random_ids():
    chance = random.Random(0)
    alphabet = '. -_/\\:*?"<>|\0\n\r\t~$`aAéé\u0301ßσςİıConNulx\u2028\ud800\udfff\U0001f468\u200d' + "\u0300" * 3
    taken, seen = set(), set()
    for _ in range(3000):
        id = "".join(chance.choices(alphabet, k=chance.randrange(8)))
        name = name_of_id(id, taken)
        is_safe(name)
        key = unicodedata.normalize("NFC", name).casefold()
        assert key not in seen
        seen.add(key)


def test_a_link_out_of_the_folder_is_no_place_to_write(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, elsewhere):
        folder.mkdir()
    (elsewhere / "x.wav").write_text("kept")
    (out / "x.wav").symlink_to(elsewhere / "x.wav")
    (out / "new.wav").symlink_to(elsewhere / "new.wav")
    (out / "sub").symlink_to(elsewhere)
    (out / "up").symlink_to("..")
    (out / "inside.wav").symlink_to("y.wav")
    for names in (["x.wav"], ["new.wav"], ["sub", "z.wav"], ["up", "z.wav"], ["..", "z.wav"], [str(elsewhere)], ["."]):
        with pytest.raises(UserError, match="must be inside"):
            place_in(out, *names)
    (tmp_path / "link").symlink_to(out)
    assert place_in(tmp_path / "link", "a.wav") == tmp_path / "link/a.wav"  # the folder that a person named may be one
    assert place_in(out, "inside.wav") == out / "inside.wav"
    assert place_in(out, "new", "a.wav") == out / "new/a.wav"
