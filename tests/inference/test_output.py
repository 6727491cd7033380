"""Outputs of many recordings: what a person made or changed stays, nothing is replaced that is no file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from parrot import Parrot, edit, go, grids, rows, talk

from couloir.errors import UserError
from couloir.inference.journal import Journal, journal_path
from couloir.inference.output import output_of, writing_one

TABLES = ("jsonl", "tsv", "ctm")


# TextGrids


def test_corrected_textgrids_are_kept_named_and_counted(parrot, tmp_path, capsys):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    go(parrot, folder, out)
    edit(out / "a.TextGrid", "ata", "CORRECTED")
    talk(folder, c="ini")
    talk(folder, b="oko")  # and one is another recording now
    run = go(parrot, folder, out)
    assert {name: text.strip() for name, text in grids(out).items()} == {
        "a.TextGrid": "CORRECTED", "b.TextGrid": "oko", "c.TextGrid": "ini"
    }  # fmt: skip
    assert list(run.left) == [str(out / "a.TextGrid")] and run.exit_code() == 0
    assert f"{out / 'a.TextGrid'} was changed since it was written, and is kept" in capsys.readouterr().err
    assert "1 kept as changed since" in run.summary(out)
    talk(folder, a="umu")  # corrected, and the recording changed: still the person's
    go(parrot, folder, out)
    assert grids(out)["a.TextGrid"] == "CORRECTED"


@pytest.mark.parametrize("change", ["a blank", "line ends", "code", "nothing in it"])
def test_any_change_is_a_change(parrot, tmp_path, change):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "grids"
    go(parrot, folder, out)
    content = (out / "a.TextGrid").read_bytes()
    changed = {
        "a blank": content + b" ",
        "line ends": content.replace(b"\n", b"\r\n"),
        "code": content.decode().encode("utf-16"),
        "nothing in it": b"",
    }[change]
    (out / "a.TextGrid").write_bytes(changed)
    assert go(parrot, folder, out).left
    assert (out / "a.TextGrid").read_bytes() == changed


def test_a_file_that_was_only_touched_is_no_change(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "grids"
    go(parrot, folder, out)
    os.utime(out / "a.TextGrid", (1, 1))
    talk(folder, a="eke")
    assert not go(parrot, folder, out).left and grids(out) == {"a.TextGrid": "eke"}


def test_a_deleted_textgrid_stays_deleted_and_a_deleted_folder_is_written_again(parrot, tmp_path, capsys):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    go(parrot, folder, out)
    (out / "a.TextGrid").unlink()
    run = go(parrot, folder, out)
    assert list(grids(out)) == ["b.TextGrid"] and "1 not written again after deletion" in run.summary(out)
    assert "a.TextGrid was deleted since, and is not written again" in capsys.readouterr().err
    (out / "b.TextGrid").unlink()
    go(parrot, folder, out)
    assert list(grids(out)) == ["a.TextGrid", "b.TextGrid"]
    assert "is gone, and is written again" in capsys.readouterr().err
    assert len(parrot.given) == 2, "from the journal"


def test_a_run_that_was_killed_between_file_and_journal_knows_its_own_files(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    go(parrot, folder, out)
    journal = journal_path(out)
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 7, "what it is made with, two results, and two lines for each file"
    for kept in range(3, len(lines) + 1):
        journal.write_text("".join(lines[:kept]) + "".join(lines[kept : kept + 1])[:30], "utf-8")
        run = go(parrot, folder, out)
        assert (run.left, run.failed, run.resumed) == ({}, {}, 2)
        assert grids(out) == {"a.TextGrid": "ata", "b.TextGrid": "eke"}
    journal.write_text("".join(lines[:3]), "utf-8")
    edit(out / "a.TextGrid", "ata", "CORRECTED")  # and here nobody knows who wrote it
    run = go(parrot, folder, out)
    assert list(run.left) == [str(out / "a.TextGrid")] and grids(out)["a.TextGrid"] == "CORRECTED"


def test_somebodys_own_textgrid_stops_the_run_before_any_work(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "grids"
    out.mkdir()
    (out / "a.TextGrid").write_text("mine")
    with pytest.raises(UserError, match="a.TextGrid exists, and may be made by hand"):
        go(parrot, folder, out)
    assert (out / "a.TextGrid").read_text() == "mine" and parrot.given == []


def test_two_folders_into_one_keep_both(parrot, tmp_path):
    p, q = talk(tmp_path / "p", x="ata", y="ene"), talk(tmp_path / "q", x="oko", y="unu", z="iki")
    out = tmp_path / "grids"
    for folder in (p, q, p, q):
        assert not go(parrot, folder, out).left
    expected = {
        "x.TextGrid": "ata",
        "y.TextGrid": "ene",
        "q/x.TextGrid": "oko",
        "q/y.TextGrid": "unu",
        "z.TextGrid": "iki",
    }
    assert grids(out) == expected and len(parrot.given) == 5
    third = talk(tmp_path / "other" / "q", x="epe")  # a folder of the same name
    go(parrot, third, out)
    go(parrot, tmp_path / "other", out)
    assert {*grids(out).values()} == {*expected.values(), "epe"} and len(grids(out)) == 6


def test_one_textgrid_is_not_that_of_another_recording(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "one.TextGrid"
    go(parrot, folder / "a.wav", out)
    assert out.is_file()
    for other in (folder / "b.wav", folder):
        with pytest.raises(UserError, match="must be a folder"):
            go(parrot, other, out)
    assert 'text = "ata"' in out.read_text()
    edit(out, "ata", "CORRECTED")
    assert go(parrot, folder / "a.wav", out).left and "CORRECTED" in out.read_text()
    go(parrot, folder, tmp_path / "two.TextGrid")
    assert len(grids(tmp_path / "two.TextGrid")) == 2


def test_a_failed_target_is_that_recordings_failure(parrot, tmp_path, capsys):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "grids"
    talk(folder / "sub", c="ini")
    out.mkdir()
    (out / "sub").write_text("a file where a folder has to be")
    run = go(parrot, folder, out)
    assert list(grids(out)) == ["a.TextGrid", "b.TextGrid"] and run.exit_code() == 2
    assert list(run.failed) == [str(folder / "sub" / "c.wav")] and "sub" in capsys.readouterr().err
    (out / "sub").unlink()
    (out / "sub").symlink_to(talk(tmp_path / "elsewhere"))  # what an output holds does not say where files go
    assert go(parrot, folder, out).exit_code() == 2 and not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("stem", ["x" * 251, "ไ" * 77, "é" * 125, "😀" * 62, unicodedata.normalize("NFD", "é" * 83)])
def test_a_long_name_stops_nothing(parrot, tmp_path, stem):
    folder, out = talk(tmp_path / "in", a="ata", **{stem: "eke"}), tmp_path / "grids"
    assert go(parrot, folder, out).exit_code() == 0
    assert sorted(grids(out).values()) == ["ata", "eke"]
    assert go(parrot, folder, out).resumed == 2
    wide = tmp_path / f"{stem[: 251 // len(os.fsencode(stem[0]))]}.tsv"
    if len(os.fsencode(wide.name)) <= 255:
        go(parrot, folder, wide)
        assert len(rows(wide)) == 2 and go(parrot, folder, wide).resumed == 2


# Tables


@pytest.mark.parametrize("kind", TABLES)
def test_two_folders_into_one_table_keep_both(parrot, tmp_path, kind):
    out = tmp_path / f"t.{kind}"
    go(parrot, talk(tmp_path / "p", a="ata", b="eke"), out)
    go(parrot, talk(tmp_path / "q", b="ono"), out)
    assert [text for _, text in rows(out)] == ["ata", "eke", "ono"]
    go(parrot, tmp_path / "p", out)
    assert sorted(text for _, text in rows(out)) == ["ata", "eke", "ono"] and len(parrot.given) == 3


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_was_changed_is_kept(parrot, tmp_path, kind):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / f"t.{kind}"
    go(parrot, folder, out)
    edit(out, "ata", "CORRECTED")
    talk(folder, b="eke")
    with pytest.raises(UserError, match="was changed since it was written, and is kept; .*move it away"):
        go(parrot, folder, out)
    assert "CORRECTED" in out.read_text() and parrot.given == [str(folder / "a.wav")]
    out.rename(tmp_path / "mine")
    go(parrot, folder, out)
    assert [text for _, text in rows(out)] == ["ata", "eke"]


def test_a_table_that_changes_while_the_run_lasts_is_kept(parrot, tmp_path, monkeypatch):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "t.tsv"
    go(parrot, folder, out)
    talk(folder, b="eke")
    results = parrot.results

    def meanwhile(names):
        edit(out, "ata", "CORRECTED")
        yield from results(names)

    monkeypatch.setattr(parrot, "results", meanwhile)
    with pytest.raises(UserError, match="is kept"):
        go(parrot, folder, out)
    assert "CORRECTED" in out.read_text()
    out.unlink()
    assert go(Parrot(parrot.backend.origin), folder, out).resumed == 2, "nothing is lost"


@pytest.mark.parametrize("kind", (*TABLES, "TextGrid"))
def test_a_file_that_no_run_has_written_is_refused_and_an_empty_one_is_not(parrot, tmp_path, kind):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / f"t.{kind}"
    out.write_text("my notes\n")
    with pytest.raises(UserError, match="may be made by hand"):
        go(parrot, folder / "a.wav", out)
    assert out.read_text() == "my notes\n" and parrot.given == []
    out.write_text("")  # as mktemp makes it
    go(parrot, folder / "a.wav", out)
    assert "ata" in out.read_text()


def test_a_table_outlives_its_recordings_and_a_journal_of_an_older_run(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata", b="eke"), tmp_path / "t.tsv"
    go(parrot, folder, out)
    (folder / "a.wav").unlink()
    go(parrot, folder, out)
    assert [text for _, text in rows(out)] == ["ata", "eke"], "what was found once is not thrown away"
    journal = journal_path(out)
    journal.write_bytes(
        b"\xff\x00 not json\n" + journal.read_bytes() + b'[1]\n{"name": 3}\n{"wrote": 1, "digest": []}\n'
    )
    assert go(parrot, folder, out).resumed == 1


# What is no regular file


def test_links_are_resolved_and_stay(parrot, tmp_path):
    folder = talk(tmp_path / "in", a="ata")
    real = talk(tmp_path / "vol") / "real.tsv"
    links = [tmp_path / "link.tsv", tmp_path / "second.tsv", tmp_path / "dir" / "real.tsv"]
    links[0].symlink_to("vol/real.tsv")  # nothing is there yet
    links[1].symlink_to(links[0])
    (tmp_path / "dir").symlink_to("vol")
    for number, link in enumerate([*links, real]):
        assert go(parrot, folder, link).resumed == min(number, 1)
        assert [text for _, text in rows(real)] == ["ata"] and not real.is_symlink()
    assert links[0].is_symlink() and links[1].is_symlink() and len(parrot.given) == 1
    (tmp_path / "loop.tsv").symlink_to("loop.tsv")
    with pytest.raises(UserError, match="links lead nowhere"):
        go(parrot, folder, tmp_path / "loop.tsv")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from parrot import Parrot, go
from couloir.errors import one_line_errors
sys.exit(one_line_errors(lambda: go(Parrot(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).exit_code())())
"""


