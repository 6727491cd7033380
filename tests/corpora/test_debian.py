"""Reading .deb files, made here by hand and by dpkg-deb, and apt-get, replaced by a stand-in."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from programs import run_program

from couloir.data.corpora.base import DebianCorpus
from couloir.data.corpora.debian import fetch_package, find_package, is_whole, unpack
from couloir.errors import UserError

FILES = {"./usr/share/x/a.wav": b"sound", "./usr/share/x/a.txt": "текст".encode(), "./usr/share/x/b.png": b"picture"}


def tar_bytes(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stream.getvalue()


def deb_bytes(data: bytes) -> bytes:
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data)):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    path = tmp_path / "speech_1.0_all.deb"
    path.write_bytes(deb_bytes(tar_bytes(FILES)))
    return path


def test_unpacks_what_matches(deb, tmp_path):
    unpack(deb, tmp_path / "out", r"\.(wav|txt)$")
    found = {
        f"./{p.relative_to(tmp_path / 'out')}": p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert found == {name: content for name, content in FILES.items() if not name.endswith("png")}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is the peer")
@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_reads_what_dpkg_deb_writes(tmp_path, compression):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: speech\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: x\n"
    )
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    deb = tmp_path / "speech_1_all.deb"
    built = subprocess.run(["dpkg-deb", f"-Z{compression}", "--build", root, deb], capture_output=True)
    if built.returncode:
        pytest.skip(f"this dpkg-deb cannot write {compression}")
    assert is_whole(deb)
    unpack(deb, tmp_path / "out", r"\.wav$")
    assert (tmp_path / "out/usr/share/x/a.wav").read_bytes() == b"sound"


def test_a_part_of_a_package_is_never_taken_for_whole(deb, tmp_path):
    whole = deb.read_bytes()
    assert find_package("speech", tmp_path) == deb
    for length in range(len(whole)):
        deb.write_bytes(whole[:length])
        assert not is_whole(deb), length
    assert find_package("speech", tmp_path) is None


@pytest.mark.parametrize("name", ["/etc/x.wav", "./../x.wav", "usr/../../x.wav"])
def test_nothing_is_written_outside(tmp_path, name):
    deb = tmp_path / "inner" / "bad_1_all.deb"
    deb.parent.mkdir()
    deb.write_bytes(deb_bytes(tar_bytes({name: b"bad", "./ok.wav": b"ok"}, {"./link.wav": "/etc/passwd"})))
    unpack(deb, tmp_path / "inner" / "out", r"\.wav$")
    assert [p.name for p in tmp_path.rglob("*.wav")] == ["ok.wav"]


def test_a_damaged_package_leaves_no_folder(deb, tmp_path):
    data = bytearray(deb.read_bytes())
    data[-40:] = bytes(40)
    deb.write_bytes(data)
    with pytest.raises(UserError, match=r"speech_1\.0_all\.deb cannot be unpacked"):
        unpack(deb, tmp_path / "out", r"\.wav$")
    assert list(tmp_path.iterdir()) == [deb]


def test_a_package_without_the_files_is_named(deb, tmp_path):
    with pytest.raises(UserError, match="holds no file that matches"):
        unpack(deb, tmp_path / "out", r"\.flac$")


class Speech(DebianCorpus):
    name = "speech"
    packages = ("speech",)
    members = r"\.wav$"

    def utterances(self, download_dir):
        yield from ()


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A stand-in for apt-get that knows the package only after an update; `calls` lists what it was asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "source.deb").write_bytes(deb_bytes(tar_bytes(FILES)))
    program = tmp_path / "bin/apt-get"
    program.write_text(
        f"""#!/bin/sh
for word; do last=$word; done
echo "$*" >> {tmp_path}/calls
case $last in
  update) touch {tmp_path}/updated ;;
  *) [ -e {tmp_path}/updated ] || {{ echo "E: Unable to locate package $last" >&2; exit 100; }}
     cp {tmp_path}/source.deb "$last"_1.0_all.deb ;;
esac
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def test_fetching_updates_the_lists_once_and_only_when_needed(apt, tmp_path):
    download = tmp_path / "down load"
    for _ in range(2):
        Speech().fetch(download)
    asked = apt.read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["speech", "update", "speech"]
    assert all(f"Dir::State={download}/.apt/state" in line for line in asked)  # not the machine's own
    assert (Speech().folder(download) / "usr/share/x/a.wav").read_bytes() == b"sound"


def test_a_half_downloaded_package_is_fetched_again(apt, tmp_path):
    (tmp_path / "updated").touch()
    (tmp_path / "speech_1.0_all.deb").write_bytes((tmp_path / "source.deb").read_bytes()[:200])
    assert is_whole(fetch_package("speech", tmp_path))


def test_what_apt_says_is_passed_on(apt, tmp_path):
    apt.parent.joinpath("bin/apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2; exit 100\n")
    with pytest.raises(UserError, match="package speech cannot be fetched: E: no network"):
        fetch_package("speech", tmp_path)


def test_a_machine_without_apt_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--corpora synthetic"):
        fetch_package("speech", tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_an_allocator_to_preload_is_a_path_or_nothing(tmp_path, monkeypatch, there):
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    if there:
        library = {"./usr/lib/libjemalloc.so.2": b"\x7fELF", "./usr/share/doc/libjemalloc.so.2.gz": b"text"}
        (tmp_path / "libjemalloc2_5_amd64.deb").write_bytes(deb_bytes(tar_bytes(library)))
    done = run_program(tmp_path, "local/fetch_allocator.py", [tmp_path], PATH="")
    if there:
        assert Path(done.stdout.strip()).read_bytes() == b"\x7fELF"
    else:
        assert done.stdout == ""
        assert done.stderr == "no allocator to preload: libjemalloc2 is not installed, and apt-get cannot fetch it\n"
