"""An index is checked before it is believed, and made again; manifests and tars cost no more than they hold."""

import gzip
import io
import json
import multiprocessing
import os
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from shar_tools import encoded, noise, tar_of, utterances

from couloir import limits
from couloir.data.folder import INDEX_FOLDER, folder_corpus
from couloir.data.index import FORMAT, ROW, ShardIndex
from couloir.data.shar import write_shar
from couloir.data.shard_files import ShardError, ShardFiles, manifest_lines, tar_members
from couloir.errors import UserError


def rows_of(folder, **options):
    """All that an index says, in plain values."""
    corpus = folder_corpus([folder], **options)
    return [
        (corpus.utterance(i), *(column[i].item() for column in map(corpus.column, ROW.names)))
        for i in range(len(corpus))
    ]


@pytest.fixture
def shards(tmp_path):
    """Two shards of four utterances, their indexes, and what those say."""
    folder = tmp_path / "s"
    write_shar(utterances(8), folder, shard_size=4)
    expected = rows_of(folder)
    first, second = sorted((folder / INDEX_FOLDER).glob("*.index"))
    return folder, first, second, expected


def change_header(path, change):
    """The index with another first line, whose sum is right again."""
    line, _, content = path.read_bytes().partition(b"\n")
    header = change(json.loads(line))
    if isinstance(header, dict) and "sum" in header:
        said = json.dumps({name: value for name, value in header.items() if name != "sum"})
        header["sum"] = zlib.crc32(content, zlib.crc32(said.encode()))
    path.write_bytes(json.dumps(header).encode() + b"\n" + content)


def change_rows(path, **values):
    """The index with values of its first row changed, and the sum right again."""
    line, _, content = path.read_bytes().partition(b"\n")
    rows = np.frombuffer(content[: ROW.itemsize], ROW).copy()
    for name, value in values.items():
        rows[name] = value
    path.write_bytes(line + b"\n" + rows.tobytes() + content[ROW.itemsize :])
    change_header(path, lambda header: header)


def dropped(name):
    return lambda header: {key: value for key, value in header.items() if key != name}


