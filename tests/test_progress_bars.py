"""The one progress bar and the one log: what a terminal shows, what a file gets, in which order."""

import io
import logging
import re
import sys

import pytest

from couloir import progress
from couloir.progress import LINE, LogFile, ProgressBar, ScreenLog, log, log_to_screen, logged_to, reading, track

ERASE = "\r\x1b[K"


class Terminal(io.StringIO):
    """A terminal without a file descriptor, of as many columns as the environment says."""

    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Put a terminal in the place of stderr; in a test itself, as pytest puts its own there before."""

    def put():
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        monkeypatch.setattr(progress, "REDRAW_S", 0.0)
        return sys.stderr

    return put


def drawn(screen):
    return re.findall(r"\r([^\r]+)\x1b\[K", screen.getvalue())


@pytest.mark.parametrize(
    ("count", "elapsed", "line"),
    [
        (5, 10.0, f"[{'#' * 15:<30}] 5/10  0:10 left  sets"),
        (10, 61.0, f"[{'#' * 30}] 10/10  0:00 left  sets"),
        (1, 600.0, f"[{'#' * 3:<30}] 1/10  1:30:00 left  sets"),
        (0, 5.0, f"[{'':<30}] 0/10  sets"),
    ],
)
def test_counts_and_the_time_that_is_left(on_terminal, count, elapsed, line):
    terminal = on_terminal()
    ProgressBar(10, "sets").update(count, elapsed_s=elapsed)
    assert drawn(terminal) == [line]


def test_a_share_in_per_cent_and_a_total_that_nobody_knows(on_terminal):
    terminal = on_terminal()
    ProgressBar(1.0, percent=True).update(0.25, "epoch 2", 15.0)
    bar = ProgressBar(None, "reading headers")
    bar.step()
    bar.step()
    assert drawn(terminal) == [f"[{'#' * 7:<30}] 25 %  0:45 left  epoch 2", "1  reading headers", "2  reading headers"]


def test_it_is_drawn_ten_times_a_second_and_at_its_end(monkeypatch):
    now, screen = [0.0], Terminal()
    bar = ProgressBar(1000, out=screen, clock=lambda: now[0])
    for _ in range(1000):
        now[0] += 0.001
        bar.step()
    assert 10 <= len(drawn(screen)) <= 11
    assert "1000/1000" in drawn(screen)[-1]


def test_what_is_tracked_comes_through_and_the_bar_goes(on_terminal):
    terminal = on_terminal()
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert [line.split("] ")[1].split("  ")[0] for line in drawn(terminal)] == ["1/3", "2/3", "3/3"]
    assert terminal.getvalue().endswith(ERASE) and ProgressBar._on_screen is None


def test_a_bar_goes_too_where_its_loop_is_left(on_terminal):
    terminal = on_terminal()
    items = track(range(9), "numbers", 9)
    next(items)
    next(items)
    items.close()
    assert terminal.getvalue().endswith(ERASE) and ProgressBar._on_screen is None


def test_reading_moves_a_bar(on_terminal):
    terminal = on_terminal()
    with reading(io.BytesIO(b"x" * 100), 100, "a.deb") as stream:
        assert stream.read(40) == b"x" * 40 and stream.read() == b"x" * 60
    assert [re.search(r"(\d+) %", line)[1] for line in drawn(terminal)] == ["40", "100"]


def test_elsewhere_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(track([1, 2], "numbers", 2)) == [1, 2]
    with reading(io.BytesIO(b"ab"), 2, "a.deb") as stream:
        assert stream.read() == b"ab"
    assert sys.stderr.getvalue() == ""


def test_lines_stand_above_the_bar(on_terminal):
    terminal = on_terminal()
    log_to_screen()
    bar = ProgressBar(4, "steps")
    bar.step()
    logging.info("a line")
    log("another")
    bar.say("a third")
    first, second, third = terminal.getvalue().split(ERASE)[1:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO a line\n", first)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d another\n", second)
    assert third == "a third\n"
    bar.close()
    logging.info("after it")
    assert terminal.getvalue().endswith("INFO after it\n") and terminal.getvalue().count(ERASE) == 3


@pytest.mark.parametrize(("level", "line"), [(logging.WARNING, "WARNING: b\n"), (logging.INFO, "INFO a\n")])
def test_a_log_of_warnings_has_no_dates(on_terminal, level, line):
    terminal = on_terminal()
    log_to_screen(level)
    logging.info("a")
    logging.warning("b")
    assert line in terminal.getvalue() and ("a\n" in terminal.getvalue()) == (level == logging.INFO)


def test_what_a_program_has_set_up_stays(on_terminal):
    on_terminal()
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(own)
    log_to_screen()
    assert logging.getLogger().handlers == [own]


def test_a_log_file_has_the_lines_of_its_time_alone(on_terminal, tmp_path):
    terminal = on_terminal()
    log_to_screen()
    with pytest.raises(ValueError), logged_to(tmp_path / "new" / "log"):
        logging.info("inside")
        raise ValueError
    logging.info("outside")
    assert (tmp_path / "new" / "log").read_text() == terminal.getvalue().splitlines(True)[0]


def test_handlers_are_of_one_form():
    handlers = [ScreenLog(), LogFile("/dev/null")]
    assert {handler.formatter._fmt for handler in handlers} == {LINE}
    handlers[1].close()
