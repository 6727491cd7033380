"""What the shell scripts keep to: bash 4.3 too, no requeue without end, and a signal that comes early is no loss."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from programs import ROOT

SCRIPTS = sorted([*ROOT.glob("*.sh"), *ROOT.glob("egs/slurm/*")])
TRAIN = ROOT / "egs/slurm/train.sbatch"
# The run: writes what it has come to, once it is to stop or at once.
RUN = """
import os, pathlib, signal, sys, time
status, (what, step, code) = pathlib.Path(os.environ["COULOIR_STATUS"]), sys.argv[1].split(":")
def leave(*_):
    status.write_text(f"stopped {step}\\n")
    sys.exit(int(code))
signal.signal(signal.SIGUSR1, leave)
signal.signal(signal.SIGTERM, leave)
pathlib.Path("begun").touch()
if what == "wait":
    time.sleep(60)
if what != "nothing":
    status.write_text(f"{what} {step}\\n")
if what == "killed":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(int(code))
"""
COMMANDS = {
    "srun": 'echo "$*" >>srun.log; echo "$SRUN_CPUS_PER_TASK" >cpus; while [[ $1 == --* ]]; do '
    '[[ $1 == *=* ]] || shift; shift; done; echo $$ >step.pid; exec "$@"',
    "scancel": '[ -f begun ] || exit 1; kill -USR1 "$(cat step.pid)"',
    "scontrol": '[ "$1" != show ] || exec cat shown; echo "$*" >>scontrol.log; [ ! -f refuses ]',
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_empty_array_is_no_unset_variable(path):
    """bash before 4.4 ends a script with `set -u` at "${name[@]}" where the array is empty."""
    text = path.read_text()
    if not re.search(r"^set -\w*u", text, re.MULTILINE):
        return
    for name in re.findall(r'(?<!\+)"\$\{(\w+)\[@\]\}"', text):
        first = re.search(rf"^\s*(?:local )?{name}=\((.*)", text, re.MULTILINE)
        assert first and first[1].strip(") ") != "", f"{path.name}: {name} may be empty"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_it_is_a_script(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.fixture
def job(tmp_path):
    """Start the batch script with stand-ins for SLURM's commands, which a real cluster checks in test_slurm.py."""
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)

    def start(what, **env):
        slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path), "CONTAINER": "", "RECIPE": "run.py", **env}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        slurm |= {"PATH": path, "COULOIR_PYTHON": sys.executable}
        return subprocess.Popen(["bash", TRAIN, what], env=slurm, stdout=-1, stderr=-2, text=True)

    return start


def requeued(folder):
    return (folder / "scontrol.log").exists()


@pytest.mark.parametrize(
    ("what", "code", "again"),
    [
        ("complete:9:0", 0, False),
        ("running:9:2", 2, False),  # an error
        ("nothing:0:2", 2, False),  # an error before the first batch
        ("stopped:9:0", 0, True),  # pre-empted with a grace time
    ],
)
def test_how_a_job_ends(job, tmp_path, what, code, again):
    done = job(what)
    said = done.communicate(timeout=60)[0]
    assert (done.returncode, requeued(tmp_path)) == (code, again), said
    assert (tmp_path / ".couloir-7.status").exists() is (what[0] not in "cn")


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ("None", False),  # by srun, beside a task that failed
        ("2026-03-01T10:00:05", True),  # with a grace time, before the run was there
        ("2026-03-01T10:00:00", True),
        ("2026-03-01T09:59:59", False),  # an earlier start of the job was pre-empted
    ],
)
def test_a_run_that_a_signal_ends_before_it_can_save_is_requeued_where_it_was_to_make_room(job, tmp_path, asked, again):
    times = f"   StartTime=2026-03-01T10:00:00 EndTime=Unknown\n   PreemptEligibleTime=Unknown PreemptTime={asked}\n"
    (tmp_path / "shown").write_text(f"JobId=7 JobName=couloir\n{times}   SuspendTime=None\n")
    done = job("killed:0:0")
    said = done.communicate(timeout=60)[0]
    assert (done.returncode, requeued(tmp_path)) == ((0, True) if again else (143, False)), said


def test_a_status_of_an_earlier_start_is_none(job, tmp_path):
    (tmp_path / ".couloir-7.status").write_text("stopped 9\n")
    assert job("nothing:0:2", SLURM_RESTART_COUNT="1").wait(60) == 2
    assert not requeued(tmp_path)


@pytest.mark.parametrize(("before", "restarts", "again"), [(None, "0", True), (5, "1", True), (9, "1", False)])
def test_a_job_without_progress_is_not_requeued_for_ever(job, tmp_path, before, restarts, again):
    if before is not None:
        (tmp_path / ".couloir-7.status").write_text(f"stopped {before}\n")
    done = job("wait:9:0", SLURM_RESTART_COUNT=restarts)
    while not (tmp_path / "srun.log").exists():
        time.sleep(0.01)
    done.send_signal(signal.SIGUSR1)  # before the run can take it
    said = done.communicate(timeout=60)[0]
    assert (done.returncode == 0, requeued(tmp_path)) == (again, again), said
    assert ("error: no batch was trained since the job was last requeued" in said) is not again


def test_a_job_that_cannot_be_requeued_says_what_to_do(job, tmp_path):
    (tmp_path / "refuses").touch()
    done = job("stopped:9:0")
    assert "error: not requeued; submit the same command again to go on" in done.communicate(timeout=60)[0]
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("env", "flags", "cpus"),
    [
        ({}, "--nodes 1 --ntasks 1 --ntasks-per-node 1", "1"),
        ({"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "16"},
         "--nodes 2 --ntasks 8 --ntasks-per-node 4", "4"),
        ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "8"}, "--nodes 1 --ntasks 2 --ntasks-per-node 2", "8"),
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"},
         "--nodes 1 --ntasks 8 --ntasks-per-node 8", "1"),
    ],
)  # fmt: skip
def test_the_tasks_share_the_cores_of_a_node(job, tmp_path, env, flags, cpus):
    assert job("complete:1:0", **env).wait(60) == 0
    assert (tmp_path / "srun.log").read_text().startswith(f"{flags} --kill-on-bad-exit=1 {sys.executable} run.py")
    assert (tmp_path / "cpus").read_text() == f"{cpus}\n"