HEADERS = {
    "list": lambda h: [1],
    "null": lambda h: None,
    "text": lambda h: "x",
    "empty": lambda h: {},
    "version_1": lambda h: {**h, "format": 1},
    "version_next": lambda h: {**h, "format": FORMAT + 1},
    "version_text": lambda h: {**h, "format": str(FORMAT)},
    "other_manifest": lambda h: {**h, "cuts": "cuts.000001.jsonl.gz"},
    "other_stamp": lambda h: {**h, "stamp": [[1, 2], [3, 4]]},
    "stamp_of_text": lambda h: {**h, "stamp": "now"},
    "rows_negative": lambda h: {**h, "rows": -1},
    "rows_fewer": lambda h: {**h, "rows": h["rows"] - 1},
    "rows_more": lambda h: {**h, "rows": h["rows"] + 1},
    "rows_huge": lambda h: {**h, "rows": 10**12},
    "rows_beyond": lambda h: {**h, "rows": 10**30},
    "rows_text": lambda h: {**h, "rows": "4"},
    "rows_true": lambda h: {**h, "rows": True},
    "rows_fraction": lambda h: {**h, "rows": 4.0},
    "blob_negative": lambda h: {**h, "blob": -5},
    "blob_none": lambda h: {**h, "blob": None},
    "left_out_text": lambda h: {**h, "left_out": "x"},
    "left_out_number": lambda h: {**h, "left_out": {"0 x": 3}},
    "left_out_negative": lambda h: {**h, "left_out": {**h["left_out"], "total": -1}},
    "left_out_unnamed": lambda h: {**h, "left_out": {"total": 1, "reasons": {"x": 1}, "named": {}}},
    "left_out_nested": lambda h: {**h, "left_out": {"total": 1, "reasons": [1], "named": 2}},
    **{f"no_{name}": dropped(name) for name in ("format", "cuts", "stamp", "rows", "blob", "left_out", "sum")},
}
ROWS = {
    "duration_nan": {"duration": np.nan},
    "duration_inf": {"duration": np.inf},
    "duration_negative": {"duration": -1},
    "start_nan": {"start": np.nan},
    "start_negative": {"start": -5},
    "start_huge": {"start": 1e300},
    "channel": {"channel": 30000},
    "channel_below": {"channel": -2},
    "num_chars": {"num_chars": -1},
    "offset_negative": {"offset": -5},
    "offset_behind": {"offset": 1 << 40},
    "offset_overflows": {"offset": (1 << 63) - 1},
    "size_behind": {"size": 1 << 30},
    "size_overflows": {"size": (1 << 63) - 1},
    "size_below": {"size": -2},
    "size_of_a_file": {"size": -1},
    "blob_offset_negative": {"blob_offset": -5},
    "blob_offset_behind": {"blob_offset": 1 << 40},
    "blob_offset_overflows": {"blob_offset": (1 << 63) - 1},
    "blob_size_behind": {"blob_size": (1 << 31) - 1},
    "blob_size_negative": {"blob_size": -1},
    "blob_size_none": {"blob_size": 0},
}
FILES = {
    "empty": lambda content: b"",
    "one_byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all_but_one": lambda content: content[:-1],
    "one_more": lambda content: content + b"x",
    "no_header": lambda content: content.partition(b"\n")[2],
    "header_alone": lambda content: content.partition(b"\n")[0],
    "not_json": lambda content: b"once upon a time\n" + content,
    "deep": lambda content: b"[" * 100_000 + b"\n" + content,
    "endless_line": lambda content: b" " * (limits.MAX_INDEX_HEADER_BYTES + 10) + content,
    "zeros": lambda content: bytes(len(content)),
    "blob_garbage": lambda content: content[:-40] + b"\xff" * 40,
    "flipped_last": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "flipped_row": lambda content: content.replace(b"\n", b"\n\x01", 1)[: len(content)],
    "digits": lambda content: b"9" * 5000 + b"\n",
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_another_first_line_is_not_believed(shards, change):
    folder, first, _, expected = shards
    change_header(first, change)
    assert rows_of(folder) == expected and rows_of(folder) == expected


@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS)
def test_rows_out_of_range_are_not_believed_though_their_sum_is_right(shards, values):
    folder, first, _, expected = shards
    change_rows(first, **values)
    assert rows_of(folder) == expected


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
def test_a_damaged_file_is_made_again(shards, change):
    folder, first, _, expected = shards
    first.write_bytes(change(first.read_bytes()))
    assert rows_of(folder) == expected


@pytest.mark.parametrize("kind", ["other_shards", "fifo", "folder", "link", "broken_link", "device"])
def test_what_is_no_index_of_this_shard_is_replaced(shards, kind, tmp_path):
    folder, first, second, expected = shards
    precious = tmp_path / "precious"
    precious.write_bytes(first.read_bytes())
    if kind == "other_shards":
        shutil.copyfile(second, first)
    elif kind == "folder":
        first.unlink()
        first.mkdir()
        with pytest.raises(UserError, match="cannot be written"):
            rows_of(folder)
        return
    else:
        first.unlink()
        if kind == "fifo":
            os.mkfifo(first)
        else:
            place = {"link": precious, "broken_link": tmp_path / "gone", "device": "/dev/zero"}[kind]
            first.symlink_to(place)
    assert rows_of(folder) == expected
    if kind != "link":
        assert first.is_file() and not first.is_symlink()
    assert not (tmp_path / "gone").exists() and precious.read_bytes()


def test_the_index_of_another_shard_with_the_same_stamp_is_not_believed(tmp_path):
    """Two shards of equal sizes and times, as copies have that keep times to the second."""
    folders = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = json.dumps({"id": f"u{number}", "start": 0, "duration": 0.5, "supervisions": []}).encode()
        (folder / f"cuts.{number:06d}.jsonl").write_bytes(content + b"\n")
        tar_of(folder / f"recording.{number:06d}.tar", [(f"u{number}.wav", encoded(noise(8000), kind="WAV"))])
        for path in folder.iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
        folders.append(folder)
    assert rows_of(folders[0])[0][0].id == "u0" and rows_of(folders[1])[0][0].id == "u1"
    shutil.copyfile(folders[0] / INDEX_FOLDER / "cuts.000000.index", folders[1] / INDEX_FOLDER / "cuts.000001.index")
    assert rows_of(folders[1])[0][0].id == "u1"