def _program(parrot, folder, output, **options):
    code = PROGRAM.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, parrot.backend.origin, str(folder), str(output)]
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}, **options)


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link.tsv"])
@pytest.mark.parametrize("into", ["pipe", "file", "end of a file"])
def test_standard_output_is_written_into(parrot, tmp_path, place, into):
    folder = talk(tmp_path / "in", a="ata")
    (tmp_path / "link.tsv").symlink_to("/dev/stdout")
    target = tmp_path / "out.txt"
    target.write_text("before\n")
    if into == "pipe":
        done = _program(parrot, folder, place, cwd=tmp_path, stdout=subprocess.PIPE)
        text = "before\n" + done.stdout
    else:
        with open(target, "a" if into == "end of a file" else "r+") as out:
            out.seek(0, os.SEEK_END)
            done = _program(parrot, folder, place, cwd=tmp_path, stdout=out)
        text = target.read_text()
    assert done.returncode == 0, done.stderr
    assert text.splitlines()[0] == "before" and text.splitlines()[1].startswith("file\ttext")
    assert text.splitlines()[2].split("\t")[1] == "ata" and len(text.splitlines()) == 3
    assert (tmp_path / "link.tsv").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "link.tsv", "model.onnx", "out.txt"}


def test_another_open_file_is_written_into(parrot, tmp_path):
    folder = talk(tmp_path / "in", a="ata")
    read, write = os.pipe()
    done = _program(parrot, folder, f"/dev/fd/{write}", pass_fds=[write], stdout=subprocess.PIPE)
    os.close(write)
    with open(read) as pipe:
        assert "ata" in pipe.read() and done.stdout == ""
    shut = _program(parrot, folder, "/dev/fd/97", stdout=subprocess.PIPE)
    assert shut.returncode == 2 and shut.stderr.count("\n") == 1 and "/dev/fd/97" in shut.stderr


