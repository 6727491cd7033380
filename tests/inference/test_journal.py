"""The journal beside an output: damaged, replaced, written by an earlier release; and what is known by it."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parrot import Parrot, edit, go, grids, rows, talk

from couloir.errors import UserError
from couloir.inference.journal import journal_path
from couloir.inference.recordings import place_of

KINDS = ("jsonl", "tsv", "ctm", "TextGrid")


@pytest.fixture(params=KINDS)
def begun(request, parrot, tmp_path):
    """An output of two recordings: their folder, the output, and its journal."""
    out = tmp_path / ("grids" if request.param == "TextGrid" else f"t.{request.param}")
    folder = talk(tmp_path / "in", a="ata", b="eke")
    go(parrot, folder, out)
    return folder, out, journal_path(out)


def found(out):
    return [*grids(out).values()] if out.is_dir() else [text for _, text in rows(out)]


def bytes_of(out):
    files = sorted(out.rglob("*.TextGrid")) if out.is_dir() else [out]
    return {file: file.read_bytes() for file in files}


def with_values(line, values):
    """A line of a journal with other values, and without the sum that would tell."""
    return json.dumps({k: v for k, v in json.loads(line).items() if k != "crc"} | values) + "\n"


@pytest.mark.parametrize("kind", ["a link to a file", "a link to nothing", "a pipe"])
def test_a_journal_that_is_no_file_is_neither_followed_nor_waited_for(begun, parrot, tmp_path, kind):
    folder, out, journal = begun
    before, victim = bytes_of(out), tmp_path / "victim"
    journal.unlink()
    if kind == "a pipe":
        os.mkfifo(journal)
    else:
        journal.symlink_to(victim)
    if kind == "a link to a file":
        victim.write_text("precious\n")
    with pytest.raises(UserError, match=r"journal .* must be a regular file, but is a link, .*; remove it"):
        go(parrot, folder, out)
    assert bytes_of(out) == before and victim.exists() == (kind == "a link to a file")
    assert not victim.exists() or victim.read_text() == "precious\n"


@pytest.mark.parametrize("damage", ["gone", "bytes", "another order", "nothing but noise"])
def test_a_journal_without_its_beginning_stops_the_run(begun, parrot, damage):
    folder, out, journal = begun
    before, lines = bytes_of(out), journal.read_bytes().splitlines(keepends=True)
    damaged = {
        "gone": lines[1:],
        "bytes": [b"\0\1" + lines[0][2:], *lines[1:]],
        "another order": lines[::-1],
        "nothing but noise": [b"\xff\xfe\n", b"[]\n"],
    }[damage]
    journal.write_bytes(b"".join(damaged))
    with pytest.raises(UserError, match="journal .* damaged in its first line; give another --output"):
        go(parrot, folder, out)
    assert bytes_of(out) == before and journal.read_bytes() == b"".join(damaged) and len(parrot.given) == 2


@pytest.mark.parametrize("change", ["line ends", "byte order mark", "no last line end", "touched"])
def test_what_an_editor_does_to_a_journal_loses_nothing(begun, parrot, change):
    folder, out, journal = begun
    content = journal.read_bytes()
    changed = {
        "line ends": content.replace(b"\n", b"\r\n"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "no last line end": content[:-1],
        "touched": content,
    }[change]
    journal.write_bytes(changed)
    talk(folder, c="ini")
    assert go(parrot, folder, out).resumed == 2 and found(out) == ["ata", "eke", "ini"]
    assert go(parrot, folder, out).resumed == 3 and len(parrot.given) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": 5}, {"duration": "x"}, {"duration": float("nan")}, {"tokens": [{"symbol": 1}]}, {"tokens": 3},
        {"place": ["a"]}, {"place": "a\0"}, {"confidence": None}, {"log_probs": [1]}, {"frame_shift": 10**400},
        {"name": 3}, {"grid": 7}, {"grid": "\0"}, {"digest": "x"}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_result_is_transcribed_again(begun, parrot, capsys, wrong):
    folder, out, journal = begun
    before, lines = bytes_of(out), journal.read_text("utf-8").splitlines(keepends=True)
    lines[1] = with_values(lines[1], wrong)
    journal.write_text("".join(lines), "utf-8")
    assert go(parrot, folder, out).resumed == 1 and bytes_of(out) == before
    assert "has 1 damaged line(s), whose recordings are transcribed again" in capsys.readouterr().err
    assert parrot.given.count(str(folder / "a.wav")) == 2


def test_a_damaged_place_writes_nothing_elsewhere(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    go(parrot, folder, out)
    journal = journal_path(out)
    for place in ("../x.TextGrid", str(tmp_path / "x.TextGrid"), "sub/../../x.TextGrid"):
        lines = journal.read_text("utf-8").splitlines(keepends=True)
        lines[1] = with_values(lines[1], {"grid": place})
        journal.write_text("".join(lines), "utf-8")
        run = go(parrot, folder, out)
        assert run.exit_code() == 2 and "must be inside" in run.failed[str(folder / "a.wav")]
        assert not list(tmp_path.glob("x.TextGrid"))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_rows_that_a_damaged_journal_has_no_more_are_not_lost(parrot, tmp_path, kind):
    first, second, out = talk(tmp_path / "p", a="ata", b="eke"), talk(tmp_path / "q", c="ini"), tmp_path / f"t.{kind}"
    go(parrot, first, out)
    lines = journal_path(out).read_bytes().splitlines(keepends=True)
    journal_path(out).write_bytes(b"".join([lines[0], b"x" + lines[1], *lines[2:]]))
    with pytest.raises(UserError, match="holds rows that .*journal, which is damaged, has no more, and is kept"):
        go(parrot, second, out)
    assert found(out) == ["ata", "eke"]
    out.rename(tmp_path / "mine")
    go(parrot, second, out)
    assert found(out) == ["eke", "ini"] and found_in(tmp_path / "mine", kind) == ["ata", "eke"]


def found_in(path, kind):
    return [text for _, text in rows(path.rename(path.with_suffix(f".{kind}")))]


def test_any_flipped_bit_of_a_journal_is_one_line_or_counted(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "t.tsv"
    go(parrot, folder, out)
    content, table = journal_path(out).read_bytes(), out.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 8))):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        journal_path(out).write_bytes(damaged)
        out.write_bytes(table)
        try:
            go(parrot, folder, out)
        except UserError as error:
            assert out.read_bytes() == table and "\n" not in str(error)
        else:
            assert len(rows(out)) == 2


# What an earlier release wrote: results without the digests of the files.


def as_earlier(journal):
    """Write a journal as the first release did."""
    lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    lines[0] = {name: value for name, value in lines[0].items() if name not in ("average", "phones", "crc")}
    results = [
        {k: v for k, v in line.items() if k not in ("place", "grid", "crc")} for line in lines[1:] if "name" in line
    ]
    journal.write_text("".join(json.dumps(values) + "\n" for values in [lines[0], *results]), "utf-8")


def test_outputs_of_an_earlier_release_go_on(begun, parrot):
    folder, out, journal = begun
    before = bytes_of(out)
    as_earlier(journal)
    assert go(parrot, folder, out).resumed == 2 and bytes_of(out) == before
    as_earlier(journal)
    talk(folder, c="ini")
    run = go(parrot, folder, out)
    assert (run.resumed, run.left, run.failed) == (2, {}, {}) and found(out) == ["ata", "eke", "ini"]
    as_earlier(journal)
    talk(folder, a="umu")  # its file is known as ours by the former result, and may be replaced
    assert go(parrot, folder, out).resumed == 2 and sorted(found(out)) == ["eke", "ini", "umu"]


def test_outputs_of_an_earlier_release_may_have_been_corrected(begun, parrot, capsys):
    folder, out, journal = begun
    edited = out / "a.TextGrid" if out.is_dir() else out
    edit(edited, "ata", "CORRECTED")
    as_earlier(journal)
    talk(folder, c="ini")
    if not out.is_dir():
        with pytest.raises(UserError, match="was possibly changed since it was written, and is kept; .* move it away"):
            go(parrot, folder, out)
        assert found(out) == ["CORRECTED", "eke"] and len(parrot.given) == 2
        return
    run = go(parrot, folder, out)
    assert found(out) == ["CORRECTED", "eke", "ini"] and run.exit_code() == 0 and list(run.left) == [str(edited)]
    assert "1 kept as changed since" in run.summary(out)
    assert f"{edited} was possibly changed since it was written, and is kept" in capsys.readouterr().err
    talk(folder, a="umu")
    assert list(go(parrot, folder, out).left) == [str(edited)] and found(out)[0] == "CORRECTED"


def test_an_inventory_of_an_earlier_release_is_the_same_phones(parrot, tmp_path):
    folder, out, journal = talk(tmp_path / "in", a="ata"), tmp_path / "t.tsv", tmp_path / ".t.tsv.journal"
    parrot.restriction = type("Phones", (), {"digest": lambda self: "0123abcd"})()
    go(parrot, folder, out)
    header, result, *_ = map(json.loads, journal.read_text("utf-8").splitlines())
    for digest, same in (("0123abcd", True), ("ffff0000", False)):
        old = {k: v for k, v in header.items() if k not in ("average", "phones", "crc")} | {
            "inventory": f"ru ({digest})"
        }
        journal.write_text(json.dumps(old) + "\n" + json.dumps(result) + "\n", "utf-8")
        if same:
            assert go(parrot, folder, out).resumed == 1
        else:
            with pytest.raises(UserError, match="continued with what it was begun with"):
                go(parrot, folder, out)


# What is known by the digests


def by_hand(path, change, parts):
    """Change a file as a person or an editor does."""
    lines = path.read_bytes().splitlines(keepends=True)
    text = {
        "first line": [b"mine\n", *lines[1:]],
        "last line": [*lines[:-1], b"mine\n"],
        "one letter": [b"".join(lines).replace(b"ata", b"atu")],
        "order": lines[::-1],
        "no last line end": [b"".join(lines)[:-1]],
        "line ends": [line[:-1] + b"\r\n" for line in lines],
        "byte order mark": [b"\xef\xbb\xbf", *lines],
        "everything": [b"mine"],
        "a line more": [*lines, b"mine\n"],
    }[change]
    if change == "order" and len(lines) < 2:
        pytest.skip("one line has one order")
    path.write_bytes(b"".join(text))
    times = path.stat()
    os.utime(path, ns=parts or (times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("same_time", [False, True])
@pytest.mark.parametrize(
    "change",
    ["first line", "last line", "one letter", "order", "no last line end", "line ends", "byte order mark",
     "everything", "a line more"],
)  # fmt: skip
def test_every_change_by_hand_stays(begun, parrot, change, same_time):
    folder, out, _ = begun
    edited = out / "a.TextGrid" if out.is_dir() else out
    times = edited.stat()
    by_hand(edited, change, (times.st_atime_ns, times.st_mtime_ns) if same_time else None)
    mine = edited.read_bytes()
    for text in ("ata", "umu"):  # the recording as it was, and another
        talk(folder, a=text, d="ono")
        if out.is_dir():
            assert list(go(parrot, folder, out).left) == [str(edited)] and "ono" in (out / "d.TextGrid").read_text(
                "utf-8"
            )
        else:
            with pytest.raises(UserError, match="was changed since it was written, and is kept"):
                go(parrot, folder, out)
        assert edited.read_bytes() == mine


def test_what_came_back_from_a_backup_is_a_persons(begun, parrot):
    folder, out, _ = begun
    edited = out / "a.TextGrid" if out.is_dir() else out
    first = edited.read_bytes()
    talk(folder, a="umu")
    go(parrot, folder, out)
    assert edited.read_bytes() != first
    edited.write_bytes(first)
    talk(folder, a="ono")
    if out.is_dir():
        assert list(go(parrot, folder, out).left) == [str(edited)]
    else:
        with pytest.raises(UserError, match="is kept"):
            go(parrot, folder, out)
    assert edited.read_bytes() == first


def test_what_was_made_read_only_is_kept_and_other_permissions_stay(begun, parrot, capsys):
    folder, out, _ = begun
    file = out / "a.TextGrid" if out.is_dir() else out
    file.chmod(0o620)
    talk(folder, a="umu")
    go(parrot, folder, out)
    assert "umu" in file.read_text("utf-8") and stat.S_IMODE(file.stat().st_mode) == 0o620
    file.chmod(0o444)
    before = file.read_bytes()
    assert go(parrot, folder, out).resumed == 2 and not go(parrot, folder, out).left, "nothing is to be written"
    talk(folder, a="ono")
    if out.is_dir():
        run = go(parrot, folder, out)
        assert list(run.left) == [str(file)] and "1 kept" in run.summary(out)
        assert "made read-only since, and is kept" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match="was made read-only since, and is kept"):
            go(parrot, folder, out)
    assert file.read_bytes() == before and stat.S_IMODE(file.stat().st_mode) == 0o444


def test_a_textgrid_that_became_a_link_is_a_persons(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    go(parrot, folder, out)
    mine = tmp_path / "mine.TextGrid"
    (out / "a.TextGrid").rename(mine)
    edit(mine, "ata", "CORRECTED")
    (out / "a.TextGrid").symlink_to(mine)
    (out / "b.TextGrid").unlink()
    (out / "b.TextGrid").symlink_to("nowhere")
    talk(folder, a="umu", b="ono")
    run = go(parrot, folder, out)
    assert set(run.left) == {str(out / "a.TextGrid"), str(out / "b.TextGrid")} and run.exit_code() == 0
    assert "CORRECTED" in mine.read_text("utf-8") and not (out / "nowhere").exists()
    assert (out / "a.TextGrid").is_symlink() and (out / "b.TextGrid").is_symlink()


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from parrot import Parrot, go
class Slow(Parrot):
    def results(self, names):
        for result in super().results(names):
            time.sleep(0.002)
            yield result
print("ready", flush=True)
go(Slow(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_are_killed_at_any_moment_lose_nothing(parrot, tmp_path, kind):
    texts = {f"r{n:02d}": f"t{n}a" for n in range(40)}
    folder = talk(tmp_path / "in", **texts)
    out = tmp_path / ("grids" if kind == "TextGrid" else f"t.{kind}")
    code = SLOW.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, parrot.backend.origin, str(folder), str(out)]
    draw, resumed = random.Random(kind), 0
    for _ in range(4):
        root = str(Path(__file__).resolve().parents[2])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root})
        assert process.stdout and process.stdout.readline()
        time.sleep(draw.uniform(0.005, 0.15))
        process.kill()
        process.wait()
    run = go(parrot, folder, out)
    assert (run.left, run.failed) == ({}, {}) and run.resumed > resumed
    assert sorted(found(out)) == sorted(texts.values())
    assert go(Parrot(parrot.backend.origin), folder, out).resumed == 40
    held = {json.loads(line).get("place") for line in journal_path(out).read_text("utf-8").splitlines()[1:]}
    assert {place_of(folder / f"{name}.wav") for name in texts} <= held
