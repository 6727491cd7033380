"""egs/slurm on a real SLURM of two nodes: time limits, requeues, pre-emption, node failure, arrays with a dead part.

Every training is compared, loss by loss, with one that was never stopped. Where only the batch script is at stake, it
starts a program that imports nothing heavy.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from fake_run import fake_config, finish, forked
from fake_run import main as run_small
from programs import ROOT, run_program
from real_speech import TINY, prepare
from slurm_cluster import NODES, cluster_in, wait_for, why_not
from slurm_run import SlowData

from couloir.training.random_state import seed_everything
from couloir.training.rendezvous import listen

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
TRAIN, PREPARE = ROOT / "egs/slurm/train.sbatch", ROOT / "egs/slurm/prepare.sbatch"
ENDLESS = {"num_epochs": 10**6, "save_every_n": 10**6, "log_interval": 1, "device": "cpu"}
LIGHT, RECIPE = str(ROOT / "tests/recipes/slurm_light.py"), "zipformer_crctc/train.py"
WIDE = ("--partition", "high", "--nodes", 2, "--exclusive", "--wrap", "true", "--output", "/dev/null")
ENV = {
    "CONTAINER": "",
    "COULOIR_PYTHON": sys.executable,
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/training'}",
    "CUDA_VISIBLE_DEVICES": "",
}
FLAGS = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 4 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 5 --save-every-n 10000 --num-workers 1 --tensorboard False --warmup-batches 4 "
    "--num-epochs 9999 --final-decay 0 --num-threads 1 --device cpu"
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster_in(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def submit(slurm, tmp_path):
    """Submit a job of two nodes, sbatch's ``options`` before and the ``words`` of the program after the script.

    Whatever is left of it afterwards is cancelled.
    """
    jobs = []

    def train(*words, options=("--nodes", 2), **env):
        flags = ("--cpus-per-task", 2, *options, TRAIN, *words)
        jobs.append(slurm.submit(tmp_path, *flags, **{**ENV, **env}))
        return jobs[-1]

    yield train
    for job in jobs:
        slurm.run("scancel", job)


def losses(exp_dir):
    """By batch; the line that is just being written does not count."""
    path = exp_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    rows = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def log_of(folder, job):
    path = folder / f"couloir-{job}.log"
    return path.read_text() if path.exists() else ""


def wait_for_batch(folder, number):
    wait_for(lambda: max(losses(folder / "exp"), default=0) >= number, f"batch {number}")


def wait_for_log(folder, job, text):
    wait_for(lambda: text in log_of(folder, job), f"`{text}` in the log")


def never_stopped(folder, run):
    """The losses in ``folder``/straight of the same two processes that nobody stops.

    They are forks of this one, for importing torch takes longer than they do.
    """
    with listen([0], "127.0.0.1") as free:
        port = free.getsockname()[1]
    common = {**ENV, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in ("0", "1"):
        with mock.patch.dict(os.environ, {**common, "RANK": rank, "LOCAL_RANK": rank}):
            children.append(forked(run, folder / f"straight-{rank}.stderr"))
    assert [finish(folder / f"straight-{rank}", child).returncode for rank, child in enumerate(children)] == [0, 0]
    return losses(folder / "straight")


def quiet(text):
    """A log without tracebacks and without what SLURM and torch say of signals."""
    return "Traceback" not in text and "SignalException" not in text and "SIGKILL" not in text


def test_the_recipe_on_two_nodes_saves_before_the_time_limit_and_goes_on_at_the_very_batch(slurm, submit, tmp_path):
    """Plain srun, the program of the documentation; every loss is that of a run on one machine that nobody stopped."""
    prepare(tmp_path, copies=2)
    job = submit(*FLAGS.split(), "--exp-dir", "exp", "--max-steps", "100000", RECIPE=str(ROOT / RECIPE))
    wait_for_batch(tmp_path, 3)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@300 does
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue")
    stopped = max(losses(tmp_path / "exp"))
    wait_for_batch(tmp_path, stopped + 3)
    found = losses(tmp_path / "exp")
    slurm.run("scancel", job)
    text = log_of(tmp_path, job)
    assert f"stopped at batch {stopped}: the job goes back into the queue" in text and quiet(text)
    assert text.count("device cpu, 2 processes, exp-dir exp") == 2  # the log was appended to
    flags = f"{FLAGS} --exp-dir straight --max-steps {max(found)}"
    assert found == never_stopped(tmp_path, lambda: run_program(tmp_path, RECIPE, flags))


def test_pre_empted_with_a_grace_time_and_then_without_a_node_it_goes_on_at_the_batch_saved(slurm, submit, tmp_path):
    """The lock of the dead process, on whichever machine, does not keep the run."""
    values = json.dumps({**ENDLESS, "save_last_every": 5})
    recipe = str(ROOT / "tests/recipes/slurm_run.py")
    job = submit("exp", values, options=("--nodes", 2, "--partition", "grace"), RECIPE=recipe)
    wait_for_batch(tmp_path, 3)
    slurm.submit(tmp_path, *WIDE)
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue")  # SLURM itself would wait for ten minutes
    stopped = max(losses(tmp_path / "exp"))
    wait_for_batch(tmp_path, stopped + 6)
    slurm.kill_node(NODES[0])
    wait_for(lambda: slurm.restarts(job) == 2, "the second requeue")
    slurm.start_node(NODES[0])
    reached = max(losses(tmp_path / "exp"))
    wait_for(lambda: log_of(tmp_path, job).count("resumed from exp/") == 2, "the third start")
    wait_for_batch(tmp_path, reached + 2)
    found = losses(tmp_path / "exp")
    slurm.run("scancel", job)
    text = log_of(tmp_path, job)
    assert "SIGTERM: saving after this batch, then leaving" in text and quiet(text)
    assert f"stopped at batch {stopped}: the job goes back into the queue" in text
    assert f"epoch 1, batch {stopped}\n" in text
    values = {**ENDLESS, "max_steps": max(found), "final_decay": 0}
    assert found == never_stopped(tmp_path, lambda: run_small(tmp_path / "straight", values))


def test_torchrun_passes_the_time_limit_on_and_the_job_is_requeued(slurm, submit, tmp_path):
    job = submit("stop", LAUNCHER="torchrun", RECIPE=LIGHT)
    for start in range(2):
        wait_for_log(tmp_path, job, f"began at {start}")
        slurm.run("scancel", "--batch", "--signal=USR1", job)
        wait_for(lambda start=start: slurm.restarts(job) == start + 1, "the requeue")
    text = log_of(tmp_path, job)
    assert "stopped at batch 1: the job goes back" in text and "stopped at batch 2: the job goes back" in text
    assert text.count("torchrun: SIGUSR1 was passed on to the workers, which have left") == 4 and quiet(text)


def test_a_time_limit_that_leaves_no_time_to_train_stops_the_job_with_a_line(slurm, submit, tmp_path):
    job = submit("idle", RECIPE=LIGHT)
    for start in (1, 2):
        wait_for(lambda start=start: log_of(tmp_path, job).count("began at 0") == start, f"start {start}")
        slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: slurm.state(job) == "FAILED", "the end")
    assert "error: no batch was trained since the job was last requeued: give more --time" in log_of(tmp_path, job)


def test_pre_empted_before_the_run_is_there_the_job_is_requeued(slurm, submit, tmp_path):
    """The program does not take SIGTERM yet."""
    job = submit("idle", options=("--nodes", 2, "--partition", "grace"), RECIPE=LIGHT)
    wait_for_log(tmp_path, job, "began at 0")
    slurm.submit(tmp_path, *WIDE)
    wait_for(lambda: slurm.restarts(job) == 1, "the requeue")
    wait_for(lambda: log_of(tmp_path, job).count("began at 0") == 2, "the second start")
    assert "stopped at batch 0: the job goes back into the queue" in log_of(tmp_path, job)


@pytest.mark.parametrize(("kind", "state"), [("complete", "COMPLETED"), ("error", "FAILED")])
@pytest.mark.parametrize(
    "options", [("--nodes", 2, "--gpus-per-node", 1), ("--nodes", 2, "--ntasks-per-node", 2, "--gpus-per-task", 1)]
)
def test_a_run_that_is_complete_ends_the_job_and_an_error_fails_it(slurm, submit, tmp_path, kind, state, options):
    job = submit(kind, options=options, RECIPE=LIGHT)
    wait_for(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), "the end")
    text = log_of(tmp_path, job)
    assert slurm.state(job) == state and slurm.restarts(job) == 0 and quiet(text), text
    if kind == "error":
        # A task that fails before the first has said its line ends the step.
        assert "error: `--no-such-flag` is none" in text and text.count("began at ") <= 1
    else:
        assert text.count("began at ") == 1 and f"began at 0: {options[1] * options[3]} tasks of 2 cores\n" in text


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
