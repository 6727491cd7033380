"""What a process may use of the machine, and the one place that chooses a device."""

import os

import pytest
import torch

from couloir.errors import UserError
from couloir.machine import pick_device, usable_cores
from couloir.training.distributed import device_of_rank


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (2, "auto", "cuda"), (2, "cuda", "cuda"), (2, "cpu", "cpu")],
)
def test_the_device_that_is_asked_for(monkeypatch, gpus, name, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert pick_device(name) == torch.device(device)
    of_rank = torch.device(device, 1) if device == "cuda" else torch.device("cpu")
    assert device_of_rank(name, 1) == of_rank


@pytest.mark.parametrize("pick", [pick_device, lambda name: device_of_rank(name, 0)], ids=["inference", "training"])
def test_a_gpu_that_is_not_there_is_refused_by_its_flag(monkeypatch, pick):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="`--device` must be cpu or auto, but is cuda, and no GPU was found"):
        pick("cuda")


def test_cores_are_those_of_this_process():
    assert usable_cores() == len(os.sched_getaffinity(0))