@pytest.mark.parametrize("name", ["cuts.000000.jsonl.gz", "recording.000000.tar"])
@pytest.mark.parametrize("kind", ["later", "earlier", "longer"])
def test_a_changed_shard_has_a_new_index(shards, name, kind):
    folder, first, _, _ = shards
    path, before = folder / name, first.read_bytes()
    if kind == "longer":
        with open(path, "ab") as out:
            out.write(gzip.compress(b"\n") if name.endswith("gz") else bytes(512))
    else:
        path.touch()
        shift = 10 if kind == "later" else -10
        os.utime(path, (path.stat().st_atime + shift, path.stat().st_mtime + shift))
    rows_of(folder)
    assert first.read_bytes() != before


@pytest.mark.parametrize(
    "blob",
    [b"[]", b"null", b"5", b"not JSON", b"{}", b'{"id": ""}', b'{"id": 5}', b'{"id": "a", "evil": 1}', b"\xff\xfe",
     b'{"id": "a", "text": 5}', b'{"id": "a", "alignment": [1]}', b'{"id": "a", "custom": []}',
     b'{"id": "a", "path": 1}', b'{"id": "a", "duration": 9}', b"[" * 5000],
)  # fmt: skip
def test_texts_that_nobody_wrote_are_one_line(tmp_path, blob):
    """Only who computes the sum gets so far; the utterance is skipped with its shard named."""
    folder = tmp_path / "s"
    write_shar(utterances(1), folder)
    (index,) = folder_corpus([folder]).shards
    row = np.array(index.rows)
    row["blob_size"] = len(blob)
    header = {**index.header, "blob": len(blob)}
    index.path.write_bytes(json.dumps(header).encode() + b"\n" + row.tobytes() + blob)
    change_header(index.path, lambda h: h)
    assert index.is_fresh()
    corpus = folder_corpus([folder])
    with pytest.raises(ShardError, match=r"cuts\.000000\.index is damaged"):
        corpus.utterance(0)
    from couloir.data.reading import AudioReader

    utterance, error = AudioReader(corpus).read(0)
    assert isinstance(error, UserError) and utterance.id.startswith("utterance 0 of ")


def _open(folder, barrier, results):
    barrier.wait()
    results.put([row[0].id for row in rows_of(folder)])


def test_processes_that_index_one_folder_at_once_agree(tmp_path):
    folder = tmp_path / "s"
    write_shar(utterances(40), folder, shard_size=2)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open, args=(folder, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [[f"u{i}" for i in range(40)]] * 3 and [p.exitcode for p in processes] == [0, 0, 0]
    assert len(list((folder / INDEX_FOLDER).iterdir())) == 20  # nothing half-written is left


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_an_index_folder_that_leads_elsewhere_is_not_used(tmp_path, monkeypatch, caplog, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, outside = tmp_path / "s", tmp_path / "outside"
    write_shar(utterances(4), folder)
    outside.mkdir()
    if kind == "file":
        (folder / INDEX_FOLDER).write_text("x")
    else:
        (folder / INDEX_FOLDER).symlink_to(outside if kind == "link" else tmp_path / "nothing")
    assert len(rows_of(folder)) == 4
    assert not list(outside.iterdir()) and not (tmp_path / "nothing").exists()
    assert "is not used" in caplog.text and len(list((tmp_path / "cache").rglob("*.index"))) == 1


def test_a_link_in_a_folder_for_indexes_is_refused(tmp_path):
    folder, indexes = tmp_path / "s", tmp_path / "indexes"
    write_shar(utterances(4), folder)
    rows_of(folder, index_dir=str(indexes))
    (made,) = indexes.iterdir()
    shutil.rmtree(made)
    made.symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"must be a folder, but is a link"):
        rows_of(folder, index_dir=str(indexes))


def test_a_report_of_what_was_left_out_goes_when_the_manifest_is_repaired(tmp_path):
    folder = tmp_path / "s"
    write_shar(utterances(4), folder)
    path = folder / "cuts.000000.jsonl.gz"
    good = path.read_bytes()
    path.write_bytes(good + gzip.compress(b"not JSON\n"))
    (index,) = folder_corpus([folder]).shards
    assert index.left_out.total == 1 and index.left_out_path.read_text() == "line 5: the line is not JSON\n"
    path.write_bytes(good)
    (index,) = folder_corpus([folder]).shards
    assert not index.left_out and not index.left_out_path.exists()


def test_files_that_are_no_files(tmp_path):
    folder = tmp_path / "s"
    write_shar(utterances(8), folder, shard_size=2)
    for number, make in enumerate((os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to("/nothing"))):
        for name in (f"cuts.{number:06d}.jsonl.gz", f"recording.{number:06d}.tar"):
            if number == 1 or name.startswith("cuts"):
                (folder / name).unlink()
                make(folder / name)
    corpus = folder_corpus([folder])
    assert [corpus.utterance(i).id for i in range(len(corpus))] == ["u6", "u7"] and len(corpus.problems) == 3


def test_a_link_to_a_shard_is_followed(tmp_path):
    """The hub's cache keeps its files so."""
    write_shar(utterances(2), tmp_path / "blobs")
    (tmp_path / "s").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "s" / path.name).symlink_to(path)
    assert [row[0].id for row in rows_of(tmp_path / "s")] == ["u0", "u1"]


