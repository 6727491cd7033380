"""The resume law: killed anywhere and started again, a run gives the same losses, and sees each utterance once."""

import json

import pytest
import torch
from fake_run import BATCH_SIZE, run_program

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
    assert one["sampler"] == two["sampler"] == {"epoch": 2, "batch": 14, "world_size": world_size}
