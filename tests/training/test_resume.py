"""The resume law: killed anywhere and started again, a run gives the same losses, and sees each utterance once."""

import json
import re

import pytest
import torch
from fake_run import BATCH_SIZE, FakeData, run_program

STEPS = 40


def losses(exp_dir):
    lines = map(json.loads, (exp_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["loss"], line["tot_loss"], line["lr"]) for line in lines if line["kind"] == "train"}


def trained_on(exp_dir, rank):
    """(epoch, batch) -> ids; a batch that was read twice counts once, by its last reading."""
    lines = [line.split() for line in (exp_dir / f"seen-{rank}").read_text().splitlines()]
    return {(int(epoch), int(index)): ids for epoch, index, *ids in lines}


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_step_23_equals_straight(tmp_path, world_size):
    settings = {
        "max_steps": STEPS,
        "log_interval": 1,
        "save_every_n": 10,
        "average_period": 7,
        "valid_interval": 15,
        "num_utterances": 104 * world_size,
        "world_size": world_size,
        "master_port": 29640 + world_size,
    }
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = run_program(straight, **settings)
    assert done.returncode == 0, done.stderr
    died = run_program(killed, **settings, die_at=23)
    assert died.returncode == -9
    assert (killed / "checkpoint-20.pt").is_file()
    assert not (killed / "checkpoint-30.pt").exists()
    resumed = run_program(killed, **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {killed}" in resumed.stderr

    assert losses(straight).keys() == set(range(1, STEPS + 1))
    assert losses(killed) == losses(straight)
    for rank in range(world_size):
        assert trained_on(killed, rank) == trained_on(straight, rank)
    readings = [trained_on(killed, rank) for rank in range(world_size)]
    first_epoch = [ids for seen in readings for (epoch, _), ids in seen.items() if epoch == 1]
    utterances = [utterance for ids in first_epoch for utterance in ids]
    assert len(utterances) == len(set(utterances)) == 26 * BATCH_SIZE * world_size

    one, two = (torch.load(path / "checkpoint-40.pt", weights_only=True) for path in (straight, killed))
    for entry in ("model", "model_avg"):
        for name, tensor in one[entry].items():
            assert torch.equal(tensor, two[entry][name]), (entry, name)
    assert one["sampler"] == two["sampler"]
    assert one["sampler"].items() >= {"epoch": 2, "batch": 14, "world_size": world_size}.items()


class Noting(FakeData):
    """Notes from which batch on each epoch was asked for."""

    def __init__(self, **values):
        super().__init__(**values)
        self.asked = []

    def train_loader(self, epoch, rank=0, world_size=1, start_batch=0):
        self.asked.append((epoch, start_batch))
        return super().train_loader(epoch, rank, world_size, start_batch)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 8}, r"\(--seed 8 in place of 7\)"),
        ({"num_utterances": 112}, r"\(the utterances\)"),
        ({"batch_size": 2}, r"\(the program's way to make them\)"),
    ],
)
def test_a_place_in_other_batches_is_not_gone_on_from(train, caplog, change, named):
    """Utterances would be missed, and others seen twice, without a word."""
    train(max_steps=10, final_decay=0)
    assert not any("begins again" in line for line in caplog.messages)
    data = Noting(**change)
    trainer = train(data, num_epochs=1)
    (line,) = [line for line in caplog.messages if "begins again" in line]
    assert re.search(rf"checkpoint-10\.pt was saved within epoch 1, whose batches are others now {named}", line)
    # The epoch is trained on whole, and what was learned before is kept.
    assert data.asked == [(1, 0)] and trainer.state.step == 10 + data.num_train_batches(1)
    assert torch.load(trainer.exp_dir / "epoch-1.pt", weights_only=True)["sampler"] == {
        "epoch": 2, "batch": 0, "world_size": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "start"),
    [
        ({}, 10),
        # As before places had fingerprints.
        ({"plan": None}, 10),
        ({"plan": None, "world_size": 2}, 0),
        ({"plan": FakeData().plan_fingerprint(1, 2), "world_size": 2}, 0),
        # The same batches are the same, whatever they were made by.
        ({"plan": {**FakeData().plan_fingerprint(1), "--seed": 99}}, 10),
    ],
)
def test_a_place_in_the_same_batches_is_gone_on_from(tmp_path, train, caplog, edit, start):
    train(max_steps=10, final_decay=0)
    path = tmp_path / "exp" / "checkpoint-10.pt"
    saved = torch.load(path, weights_only=True)
    place = {name: value for name, value in {**saved["sampler"], **edit}.items() if value is not None}
    torch.save({**saved, "sampler": place}, path)
    data = Noting()
    train(data, max_steps=12, final_decay=0)
    assert data.asked == [(1, start)]
    assert ("--world-size 1 in place of 2" in caplog.text) == (start == 0)


def test_an_epochs_end_is_a_place_in_any_plan(train, caplog):
    train(num_epochs=1)
    data = Noting(seed=8)
    train(data, num_epochs=2)
    assert data.asked == [(2, 0)] and "begins again" not in caplog.text