def bomb(path, pieces, line):
    with gzip.open(path, "wb", compresslevel=9) as out:
        for _ in range(pieces):
            out.write(line)


@pytest.mark.parametrize("line", [b"a" * (1 << 20), b'{"id": "x"}\n' * 8000, b"[" * (1 << 20)],
                         ids=["one_line", "many_lines", "brackets"])  # fmt: skip
def test_a_gzip_bomb_is_given_up_early(tmp_path, line, monkeypatch):
    monkeypatch.setattr(limits, "EXPANSION_SLACK_BYTES", 1 << 16)
    path = tmp_path / "cuts.000000.jsonl.gz"
    bomb(path, 20, line)
    read = 0
    with pytest.raises(ShardError, match=r"expands to more than 200 times its size|line is longer than"):
        for _, found in manifest_lines(path):
            read += len(found or b"")
    assert read <= limits.EXPANSION_SLACK_BYTES + limits.MAX_EXPANSION * path.stat().st_size


@pytest.mark.parametrize(
    ("line", "words"), [(b"\n", "lines are blank"), (b"[]\n", "lines are left out, the first as line 1:")]
)
def test_of_lines_without_cuts_a_few_are_enough(tmp_path, line, words, monkeypatch):
    monkeypatch.setattr(limits, "MAX_LINES_LEFT_OUT", 1000)
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "cuts.000000.jsonl").write_bytes(line * 1001)
    with pytest.raises(UserError, match=words):
        folder_corpus([folder])


def test_manifests_that_repeat_themselves_are_no_bombs(tmp_path):
    path = tmp_path / "cuts.000000.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps({"id": "x", "text": "a b c"}) + "\n").encode() * 100_000))
    assert sum(1 for _ in manifest_lines(path)) == 100_000


def test_a_long_line_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_MANIFEST_LINE_BYTES", 1000)
    path = tmp_path / "cuts.jsonl"
    path.write_bytes(b"a" * 1000 + b"\n" + b"b" * 60_000 + b"\nlast\n")
    assert list(manifest_lines(path)) == [(1, None), (2, None), (3, b"last\n")]
    with open(path, "ab") as out:
        out.truncate(1 << 40)  # a hole: no byte is stored
    with pytest.raises(ShardError, match="a line is longer than 64000 bytes"):
        list(manifest_lines(path))


