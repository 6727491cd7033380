"""Small archives that claim or unpack to very much: refused in one line, or one item is named."""

import gzip
import io
import json
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from couloir.data.corpora.manifest import read_manifest
from couloir.data.corpora.statistics import read_cuts
from couloir.data.corpora.validation import _audio_lengths
from couloir.decoding.fsa.graph import Graph
from couloir.errors import UserError


@pytest.fixture
def little_memory():
    """2 GiB more than this process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def npz(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression, compresslevel=9) as archive:
        archive.writestr("source.npy", content)
    return path


def header(shape, dtype="<i4"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize(
    "kind", ["bomb", "shape", "huge shape", "objects", "pipe", "folder", "text", "empty", "bzip2", "cut off"]
)
def test_a_decoding_graph_that_is_none(tmp_path, little_memory, kind):
    path = tmp_path / "HLG.npz"
    if kind == "bomb":
        npz(path, header((1 << 26,)) + bytes(1 << 28))
        assert path.stat().st_size < 1 << 20
    elif kind in ("shape", "huge shape"):
        npz(path, header((10**11,) if kind == "shape" else (2**62, 2**62)) + bytes(64))
    elif kind == "objects":
        np.savez(path, source=np.array([{}], dtype=object))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "bzip2":
        npz(path, b"x" * 100, zipfile.ZIP_BZIP2)
    elif kind == "cut off":
        np.savez(path, source=np.zeros(1000, np.int32))
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_text("" if kind == "empty" else "no archive")
    with pytest.raises(UserError, match=r"HLG\.npz") as error:
        Graph.load(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_one_line_of_zeros_in_a_manifest(tmp_path, little_memory):
    (tmp_path / "shar").mkdir()
    for path in (tmp_path / "shar/cuts.000000.jsonl.gz", tmp_path / "user.jsonl.gz"):
        with gzip.open(path, "wb") as out:
            for _ in range(64):
                out.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"cuts\.000000.*is damaged"):
        list(read_cuts(tmp_path / "shar"))
    with pytest.raises(UserError, match=r"user\.jsonl\.gz is damaged"):
        list(read_manifest(tmp_path / "user.jsonl.gz"))


@pytest.mark.parametrize(
    "line", ["", "null", "[1]", '"x"', "{", "[" * 10**5, '{"id": 1, "more": 2}', "\x00", "9" * 5000]
)
def test_a_line_that_is_no_utterance(tmp_path, line):
    with gzip.open(tmp_path / "user.jsonl.gz", "wt") as out:
        out.write(line + "\n")
    with pytest.raises(UserError, match=r"user\.jsonl\.gz is damaged"):
        list(read_manifest(tmp_path / "user.jsonl.gz"))


def test_members_of_a_tar_that_are_no_audio(tmp_path, little_memory):
    path = tmp_path / "recording.000000.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        sparse = tarfile.TarInfo("sparse.flac")
        sparse.size = 1024
        sparse.pax_headers = {
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40),
            "GNU.sparse.map": "0,1024",
            "GNU.sparse.name": "sparse.flac",
        }  # fmt: skip
        tar.addfile(sparse, io.BytesIO(bytes(1024)))
        link = tarfile.TarInfo("link.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        text = json.dumps({}).encode()
        info = tarfile.TarInfo("note.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    lengths, problems = _audio_lengths(path)
    assert lengths == {} and [problem.split(": ")[1].split(" ")[0] for problem in problems] == [
        "sparse.flac",
        "link.flac",
    ]
