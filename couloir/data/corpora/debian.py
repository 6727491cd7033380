"""Debian packages as a source of speech: downloaded with ``apt-get download``, unpacked without being installed.

apt keeps its package lists below the download folder, so neither root nor an up-to-date system is needed.
A .deb is an ``ar`` archive whose member ``data.tar.*`` holds the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from couloir.data.corpora.folders import whole_folder
from couloir.errors import UserError
from couloir.progress import log, reading

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def fetch_package(name: str, download_dir: Path) -> Path:
    """The .deb of a package, downloaded when it is not in ``download_dir`` yet. A broken download is continued.

    Raises `UserError` when apt is missing or does not know the package.
    """
    found = find_package(name, download_dir)
    if found is not None:
        return found
    if shutil.which("apt-get") is None:
        raise UserError(f"package {name} cannot be fetched: this machine has no apt-get; try `--corpora synthetic`")
    download_dir.mkdir(parents=True, exist_ok=True)
    log(f"downloading package {name}")
    reason = _apt("download", name, download_dir)
    if reason and not (reason := _apt("update", "", download_dir)):
        reason = _apt("download", name, download_dir)
    found = find_package(name, download_dir)
    if found is None:
        raise UserError(f"package {name} cannot be fetched: {reason or 'apt-get left no whole file'}")
    return found


def find_package(name: str, download_dir: Path) -> Path | None:
    """The newest whole .deb of a package in a folder, or None."""
    whole = [path for path in download_dir.glob(f"{name}_*.deb") if is_whole(path)]
    return max(whole, key=lambda path: path.stat().st_mtime, default=None)


def _apt(action: str, package: str, folder: Path) -> str:
    """Run apt-get with its state below ``folder``; "" or the reason why it failed."""
    state = (folder / ".apt").resolve()
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State": state / "state",
        "Dir::Cache": state / "cache",
        "Dir::State::status": "/var/lib/dpkg/status",
        "APT::Sandbox::User": "root",  # else root's apt changes to a user who cannot write here
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    words = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items()), action]
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        words + ([package] if package else []),
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=shown,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return "" if done.returncode == 0 else (errors or [f"apt-get {action} failed"])[0]


def ar_members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(name, size) of each member of an ``ar`` archive; the stream stands at the member's first byte.

    Raises ValueError when the archive is cut short or is none.
    """
    size_of_file = os.fstat(stream.fileno()).st_size
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("not an ar archive")
    at = len(_AR_MAGIC)
    while at < size_of_file:
        stream.seek(at)
        header = stream.read(_AR_HEADER)
        if len(header) < _AR_HEADER or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise ValueError("damaged ar header")
        size = int(header[48:58])
        if at + _AR_HEADER + size > size_of_file:
            raise ValueError("cut short")
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), size
        at += _AR_HEADER + size + size % 2


def is_whole(path: Path) -> bool:
    """Whether a .deb is complete: every member fits, ``data.tar.*`` among them."""
    with contextlib.suppress(ValueError, OSError), open(path, "rb") as stream:
        return any(name.startswith("data.tar") for name in [member for member, _ in ar_members(stream)])
    return False


def unpacked_folder(download_dir: Path, package: str, members: str) -> Path:
    """Where the chosen members of a package lie. Another choice is another folder."""
    return download_dir / "unpacked" / f"{package}-{hashlib.sha256(members.encode()).hexdigest()[:8]}"


def unpack(deb: Path, target: Path, members: str) -> None:
    """Unpack the regular files whose path matches ``members`` into ``target``, which appears whole or not at all.

    Nothing is written outside ``target``; links and device files are left out.
    Raises `UserError` when the package is damaged or holds no such file.
    """
    log(f"unpacking {deb.name}")
    try:
        with whole_folder(target) as folder:
            if not _extract(deb, folder, re.compile(members)):
                raise UserError(f"package {deb} holds no file that matches {members!r}; is it another version?")
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise UserError(f"package {deb} cannot be unpacked ({error}); remove it and fetch it again") from None


def _extract(deb: Path, folder: Path, members: re.Pattern[str]) -> int:
    """Write the chosen files below ``folder``; their number."""
    count = 0
    with _open_tar(deb) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isreg() or not members.search(member.name) or path.is_absolute() or ".." in path.parts:
                continue
            content = archive.extractfile(member)
            destination = folder / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            with open(destination, "wb") as out:
                shutil.copyfileobj(content, out)  # type: ignore[arg-type]
            count += 1
    return count


@contextlib.contextmanager
def _open_tar(deb: Path) -> Iterator[tarfile.TarFile]:
    """The tar stream of a .deb, read from front to back."""
    with open(deb, "rb") as stream:
        name = next((name for name, _ in ar_members(stream) if name.startswith("data.tar")), "")
        if name.endswith(".zst"):  # Ubuntu's; Python reads zstd from 3.14 on only, but where apt is there is dpkg-deb
            command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
            with (
                subprocess.Popen(command, stdout=subprocess.PIPE) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as archive,
            ):
                yield archive
            return
        mode = {".xz": "r|xz", ".gz": "r|gz", ".bz2": "r|bz2", ".tar": "r|"}.get(Path(name).suffix)
        if mode is None:
            raise ValueError(f"unknown compression of {name or 'a package without data.tar'}")
        with (
            reading(stream, deb.stat().st_size, deb.name) as tracked,
            tarfile.open(fileobj=tracked, mode=mode) as archive,  # type: ignore[call-overload]
        ):
            yield archive
