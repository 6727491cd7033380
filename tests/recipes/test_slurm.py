"""egs/slurm on a real SLURM of two nodes: time limits, requeues, pre-emption, node failure, arrays with a dead part.

Every training is compared, loss by loss, with one that was never stopped.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from fake_run import fake_config
from programs import ROOT
from slurm_cluster import NODES, cluster_in, wait_for, why_not
from slurm_run import SlowData

from couloir.training.random_state import seed_everything

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
TRAIN, PREPARE = ROOT / "egs/slurm/train.sbatch", ROOT / "egs/slurm/prepare.sbatch"
ENDLESS = {"num_epochs": 10**6, "save_every_n": 10**6, "log_interval": 1, "device": "cpu"}
ENV = {
    "CONTAINER": "",
    "COULOIR_PYTHON": sys.executable,
    "RECIPE": str(ROOT / "tests/recipes/slurm_run.py"),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/training'}",
    "CUDA_VISIBLE_DEVICES": "",
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster_in(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def submit(slurm, tmp_path):
    """Submit a training of two nodes; whatever is left of it afterwards is cancelled."""
    jobs = []

    def train(*options, values=ENDLESS, **env):
        flags = ("--nodes", 2, "--cpus-per-task", 2, *options, TRAIN, "exp", json.dumps(values))
        jobs.append(slurm.submit(tmp_path, *flags, **{**ENV, **env}))
        return jobs[-1]

    yield train
    for job in jobs:
        slurm.run("scancel", job)


def losses(exp_dir):
    path = exp_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def log_of(folder, job):
    path = folder / f"couloir-{job}.log"
    return path.read_text() if path.exists() else ""


def wait_for_batch(folder, number):
    wait_for(lambda: max(losses(folder / "exp"), default=0) >= number, f"batch {number}")


def straight(folder, steps, slurm):
    """The losses of a run of the same two processes that nobody stops."""
    values = json.dumps({**ENDLESS, "num_epochs": 10**6, "max_steps": steps, "final_decay": 0})
    done = slurm.submit(
        folder, "--wait", "--nodes", 2, "--cpus-per-task", 2, TRAIN, "straight", values, patience_s=300, **ENV
    )
    assert slurm.state(done) == "COMPLETED", log_of(folder, done)
    return losses(folder / "straight")


def assert_as_never_stopped(folder, slurm):
    found = losses(folder / "exp")
    steps = max(found)
    assert list(found) == list(range(1, steps + 1))
    assert found == straight(folder, steps, slurm)


def quiet(text):
    """A log without tracebacks and without what SLURM and torch say of signals."""
    return "Traceback" not in text and "SignalException" not in text and "SIGKILL" not in text


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_before_the_time_limit_it_saves_and_goes_on_at_the_very_batch(slurm, submit, tmp_path, launcher):
    job = submit(LAUNCHER=launcher)
    wait_for_batch(tmp_path, 5)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 does
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue")
    stopped = max(losses(tmp_path / "exp"))
    wait_for_batch(tmp_path, stopped + 3)
    slurm.run("scancel", job)
    text = log_of(tmp_path, job)
    assert f"stopped at batch {stopped}: the job goes back into the queue" in text
    assert f"epoch 1, batch {stopped}\n" in text and quiet(text)  # of the second start, so the log was appended to
    if launcher == "srun":
        assert_as_never_stopped(tmp_path, slurm)


def test_pre_empted_with_a_grace_time_it_saves_and_is_requeued(slurm, submit, tmp_path):
    job = submit("--partition", "grace")
    wait_for_batch(tmp_path, 3)
    wide = ("--partition", "high", "--nodes", 2, "--exclusive", "--wrap", "sleep 2", "--output", "/dev/null")
    slurm.submit(tmp_path, *wide)
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue", 50)  # SLURM itself would wait for a minute
    stopped = max(losses(tmp_path / "exp"))
    wait_for_batch(tmp_path, stopped + 2)
    text = log_of(tmp_path, job)
    assert "SIGTERM: saving after this batch, then leaving" in text and quiet(text)
    assert f"stopped at batch {stopped}: the job goes back into the queue" in text


def test_a_time_limit_that_leaves_no_time_to_train_stops_the_job_with_a_line(slurm, submit, tmp_path):
    job = submit()
    wait_for(lambda: "exp-dir exp" in log_of(tmp_path, job), "the first start")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.state(job) == "RUNNING" and slurm.restarts(job) == 1, "the second start")
    wait_for(lambda: slurm.run("squeue", "-h", "--steps", "--job", job), "its step")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.state(job) == "FAILED", "the end")
    assert "error: no batch was trained since the job was last requeued: give more --time" in log_of(tmp_path, job)


def test_a_node_that_fails_is_gone_on_without(slurm, submit, tmp_path):
    """The lock of the dead process, on whichever machine, does not keep the run."""
    job = submit(values={**ENDLESS, "save_last_every": 5})
    wait_for_batch(tmp_path, 8)
    slurm.kill_node(NODES[0])
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue")
    slurm.start_node(NODES[0])
    reached = max(losses(tmp_path / "exp"))
    wait_for(lambda: log_of(tmp_path, job).count("resumed from exp/") == 1, "the second start")
    wait_for_batch(tmp_path, reached + 3)
    slurm.run("scancel", job)
    assert_as_never_stopped(tmp_path, slurm)


def test_a_run_that_is_complete_ends_the_job_and_an_error_fails_it(slurm, submit, tmp_path):
    values = {**ENDLESS, "max_steps": 3, "final_decay": 0}
    for flags, state in ((values, "COMPLETED"), ({**values, "max_steps": 5, "width": 12}, "FAILED")):
        job = submit(values=flags)
        wait_for(lambda job=job: slurm.state(job) in ("COMPLETED", "FAILED"), "the end")
        assert slurm.state(job) == state and quiet(log_of(tmp_path, job)), log_of(tmp_path, job)
    assert "error: `" in log_of(tmp_path, job)
    assert slurm.restarts(job) == 0


def test_a_dead_part_of_an_array_is_named_by_the_last_job(slurm, tmp_path):
    """The three lines of docs/cluster.md, with a program that leaves a mark in place of decoding."""
    (tmp_path / "prepare.sh").write_text(
        "#!/usr/bin/env bash\n"
        'echo "got $* with $SLURM_CPUS_PER_TASK cores"\n'
        'case "$*" in *"--part auto"*) [ "$SLURM_ARRAY_TASK_ID" != 1 ] && touch part-$SLURM_ARRAY_TASK_ID ;;\n'
        '*"--stage 3"*) for n in 0 1 2; do\n'
        '[ -f part-$n ] || { echo "error: part $n/3 is missing" >&2; exit 2; }; done ;;\n'
        "esac\n"
    )
    (tmp_path / "prepare.sh").chmod(0o755)
    common = ("--cpus-per-task", 2)
    first = slurm.submit(tmp_path, *common, PREPARE, "--stop-stage", 2, CONTAINER="")
    array = ("--array=0-2", "--output=couloir-prepare-%A-part%a.log", "--kill-on-invalid-dep=yes")
    parts = slurm.submit(tmp_path, *common, *array, f"--dependency=afterok:{first}", PREPARE, CONTAINER="")
    last = slurm.submit(tmp_path, *common, f"--dependency=afterany:{parts}", PREPARE, "--stage", 3, CONTAINER="")
    wait_for(lambda: slurm.state(last) in ("COMPLETED", "FAILED"), "the last job")
    assert slurm.state(last) == "FAILED"
    assert "error: part 1/3 is missing" in (tmp_path / f"couloir-prepare-{last}.log").read_text()
    logs = sorted(path.name for path in tmp_path.glob(f"couloir-prepare-{parts}-part*.log"))
    assert logs == [f"couloir-prepare-{parts}-part{number}.log" for number in range(3)]


def test_a_first_job_that_fails_ends_those_that_wait_for_it(slurm, tmp_path):
    (tmp_path / "prepare.sh").write_text("#!/usr/bin/env bash\nexit 2\n")
    (tmp_path / "prepare.sh").chmod(0o755)
    first = slurm.submit(tmp_path, "--cpus-per-task", 2, PREPARE, CONTAINER="")
    waiting = ("--kill-on-invalid-dep=yes", f"--dependency=afterok:{first}")
    second = slurm.submit(tmp_path, "--cpus-per-task", 2, *waiting, PREPARE, CONTAINER="")
    wait_for(lambda: slurm.state(second) == "CANCELLED", "the end")


def test_the_small_training_is_one(tmp_path):
    seed_everything(1)
    assert len(SlowData().train_loader(1)) == 26 and fake_config(Path("x"), ENDLESS).trainer.num_epochs == 10**6