def member(name, size, kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def test_members_that_are_no_recordings_are_passed_over(tmp_path):
    path = tmp_path / "recording.000000.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member("a.flac", 4), io.BytesIO(b"fLaC"))
        tar.addfile(member("b.flac", 0, tarfile.SYMTYPE, linkname="/etc/passwd"))
        tar.addfile(member("c.flac", 0, tarfile.LNKTYPE, linkname="a.flac"))
        tar.addfile(member("d.flac", 0, tarfile.DIRTYPE))
        tar.addfile(member("e.flac", 0, tarfile.FIFOTYPE))
        tar.addfile(member("f.flac", 0, tarfile.CHRTYPE))
        tar.addfile(member("a.json", 2), io.BytesIO(b"{}"))
        tar.addfile(member("a.b.flac", 4), io.BytesIO(b"1234"))
        tar.addfile(member("ɑ" * 200 + ".flac", 4), io.BytesIO(b"5678"))
    found = tar_members(path)
    assert set(found) == {"a", "a.b", "ɑ" * 200}
    content = path.read_bytes()
    assert [content[o : o + s] for o, s in found.values()] == [b"fLaC", b"1234", b"5678"]


def sparse(path, kind):
    """GNU tar's two ways to say that a member of a terabyte holds four bytes."""
    data = b"5678".ljust(512, b"\0")
    if kind == "old":
        info = member("a.flac", 4, tarfile.GNUTYPE_SPARSE)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (0, 4)
        header[483:495] = b"%011o\0" % (1 << 32)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        first = bytes(header) + data
    else:
        records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
        info = member("a.flac", 1024)
        info.pax_headers = {**records, "GNU.sparse.name": "a.flac"}
        first = info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n4\n".ljust(512, b"\0") + data
    rest = member("b.flac", 4).tobuf() + b"fLaC".ljust(512, b"\0") + bytes(1024)
    path.write_bytes(first + rest)


@pytest.mark.parametrize("kind", ["old", "pax"])
def test_sparse_members_are_passed_over(tmp_path, kind):
    path = tmp_path / "recording.000000.tar"
    sparse(path, kind)
    found = tar_members(path)
    assert set(found) == {"b"} and path.read_bytes()[found["b"][0] :][:4] == b"fLaC"


def with_size(size, kind=tarfile.REGTYPE):
    """A header that claims a size, in base 256 where octal digits do not do."""
    header = bytearray(member("a.flac", 0, kind).tobuf(tarfile.GNU_FORMAT))
    if 0 <= size < 1 << 33:
        header[124:136] = b"%011o\0" % size
    else:
        header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size & ((1 << 88) - 1)).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE],
                         ids=["regular", "pax", "long_name", "global_pax"])  # fmt: skip
@pytest.mark.parametrize("size", [-512, -1, -(1 << 80), 1 << 34, 1 << 63, 1 << 80, (1 << 33) - 1])
def test_sizes_that_cannot_be_are_one_line(tmp_path, kind, size):
    path = tmp_path / "recording.000000.tar"
    path.write_bytes(with_size(size, kind) + b"fLaC".ljust(512, b"\0") + with_size(4) + bytes(1536))
    with open(path, "ab") as out:
        out.truncate(1 << 34)  # what is claimed may seem to be there
    try:
        found = tar_members(path)
    except ShardError as error:
        assert "is truncated or damaged" in str(error)
    else:
        assert all(offset >= 0 and length >= 0 and offset + length <= 1 << 34 for offset, length in found.values())


def test_a_chain_of_long_names_is_one_line(tmp_path):
    path = tmp_path / "recording.000000.tar"
    path.write_bytes((with_size(4, tarfile.GNUTYPE_LONGNAME) + b"abc\0".ljust(512, b"\0")) * 5000 + bytes(1024))
    with pytest.raises(ShardError, match="is truncated or damaged"):
        tar_members(path)


def test_a_huge_member_is_that_cuts_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_MEMBER_BYTES", 20_000)
    folder = tmp_path / "s"
    folder.mkdir()
    lines = [json.dumps({"id": name, "start": 0, "duration": 0.5, "supervisions": []}) for name in ("a", "b")]
    (folder / "cuts.000000.jsonl").write_text("\n".join(lines))
    content = encoded(noise(8000), kind="WAV")
    tar_of(folder / "recording.000000.tar", [("a.wav", content), ("b.wav", content + bytes(10_000))])
    corpus = folder_corpus([folder])
    assert (
        len(corpus) == 1 and "1 x its audio in the tar is larger than 20000 bytes (line 2, 'b')" in corpus.problems[0]
    )


def test_a_stamp_is_of_regular_files(tmp_path):
    os.mkfifo(tmp_path / "cuts.jsonl")
    files = ShardFiles(tmp_path / "cuts.jsonl", None)
    with pytest.raises(ShardError, match="is no regular file"):
        files.stamp()
    assert not ShardIndex(files, tmp_path / "x.index").is_fresh()