@pytest.mark.parametrize("suffix", ["", ".jsonl", ".tsv", ".fifo"])
def test_a_named_pipe_is_written_into(parrot, tmp_path, suffix):
    folder, pipe = talk(tmp_path / "in", a="ata"), tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    came = []
    reader = threading.Thread(target=lambda: came.append(pipe.read_text()))
    reader.start()
    run = go(parrot, folder, pipe)
    reader.join()
    assert run.streamed and "ata" in came[0] and (came[0][0] == "{") == (suffix == ".jsonl")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and not journal_path(pipe).exists()


def test_devices_stay(parrot, tmp_path):
    folder = talk(tmp_path / "in", a="ata")
    before = os.stat("/dev/null")
    assert go(parrot, folder, Path("/dev/null")).exit_code() == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.stat("/dev/null").st_ino == before.st_ino
    with pytest.raises(UserError, match="No space left.*free some space"):
        go(parrot, folder, Path("/dev/full"))


def test_a_stream_takes_one_textgrid_and_a_known_format(parrot, tmp_path, capsys):
    folder = talk(tmp_path / "in", a="ata", b="eke")
    with pytest.raises(UserError, match="a folder for TextGrids of several recordings"):
        go(parrot, folder, Path("-"), "TextGrid")
    go(parrot, folder / "a.wav", Path("-"), "TextGrid")
    assert capsys.readouterr().out.startswith('File type = "ooTextFile"')
    with pytest.raises(UserError, match="unknown --format"):
        go(parrot, folder, Path("-"), "docx")
    go(parrot, folder, Path("-"), "CTM")
    assert capsys.readouterr().out.count("\n") == 2


