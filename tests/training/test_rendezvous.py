"""Processes of a run find each other, and nobody else, whatever other runs and programs do with the ports."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from fake_run import finish, start_program

from couloir.errors import UserError
from couloir.training import rendezvous
from couloir.training.rendezvous import PORTS, TRIED, announced, find, first_host, from_srun, listen

STEP = """
import os, sys
import torch, torch.distributed as dist
from couloir.training.distributed import Group
group = Group(torch.device("cpu"))
print(group.rank, group.gather(os.environ["SLURM_STEP_ID"]), group.from_main(os.getpid()), flush=True)
group.close()
"""


def ports_of(step):
    """What the ranks of a step of job 7 draw."""
    return random.Random(f"couloir 7.{step}.0").sample(PORTS, TRIED)


@contextlib.contextmanager
def server(port, answer):
    """Another program at that port: what it says to those who connect, or None to keep them waiting."""
    held = []
    with socket.create_server(("127.0.0.1", port)) as door:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    guest = door.accept()[0]
                    held.append(guest)
                    if answer is not None:
                        guest.sendall(answer)
                        guest.close()

        threading.Thread(target=serve, daemon=True).start()
        yield
        for guest in held:
            guest.close()


def start_step(step, size=2, **more):
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": step, "SLURM_STEP_NUM_TASKS": str(size), "MASTER_ADDR": "127.0.0.1"}
    env = {**os.environ, **slurm, "GLOO_SOCKET_IFNAME": "lo", **more}
    command = [sys.executable, "-c", STEP]
    return [
        subprocess.Popen(
            command, env={**env, "SLURM_PROCID": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(size)
    ]


def ended(processes):
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told[0][1].decode()[-2000:]
    return [out.decode() for out, _ in told]


def test_a_port_that_is_taken_is_passed_over_and_the_next_is_held():
    with listen([0], "127.0.0.1") as first:
        taken = first.getsockname()[1]
        with listen([taken, 0], "127.0.0.1") as second:
            assert second.getsockname()[1] != taken
            with pytest.raises(OSError, match="in use"), socket.socket() as third:
                third.bind(second.getsockname())
        with pytest.raises(UserError, match=f"none of the ports {taken} is free; set MASTER_PORT"):
            listen([taken], "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_rank_0_is_reached_by_either_family(host):
    with listen([0]) as door, contextlib.suppress(OSError if host == "::1" else ZeroDivisionError):
        socket.create_connection((host, door.getsockname()[1]), 5).close()


@pytest.mark.parametrize("answer", [b"", b"220 mail\r\n", b"run 8\n", b"run x\n", b"\xff\xfe 9\n", b"x" * 1000, None])
def test_whoever_else_answers_is_passed_over(monkeypatch, answer):
    monkeypatch.setattr(rendezvous, "ANSWER_S", 0.2)
    with listen([0], "127.0.0.1") as one, listen([0], "127.0.0.1") as two:
        foreign, ours = one.getsockname()[1], two.getsockname()[1]
    with server(foreign, answer), announced("run 7", 4321, [ours]):
        assert find("run 7", "127.0.0.1", [foreign, ours]) == 4321


def test_a_rank_0_that_comes_late_is_waited_for_and_one_that_never_comes_is_named(monkeypatch):
    with listen([0], "127.0.0.1") as free:
        port = free.getsockname()[1]
    found = []
    seeker = threading.Thread(target=lambda: found.append(find("run", "127.0.0.1", [port])))
    seeker.start()
    time.sleep(0.2)
    with announced("run", 99, [port]):
        seeker.join(10)
    assert found == [99]
    monkeypatch.setattr(rendezvous, "PATIENCE", rendezvous.timedelta(seconds=0.3))
    with pytest.raises(UserError, match=f"rank 0 of the run was not found on 127.0.0.1, ports {port}"):
        find("run", "127.0.0.1", [port])


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("gpu[003-007,9],cpu1", "gpu003"),
        ("a-1,b-2", "a-1"),
        ("x[12,14]", "x12"),
        ("rack[1-2]node[03-04]", "rack1node03"),
        ("n[1-2].example.org,m1", "n1.example.org"),
        ("127.0.0.[2-3]", "127.0.0.2"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # within sbatch alone
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, True),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "RANK": "0"}, False),  # torchrun within srun
    ],
)
def test_who_is_of_a_step(env, found):
    assert from_srun(env) is found


@pytest.mark.slow
def test_steps_of_one_job_at_once_and_a_foreign_server_at_their_first_port():
    """Two steps of a job, on one machine; another program holds the port that the first of them would take."""
    with server(ports_of("0")[0], None):
        steps = [start_step(step) for step in ("0", "1")]
        said = [ended(step) for step in steps]
    for step, lines in zip(("0", "1"), said):
        assert {line.split()[-1] for line in lines} == {lines[0].split()[-1]}
        assert sorted(lines)[1].startswith(f"1 ['{step}', '{step}']")


@pytest.mark.slow
def test_two_runs_that_ask_for_one_port_both_train(tmp_path):
    with listen([0], "127.0.0.1") as free:
        port = free.getsockname()[1]
    values = {"world_size": 2, "master_port": port, "max_steps": 3, "final_decay": 0, "log_interval": 1}
    children = [start_program(tmp_path / name, **values) for name in ("a", "b")]
    done = [finish(tmp_path / name, child) for name, child in zip(("a", "b"), children)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    weights = [torch.load(tmp_path / name / "checkpoint-3.pt", weights_only=True)["model"] for name in ("a", "b")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
