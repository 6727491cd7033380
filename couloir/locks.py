"""One process at a time in a place: a lock file that says who holds it, and that nobody holds after death.

On one machine a lock is held as long as its process runs; a number that the system gave to another process since is no
owner. The process of another machine, or of another container, cannot be looked up: its lock is held while the file's
time is renewed, every `BEAT_S`, and is free after `SILENCE_S` without, or at once where SLURM says that the job was
started again. Over NFS too the file is made in one step (a hard link), and times are compared with that of a file made
in the same folder, so that the machines' clocks need not agree. One thing does not hold there: a machine that is cut
off from the file server for longer than `SILENCE_S`, and then comes back, finds its lock gone; `Lock.is_ours` tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from couloir.errors import UserError, must_be
from couloir.files import writing_to

BEAT_S = 20.0
SILENCE_S = 180.0
"""NFS may show a file's time a minute late, and a busy server answers late."""
_LONGEST_RECORD = 4096
_POLL_S = 0.2


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        host: name of its machine; pid: number of its process; started: when that started, as the system counts, or "";
        space: where process numbers mean the same (one boot of one machine, one container); job: of SLURM, or "";
        restarts: how often SLURM had started that job again; since: date and time.
    """

    host: str
    pid: int
    started: str = ""
    space: str = ""
    job: str = ""
    restarts: str = ""
    since: str = ""

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The record of a process of this machine."""
        return cls(
            socket.gethostname(),
            pid,
            _started(pid) or "",
            _space(),
            *_slurm(),
            time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    def runs(self) -> bool | None:
        """Whether its process is there; None where that cannot be seen from here."""
        job, restarts = _slurm()
        if self.job and self.job == job and self.restarts != restarts:
            return False  # SLURM starts a job again only when all of it has ended
        if self.host != socket.gethostname() or self.space != _space():
            return None
        started = _started(self.pid)
        return started is not None and started == (self.started or started)


class Lock:
    """A lock that this process holds."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text

    def is_ours(self) -> bool:
        """Whether it still is: false where this machine was cut off so long that another process took it."""
        return _read(self._path) == self._text


@contextlib.contextmanager
def locked(path: Path, place: object, remedy: str = "", wait_s: float = 0.0, heir: int | None = None) -> Iterator[Lock]:
    """Hold the lock file ``path`` while the body runs.

    Args:
        place: what an error calls what is locked; remedy: what to do where it is taken.
        wait_s: for how long to wait for it, in s.
        heir: a process of this machine that starts others, which lock one after the other: one may pass the lock that
            it was left, and leaves it this one, so that no other process comes between.

    Raises:
        UserError: another process holds it, which is named; or the file cannot be made.
    """
    remedy = remedy or "wait until that has ended, or name another folder"
    text = _record(Owner.of(os.getpid()))
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _take(path, text, place, remedy, time.monotonic() + wait_s, heir)
    stopped = threading.Event()
    threading.Thread(target=_beat, args=(path, text, stopped), name="lock", daemon=True).start()
    try:
        yield Lock(path, text)
    finally:
        stopped.set()
        with contextlib.suppress(OSError, UserError), _one_at_a_time(path.parent):
            if _read(path) == text:
                _leave(path, heir)


def holder(path: Path) -> str:
    """Who holds the lock file ``path``, in words; "" where nobody does. Raises `UserError` where it is no file."""
    text = _read(path)
    return "" if text is None or not _is_held(path, text) else _named(text)


def _take(path: Path, text: str, place: object, remedy: str, deadline: float, heir: int | None) -> None:
    while True:
        with _one_at_a_time(path.parent):
            found = _read(path)
            if found is not None and (_is_owned_by(found, heir) or not _is_held(path, found)):
                found = None if _removed(path, found) else _read(path)
            if found is None and _made(path, text):
                return
        if time.monotonic() >= deadline:
            raise must_be(str(place), "used by one process at a time", f"used by {_named(found)}", remedy)
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """No two processes of this machine take a lock in one moment, where the system has such a thing."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            number = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, number)
            fcntl.flock(number, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> str | None:
    """What the file says; None where there is none. Raises `UserError` where it is no regular file."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"lock {path} cannot be read ({error.strerror}); remove it") from None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise must_be(f"lock {path}", "a regular file", "a folder, pipe or device", "remove it")
        return os.read(number, _LONGEST_RECORD).decode("utf-8", "replace")
    finally:
        os.close(number)


def _owner(text: str) -> Owner | None:
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    words = (owner.host, owner.started, owner.space, owner.job, owner.restarts, owner.since)
    return owner if isinstance(owner.pid, int) and owner.pid > 0 and all(isinstance(w, str) for w in words) else None


def _is_held(path: Path, text: str) -> bool:
    owner = _owner(text)
    runs = owner.runs() if owner else None
    return _silence(path) < SILENCE_S if runs is None else runs


def _is_owned_by(text: str, pid: int | None) -> bool:
    owner = _owner(text)
    return pid is not None and owner is not None and owner.pid == pid and owner.runs() is True


def _silence(path: Path) -> float:
    """Seconds since the file's time was renewed, by the clock of the file server."""
    probe = path.with_name(f"{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        probe.write_bytes(b".")
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return SILENCE_S
    finally:
        probe.unlink(missing_ok=True)


def _named(text: str | None) -> str:
    owner = _owner(text or "")
    if owner is None:
        return "another process"
    return f"process {owner.pid} on {ascii(owner.host)[1:-1]} since {ascii(owner.since)[1:-1]}"


def _record(owner: Owner) -> str:
    return json.dumps(asdict(owner)) + "\n"


def _made(path: Path, text: str) -> bool:
    """Make the file whole, in one step; false where another process was quicker."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _removed(path: Path, text: str) -> bool:
    """Remove the lock of a dead owner, unless another process has taken its place since."""
    aside = path.with_name(f"{path.name}.{uuid4().hex[:12]}.old")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if _read(aside) != text:
        with contextlib.suppress(OSError):
            os.link(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return True


def _leave(path: Path, heir: int | None) -> None:
    if heir is not None and _started(heir) is not None:
        temporary = path.with_name(f"{path.name}.{uuid4().hex[:12]}.tmp")
        temporary.write_text(_record(Owner.of(heir)), encoding="utf-8")
        os.replace(temporary, path)
    else:
        path.unlink(missing_ok=True)


def _beat(path: Path, text: str, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_S):
        with contextlib.suppress(OSError, UserError):
            if _read(path) == text:
                os.utime(path)


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; "" where that is not shown, None where there is none."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]  # a zombie works no more
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (PermissionError, OverflowError):
        pass
    return ""


def _slurm() -> tuple[str, str]:
    """The job that this process is of, or "", and how often SLURM started it again."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "0")


def _space() -> str:
    """What has its own process numbers: a boot of a machine, and in it a container."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
