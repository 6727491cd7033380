"""A SLURM of two nodes on this machine, for tests of the batch scripts: its own daemons below one folder, as any user.

The nodes are named by loopback addresses, which resolve everywhere; there is no authentication, no cgroup and no
accounting. Partitions: ``low`` (jobs of ``high`` requeue its own at once), ``grace`` (after ten minutes' notice).
Nothing depends on how fast the machine is: what SLURM gives up after seconds, it waits minutes for here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
NODES = ("127.0.0.2", "127.0.0.3")
PATIENCE_S = 240
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])

CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=300
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
KillWait=120
MinJobAge=3600
GresTypes=gpu
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=0
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=600
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str:
    """Why there can be no such cluster here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"SLURM is not installed ({', '.join(missing)} missing)" if missing else ""


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Raise `AssertionError` where the condition does not come to hold."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.1)


def _free_ports(number: int) -> int:
    """The first of that many ports in a row."""
    for first in range(17800, 30000, 10):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + number):
                held.enter_context(socket.create_server(("", port)))
            return first
    raise RuntimeError("no free ports")


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


class Cluster:
    """The daemons, and what a user does with them."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self.env = {name: value for name, value in self.env.items() if name == "SLURM_CONF" or name[:6] != "SLURM_"}

    def start(self) -> None:
        """Write the configuration and start a controller and two nodes."""
        for name in ("state", "dev"):
            (self.dir / name).mkdir(parents=True)
        for number in range(4):
            (self.dir / f"dev/nvidia{number}").touch()
        port = _free_ports(3)
        text = CONF.format(port=port, user=getpass.getuser(), dir=self.dir)
        for number, node in enumerate(NODES, 1):
            place = f"NodeHostname=localhost NodeAddr=127.0.0.1 Port={port + number}"
            text += f"NodeName={node} {place} CPUs=32 Gres=gpu:4\n"
        (self.dir / "gres.conf").write_text(f"Name=gpu File={self.dir}/dev/nvidia[0-3]\n")
        (self.dir / "slurm.conf").write_text(text)
        self.run("slurmctld", "-c")
        for node in NODES:
            self.run("slurmd", "-N", node)
        idle = ("sinfo", "-h", "-N", "-p", "low", "-t", "idle", "-o", "%N")
        wait_for(lambda: self.run(*idle).count("\n") == len(NODES), "the nodes")

    def stop(self) -> None:
        """End every job and daemon."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scancel", "--full", "--signal=KILL", "--user", getpass.getuser(), patience_s=10)
        for path in self.dir.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        for pid in self.processes_of(None):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command: object, patience_s: float = PATIENCE_S, folder: Path | None = None, **env: str) -> str:
        """A command's standard output. Raises `subprocess.CalledProcessError`."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words,
            cwd=folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=True,
            timeout=patience_s,
        )
        return done.stdout

    def submit(self, folder: Path, *words: object, patience_s: float = PATIENCE_S, **env: str) -> str:
        """The number of a new job, submitted from ``folder``."""
        return self.run("sbatch", "--parsable", *words, folder=folder, patience_s=patience_s, **env).strip()

    def fields(self, job: str) -> dict[str, str]:
        """What the controller says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, ..."""
        return self.fields(job)["JobState"]

    def restarts(self, job: str) -> int:
        """How often it was requeued."""
        return int(self.fields(job)["Restarts"])

    def processes_of(self, node: str | None) -> list[int]:
        """The processes of the jobs of a node (of any, where None), and the node's own daemon."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (process / "environ").read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self.env['SLURM_CONF']}".encode() in environ
                if ours and (node is None or f"SLURMD_NODENAME={node}".encode() in environ):
                    found.append(int(process.name))
        return found

    def kill_node(self, node: str) -> None:
        """What a power failure does: the daemon and all that it has started are gone at once, and the node is down."""
        tasks = self.processes_of(node)
        stepds = {parent for parent in map(_parent, tasks) if _name(parent).startswith("slurmstepd")}
        daemon = int((self.dir / f"slurmd-{node}.pid").read_text())
        for pid in (daemon, *stepds, *tasks):  # those first who would tell the controller of the others' end
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=silent")  # as after SlurmdTimeout

    def start_node(self, node: str) -> None:
        """The machine is switched on again."""
        self.run("slurmd", "-N", node)


@contextlib.contextmanager
def cluster_in(folder: Path) -> Iterator[Cluster]:
    """A running cluster."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
