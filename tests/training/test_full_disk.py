"""A full disk costs a line, and exit code 2 where the end of a run is lost; nothing that was saved is."""

import errno
import logging
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from fake_run import FakeData, fake_config, make_trainer, run_program

from couloir.checkpoint import save_checkpoint
from couloir.errors import UserError
from couloir.progress import LogFile
from couloir.training.config import TrainerConfig
from couloir.training.failures import FailureReport
from couloir.training.metrics import MetricsLog

NO_SPACE = r"\(No space left on device\)"


def full(*_, **__):
    raise OSError(28, "No space left on device")


def checkpoints(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "exp").glob("*.pt")}


def test_a_run_whose_end_cannot_be_saved_says_so(tmp_path, train, monkeypatch, caplog):
    train(max_steps=10, save_every_n=5, final_decay=0)
    whole = checkpoints(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=rf"checkpoint-20\.pt could not be saved {NO_SPACE}; free some") as error:
        train(max_steps=20, save_every_n=5, final_decay=0)
    assert "\n" not in str(error.value)
    # The run went on to its end all the same.
    assert "checkpoint-15.pt could not be saved (No space left on device)" in caplog.text
    assert checkpoints(tmp_path) == whole


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or give another place"),
        (errno.EDQUOT, "free some space, or give another place"),
        (errno.EIO, "give another place"),
        (errno.EROFS, "give another place"),
        (errno.EACCES, "give another place"),
        (None, "give another place"),
    ],
)
def test_space_is_asked_for_where_it_would_help(tmp_path, train, monkeypatch, caplog, number, remedy):
    error = OSError("broken") if number is None else OSError(number, os.strerror(number))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError) as raised:
        train(max_steps=2, save_every_n=1, final_decay=0)
    why = f"could not be saved ({error.strerror or error}); {remedy}; what was saved before"
    assert f"checkpoint-2.pt {why} in {tmp_path}/exp is whole, and a start there" in str(raised.value)
    assert f"checkpoint-1.pt {why} is whole, the run goes on" in caplog.text


def test_a_disk_that_was_full_for_a_while_is_no_mistake(tmp_path, train, monkeypatch, caplog):
    save = torch.save

    def full_until_ten(content, out):
        return save(content, out) if content["batch_idx_train"] >= 10 else full()

    monkeypatch.setattr(torch, "save", full_until_ten)
    train(max_steps=12, save_every_n=5, final_decay=0)
    assert "checkpoint-5.pt could not be saved" in caplog.text
    assert checkpoints(tmp_path).keys() == {"checkpoint-10.pt", "checkpoint-12.pt"}


def test_a_stop_that_cannot_be_saved_says_so(tmp_path, monkeypatch):
    trainer = make_trainer(fake_config(tmp_path / "exp", {"num_epochs": 1}), FakeData())
    monkeypatch.setattr(torch, "save", full)
    train_batch = trainer._train_batch

    def stopped(batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return train_batch(batch)

    trainer._train_batch = stopped
    with pytest.raises(UserError, match=rf"last\.pt could not be saved {NO_SPACE}"):
        trainer.fit()
    assert trainer.state.step == 1


@pytest.mark.parametrize("what", ["write_yaml", "MetricsLog", "keep"])
def test_a_directory_that_cannot_be_begun_is_named(tmp_path, what, monkeypatch):
    trainer = make_trainer(fake_config(tmp_path / "exp", {"num_epochs": 1}), FakeData())
    if what == "keep":
        trainer.keep = full
    else:
        monkeypatch.setattr(f"couloir.training.trainer.{what}", full)
    with pytest.raises(UserError, match=rf"{tmp_path}/exp cannot be written {NO_SPACE}"):
        trainer.fit()


def test_a_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "exp").write_text("")
    with pytest.raises(UserError, match="exp cannot be written"):
        make_trainer(fake_config(tmp_path / "exp", {}), FakeData())


def test_copies_of_the_best_that_cannot_be_made_cost_a_line(tmp_path, train, monkeypatch, caplog):
    monkeypatch.setattr("couloir.training.run_dir.os.link", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    train(num_epochs=1)
    assert checkpoints(tmp_path).keys() == {"epoch-1.pt", "last.pt"}
    assert "epoch-1.pt could not be copied to best-valid-loss.pt (No space left on device)" in caplog.text


@pytest.mark.parametrize(("by", "reason"), [(OSError(28, "No space left"), "No space left"), (None, "unexpected pos")])
def test_torchs_own_error_is_told_by_what_caused_it(tmp_path, monkeypatch, by, reason):
    """torch reports a failed write as the state that it left its writer in."""

    def fail(*_):
        try:
            if by:
                raise by
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598\nmore")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=reason) as error:
        save_checkpoint(tmp_path / "x.pt", {})
    assert "more" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_program_on_a_full_disk_ends_with_one_line(tmp_path):
    """The kernel refuses to write more than some bytes into a file, in the middle of torch's own writing."""
    exp_dir = tmp_path / "exp"
    assert run_program(exp_dir, max_steps=3, final_decay=0).returncode == 0
    before = checkpoints(tmp_path)
    assert min(map(len, before.values())) > 16_000
    done = run_program(exp_dir, max_steps=6, final_decay=0, most_bytes=10_000)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {exp_dir}/checkpoint-6.pt could not be saved (File too large); give another")
    assert "Traceback" not in done.stderr
    assert checkpoints(tmp_path) == before and not list(exp_dir.glob(".*"))


def test_metrics_and_skips_on_a_full_disk_cost_a_line(tmp_path, caplog):
    for name in ("metrics.jsonl", "skipped.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    metrics = MetricsLog(tmp_path, TrainerConfig(tensorboard=False), 0)
    for step in (1, 2):
        metrics.write(step, {"loss": 1.0})
    metrics.close()
    assert caplog.text.count("metrics cannot be written (No space left on device)") == 1
    FailureReport(tmp_path, group=type("Group", (), {"rank": 0}))._append({"utterance": "x"})
    assert "skipped.jsonl cannot be written: No space left on device" in caplog.text


def test_tensorboard_on_a_full_disk_costs_a_line(tmp_path, capsys, caplog):
    """It writes in a thread, whose own way to end with an error is a traceback."""
    metrics = MetricsLog(tmp_path, TrainerConfig(), 0)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.unlink()
    events.symlink_to("/dev/full")
    deadline = time.monotonic() + 20
    while not caplog.messages and time.monotonic() < deadline:
        metrics.write(1, {"loss": 1.0})
    for _ in range(2):
        metrics.write(2, {"loss": 1.0})
    metrics.close()
    assert caplog.messages == ["metrics cannot be written (No space left on device); the run goes on without"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_log_on_a_full_disk_costs_a_line(capsys):
    log = LogFile("/dev/full")
    for _ in range(2):
        log.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "text", (), None))
    log.close()
    assert capsys.readouterr().err == "/dev/full cannot be written: [Errno 28] No space left on device\n"
