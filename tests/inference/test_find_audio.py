"""Which recordings a command line means: formats, links, hidden files, and what is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from couloir.audio import AUDIO_SUFFIXES
from couloir.errors import UserError
from couloir.inference.recordings import find_audio, place_of


def touch(folder, *names):
    for name in names:
        path = folder / os.fsdecode(name) if isinstance(name, bytes) else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found.files]


def test_every_format_that_is_read_is_found_whatever_its_case(tmp_path):
    expected = [f"a{suffix}" for suffix in AUDIO_SUFFIXES] + [f"b{suffix.upper()}" for suffix in AUDIO_SUFFIXES]
    touch(tmp_path, *expected)
    assert names(find_audio([tmp_path]), tmp_path) == sorted(expected)
    assert {".wav", ".w64", ".oga", ".mka", ".aiff", ".mp3", ".m4a", ".sph"} <= set(AUDIO_SUFFIXES)


def test_what_is_passed_over_is_counted_by_suffix(tmp_path):
    touch(tmp_path, "a.wav", "1.txt", "sub/2.TXT", "3.TextGrid", "README", "x.averyveryverylongsuffix", ".hidden.wav")
    touch(tmp_path, "._a.wav", ".git/x.wav", "__MACOSX/a.wav", "sub/__MACOSX/._b.wav", "x.wav.part", "a.wav~")
    found = find_audio([tmp_path])
    assert names(found, tmp_path) == ["a.wav"]
    assert found.passed == {
        ".txt": 2, ".textgrid": 1, "without a suffix": 1, "of long suffixes": 1, "hidden": 5, ".part": 1, ".wav~": 1
    }  # fmt: skip
    assert found.passed_over().startswith("5 hidden, 2 .txt, 1 ")
    touch(tmp_path, *(f"x.{letter}" for letter in "abcdefghijklmn"))
    assert find_audio([tmp_path]).passed_over().endswith(" others")


def test_linked_folders_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path / "in", "real/a.wav", "b.wav")
    touch(tmp_path / "elsewhere", "c.wav", "deep/d.wav")
    for link, target in {
        "in/again": "real",
        "in/0": "../elsewhere",
        "in/real/up": "..",
        "elsewhere/deep/self": ".",
        "elsewhere/back": "../in",
        "in/endless": "endless",
        "in/gone.wav": "nothing",
        "in/linked.wav": "b.wav",
    }.items():
        (tmp_path / link).symlink_to(target)
    found = find_audio([tmp_path / "in"])
    assert names(found, tmp_path / "in") == ["0/c.wav", "0/deep/d.wav", "b.wav", "linked.wav", "real/a.wav"]
    assert found.passed["broken links"] == 1 and not found.unread


def test_a_recording_that_is_named_twice_is_one(tmp_path, monkeypatch):
    touch(tmp_path / "in", "a.wav", "sub/b.wav")
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    places = ["in", "./in/sub", tmp_path / "link", "in/a.wav", "link/a.wav", "in/../in/a.wav"]
    assert [str(path) for path in find_audio([Path(place) for place in places]).files] == ["in/a.wav", "in/sub/b.wav"]
    assert place_of("link/a.wav") == place_of(tmp_path / "in" / "a.wav") == str(tmp_path.resolve() / "in" / "a.wav")


def test_pipes_and_folders_with_the_names_of_recordings(tmp_path):
    touch(tmp_path, "a.wav", "folder.wav/b.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    found = find_audio([tmp_path])
    assert names(found, tmp_path) == ["a.wav", "folder.wav/b.wav"] and sum(found.passed.values()) == 2


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b"a\nb.wav", b"a\rb.wav", b"a\tb.wav", b"\x1b[2J.wav", b"-rf.wav", b" .wav"]
)
def test_any_name_is_found(tmp_path, name):
    touch(tmp_path, name)
    assert [os.fsencode(path.name) for path in find_audio([tmp_path]).files] == [name]


def test_the_output_inside_a_folder_is_no_part_of_it(tmp_path):
    touch(tmp_path, "a.wav", "grids/a.TextGrid", "grids/b.wav", "t.tsv")
    assert names(find_audio([tmp_path], tmp_path / "grids"), tmp_path) == ["a.wav"]
    assert find_audio([tmp_path], tmp_path / "t.tsv").passed == {".textgrid": 1}


def test_a_folder_without_recordings_says_what_it_has(tmp_path):
    with pytest.raises(UserError, match="holds no recording"):
        find_audio([touch(tmp_path / "empty", "x/y.txt").parent / "empty"])
    with pytest.raises(UserError, match=r"passed over: 2 \.txt, 1 \.docx"):
        find_audio([touch(tmp_path / "texts", "a.txt", "b.txt", "c.docx")])
    with pytest.raises(UserError, match="does not exist"):
        find_audio([tmp_path / "gone.wav"])


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    touch(tmp_path, "a.wav", "secret/b.wav")
    listdir = os.listdir

    def refusing(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    found = find_audio([tmp_path])
    assert names(found, tmp_path) == ["a.wav"]
    assert found.unread == {
        str(tmp_path / "secret"): f"folder {tmp_path / 'secret'} cannot be read (Permission denied)"
    }
