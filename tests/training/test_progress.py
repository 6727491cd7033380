"""What a run shows: a bar on a terminal, plain lines elsewhere, a log file, TensorBoard."""

import io
import json
import logging
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from couloir.training.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Put a terminal, or a file, in the place of stderr."""

    def put(kind):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "stderr", kind())
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        return sys.stderr

    return put


def report(exp_dir, rank=0, world_size=1):
    """A quarter of a run of a minute, with one line in its log."""
    reporter = Reporter(exp_dir, rank, world_size)
    logging.info("a line of the log")
    reporter.tick("epoch 2 batch 30 loss 0.5", 0.25, 15.0)
    reporter.close()


def test_a_terminal_has_a_bar_with_the_time_that_is_left(tmp_path, screen):
    terminal = screen(Terminal)
    report(tmp_path)
    shown = terminal.getvalue()
    assert "] 25 %  0:45 left  epoch 2 batch 30 loss 0.5" in shown
    # The line stands once, whole, above the bar.
    assert shown.count("INFO a line of the log") == 1
    assert shown.index("a line of the log") < shown.index("epoch 2")
    assert logging.getLogger().handlers == [] and sys.stderr is terminal


def test_elsewhere_there_are_plain_lines(tmp_path, screen):
    file = screen(io.StringIO)
    report(tmp_path)
    assert file.getvalue().endswith("INFO a line of the log\n") and file.getvalue().count("\n") == 1
    (log,) = (tmp_path / "log").iterdir()
    assert log.read_text() == file.getvalue()


def test_other_ranks_write_to_their_files_alone(tmp_path, screen):
    terminal = screen(Terminal)
    report(tmp_path, rank=1, world_size=2)
    assert terminal.getvalue() == ""
    (log,) = (tmp_path / "log").iterdir()
    assert log.name.endswith("-1") and "a line of the log" in log.read_text()


def test_tensorboard_has_what_metrics_jsonl_has_also_after_a_resume(tmp_path, train):
    exp_dir, settings = (
        tmp_path / "exp",
        {"tensorboard": True, "save_every_n": 4, "valid_interval": 5, "final_decay": 0},
    )
    train(max_steps=10, **settings)
    # The run was killed after its tenth batch; its last checkpoint is of the eighth.
    (exp_dir / "checkpoint-10.pt").unlink()
    train(max_steps=12, **settings)
    board = EventAccumulator(str(exp_dir / "tensorboard"))
    board.Reload()
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    for kind, name in (
        ("train", "loss"),
        ("train", "tot_loss"),
        ("train", "lr"),
        ("train", "grad_norm"),
        ("valid", "loss"),
    ):
        expected = {row["step"]: pytest.approx(row[name]) for row in rows if row["kind"] == kind}
        found = [(event.step, event.value) for event in board.Scalars(f"{kind}/{name}")]
        assert found == sorted(expected.items()), (kind, name)
    assert len(board.Scalars("train/loss")) == 12 and len(board.Scalars("valid/loss")) >= 3