def test_what_cannot_be_written_says_so_before_any_work(parrot, tmp_path):
    folder = talk(tmp_path / "in", a="ata")
    (tmp_path / "x.tsv").mkdir()
    (tmp_path / "file").write_text("")
    for output, kind, message in [
        (tmp_path / "x.tsv", None, "must be a file for tsv"),
        (folder, "jsonl", "must be a file for jsonl"),
        (tmp_path / "file", "TextGrid", "must be a folder for TextGrids"),
        (tmp_path / "file" / "t.tsv", None, "file/t.tsv cannot be written"),
        (Path("/proc/nothing.tsv"), None, "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            go(parrot, folder, output, kind)
        assert "free some space" not in str(error.value)
    assert parrot.given == []


def test_an_output_inside_the_folder_of_recordings(parrot, tmp_path, capsys):
    folder = talk(tmp_path / "in", a="ata")
    (folder / "notes.md").touch()
    for output in (folder / "grids", folder / "t.tsv"):
        for resumed in (0, 1):
            assert go(parrot, folder, output).resumed == resumed
    assert "1 .md" in capsys.readouterr().err


# The model


def test_a_model_by_another_spelling_resumes_and_another_one_is_refused_by_name(parrot, tmp_path, monkeypatch):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "t.tsv"
    go(parrot, folder, out)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "linked.onnx").symlink_to("../model.onnx")
    monkeypatch.chdir(tmp_path)
    for spelling in ("model.onnx", "./model.onnx", "sub/../model.onnx", "sub/linked.onnx", f"{tmp_path}//model.onnx"):
        again = Parrot(spelling)
        assert go(again, folder, out).resumed == 1 and again.given == []
    for recordings in (Path("in"), Path("./in"), Path("in/a.wav"), tmp_path / "sub" / ".." / "in"):
        assert go(again, recordings, out).resumed == 1
    assert len(rows(out)) == 1, "one recording, however it is spelt"
    (tmp_path / "other.onnx").write_text("other weights")
    with pytest.raises(
        UserError, match="begun with, model .*model.onnx, but is .*other.onnx; .* delete it and .*journal"
    ):
        go(Parrot("other.onnx"), folder, out)


def test_two_runs_at_once_into_one_output(parrot, tmp_path):
    folder, out = talk(tmp_path / "in", a="ata"), tmp_path / "t.tsv"
    with Journal(out, {}), pytest.raises(UserError, match="must be used by one process at a time"):
        go(parrot, folder, out)
    journal_path(out).unlink()
    go(parrot, folder, out)
    assert [text for _, text in rows(out)] == ["ata"]


# One file of one program


def test_a_single_file_of_a_program_is_replaced_unless_it_was_changed(tmp_path):
    output = output_of(tmp_path / "a.TextGrid", "TextGrid")
    for text in ("one", "two", "two"):
        with writing_one(output, "align") as write:
            write(text)
        assert (tmp_path / "a.TextGrid").read_text() == text
    (tmp_path / "a.TextGrid").unlink()
    with writing_one(output, "align") as write:
        write("again")
    edit(tmp_path / "a.TextGrid", "again", "mine")
    with pytest.raises(UserError, match="is kept"), writing_one(output, "align"):
        raise AssertionError
    assert (tmp_path / "a.TextGrid").read_text() == "mine"
    (tmp_path / "b.TextGrid").write_text("labels")
    with pytest.raises(UserError, match="by hand"), writing_one(output_of(tmp_path / "b.TextGrid"), "align"):
        raise AssertionError
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="must be a file"), writing_one(output_of(tmp_path / "folder"), "align"):
        raise AssertionError
