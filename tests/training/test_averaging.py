"""Averages over checkpoints equal the means of the snapshots they stand for, in every mode of the flags."""

import logging

import pytest
import torch

from couloir.errors import UserError
from couloir.training.averaging import RunningAverage, load_averaged
from couloir.training.config import AveragingConfig

PERIOD = 10


def weights(step):
    """Weights that differ at every step."""
    return {"w": torch.sin(torch.arange(5.0) + step), "count": torch.tensor(step)}


@pytest.fixture
def exp_dir(tmp_path):
    """Seven checkpoints, 30 batches apart, of a run that took a snapshot every 10; epochs of 60 batches."""
    average = RunningAverage(weights(0), PERIOD)
    for step in range(1, 211):
        if step % PERIOD == 0:
            average.update(weights(step), step)
        content = {"model": weights(step), "batch_idx_train": step, "average_period": PERIOD}
        if step % 30 == 0:
            torch.save({**content, "model_avg": average.as_float32()}, tmp_path / f"checkpoint-{step}.pt")
        if step % 60 == 0:
            torch.save({**content, "model_avg": average.as_float32()}, tmp_path / f"epoch-{step // 60}.pt")
    return tmp_path


def snapshots(start, end):
    return torch.stack([weights(step)["w"].double() for step in range(start + PERIOD, end + 1, PERIOD)]).mean(0)


def plain(*steps):
    return torch.stack([weights(step)["w"].double() for step in steps]).mean(0)


@pytest.mark.parametrize(
    ("flags", "expected", "suffix"),
    [
        ({"iter": 210, "avg": 3}, snapshots(120, 210), "iter-210-avg-3-use-averaged-model"),
        ({"iter": 200, "avg": 2}, snapshots(120, 180), "iter-200-avg-2-use-averaged-model"),
        ({"epoch": 3, "avg": 2}, snapshots(60, 180), "epoch-3-avg-2-use-averaged-model"),
        ({"iter": 210, "avg": 3, "use_averaged_model": False}, plain(210, 180, 150), "iter-210-avg-3"),
        ({"epoch": 3, "avg": 2, "use_averaged_model": False}, plain(180, 120), "epoch-3-avg-2"),
        ({"epoch": 2, "avg": 1, "use_averaged_model": False}, plain(120), "epoch-2-avg-1"),
        # Nothing named: the newest, over about the last quarter (150 is nearest to three quarters of 210).
        ({}, snapshots(150, 210), "iter-210-avg-2-use-averaged-model"),
    ],
)
def test_modes(exp_dir, flags, expected, suffix):
    averaged, name = load_averaged(exp_dir, AveragingConfig(**flags))
    torch.testing.assert_close(averaged["w"].double(), expected, atol=2e-6, rtol=0)
    assert name == suffix
    assert averaged["w"].dtype == torch.float32


def test_ten_published_checkpoints_fall_back_to_the_plain_mean(exp_dir, caplog):
    with caplog.at_level(logging.WARNING):
        averaged, name = load_averaged(exp_dir, AveragingConfig(iter=210, avg=7))
    torch.testing.assert_close(averaged["w"].double(), plain(*range(30, 211, 30)), atol=1e-6, rtol=0)
    assert name == "iter-210-avg-7"
    assert "needs `model_avg` in 8 checkpoints" in caplog.text
    assert "plain mean of 7" in caplog.text


def test_a_run_that_ends_in_a_decay_is_averaged_over_its_second_half(exp_dir):
    for path in exp_dir.glob("checkpoint-*.pt"):
        content = torch.load(path, weights_only=True)
        torch.save({**content, "max_steps": 210, "final_decay": 0.3}, path)
    averaged, name = load_averaged(exp_dir, AveragingConfig())
    torch.testing.assert_close(averaged["w"].double(), snapshots(180, 210), atol=2e-6, rtol=0)
    assert name == "iter-210-avg-1-use-averaged-model"


def test_checkpoints_without_model_avg_fall_back(exp_dir, caplog):
    for step in (180, 210):
        torch.save({"model": weights(step), "batch_idx_train": step}, exp_dir / f"checkpoint-{step}.pt")
    averaged, _ = load_averaged(exp_dir, AveragingConfig(iter=210, avg=1))
    torch.testing.assert_close(averaged["w"], weights(210)["w"])
    assert "plain mean" in caplog.text


def test_a_last_checkpoint_soon_after_the_one_before_stands_for_itself(tmp_path):
    """No snapshot lies between them. Without --avg that is no mistake; with it, it is."""
    for step in (10, 14):
        content = {
            "model": weights(step),
            "batch_idx_train": step,
            "average_period": PERIOD,
            "model_avg": weights(step),
        }
        torch.save(content, tmp_path / f"checkpoint-{step}.pt")
    result, _ = load_averaged(tmp_path, AveragingConfig())
    torch.testing.assert_close(result["w"], weights(14)["w"])
    with pytest.raises(UserError, match="larger `--avg`"):
        load_averaged(tmp_path, AveragingConfig(avg=1))


def test_more_than_there_are_is_refused_with_what_there_is(exp_dir):
    with pytest.raises(UserError, match=r"--avg` must be at most 7"):
        load_averaged(exp_dir, AveragingConfig(iter=210, avg=8))
    with pytest.raises(UserError, match=r"--epoch 9.*there are: 1, 2, 3"):
        load_averaged(exp_dir, AveragingConfig(epoch=9, avg=1))


def test_a_published_file_or_its_folder_is_enough(tmp_path, caplog):
    torch.save(weights(5), tmp_path / "zipa_small_crctc.pth")
    for place in (tmp_path, tmp_path / "zipa_small_crctc.pth"):
        loaded, name = load_averaged(place, AveragingConfig())
        assert name == "zipa_small_crctc"
        assert torch.equal(loaded["w"], weights(5)["w"])
        assert not caplog.records
        load_averaged(place, AveragingConfig(avg=10))
        (warning,) = caplog.messages
        assert "`--avg 10`" in warning and "zipa_small_crctc.pth is the only checkpoint" in warning
        caplog.clear()
    with pytest.raises(UserError, match="holds none"):
        (tmp_path / "empty").mkdir()
        load_averaged(tmp_path / "empty", AveragingConfig())


def test_the_initial_weights_have_no_weight_and_a_reload_changes_nothing():
    one = RunningAverage(weights(0), PERIOD)
    for step in range(PERIOD, 80, PERIOD):
        one.update(weights(step), step)
    saved = one.as_float32()
    torch.testing.assert_close(saved["w"].double(), snapshots(0, 70), atol=4e-7, rtol=0)
    two = RunningAverage(weights(3), PERIOD)
    two.load(saved)
    for average in (one, two):
        average.update(weights(80), 80)
    assert torch.equal(one.as_float32()["w"], two.as_float32()["w"])
