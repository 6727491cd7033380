"""Every line of a manifest is judged alone: a bad one is left out by name, and the others keep their own audio."""

import gzip
import json
import logging
import os
import socket

import numpy as np
import pytest
import soundfile
from shar_tools import encoded, module, noise, tar_of

from couloir import limits
from couloir.data.cuts import LeftOut, parse_cut, parse_line, shown
from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader
from couloir.errors import UserError

TONES = {"first": 0.1, "last": 0.3}
"""Ids of the good cuts and the level of their audio: each must keep its own."""


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


def cut(name="x", source=None, **changes):
    """A cut of a second, of a file or of a tar."""
    recording = {"id": name, "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
    recording["sources"] = [source or {"type": "shar", "channels": [0], "source": ""}]
    supervision = {"id": name, "recording_id": name, "start": 0, "duration": 1.0, "text": "pa"}
    made = {"id": name, "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut", "recording": recording}
    return {**made, "supervisions": [supervision], **changes}


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


def of_recording(**changes):
    return cut(recording={**cut()["recording"], **changes})


def of_supervision(**changes):
    return cut(supervisions=[{**cut()["supervisions"][0], **changes}])


def level(name):
    return np.full(16000, TONES.get(name, 0.2), np.float32)


def shard(folder, line, names=("first", "x", "last")):
    """A good line, a line of any bytes, a good line; the tar has audio for all three."""
    folder.mkdir(parents=True)
    lines = [json.dumps(cut("first")).encode(), line, json.dumps(cut("last")).encode()]
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    tar_of(folder / "recording.000000.tar", [(f"{name}.flac", encoded(level(name))) for name in names])
    return folder


def read_all(folder):
    """Id -> level of the audio, or the error; and what was left out."""
    corpus = folder_corpus([folder])
    reader, found = AudioReader(corpus), {}
    for number in range(len(corpus)):
        utterance, samples = reader.read(number)
        found[utterance.id] = samples if isinstance(samples, UserError) else round(float(samples.mean()), 3)
    reader.close()
    return found, " ".join(corpus.problems)


NUMBERS = {
    "nan": float("nan"), "inf": float("inf"), "minus_inf": float("-inf"), "text": "abc", "numeric_text": "1.0",
    "negative": -1, "null": None, "true": True, "list": [1], "object": {}, "huge": 10**400, "large": 1e300, "empty": "",
}  # fmt: skip
BAD_NUMBERS = {
    f"{name}_{kind}": cut(**{name: value}) for name in ("start", "duration") for kind, value in NUMBERS.items()
}
BAD_NUMBERS |= {
    f"{name}_{kind}": of_recording(**{name: value})
    for name in ("sampling_rate", "num_samples")
    for kind, value in NUMBERS.items()
}
BAD_NUMBERS |= {f"channel_{kind}": cut(channel=value) for kind, value in NUMBERS.items() if kind != "list"}
BAD_CUTS = BAD_NUMBERS | {
    "channel_70000": cut(channel=70000),
    "channel_fraction": cut(channel=0.5),
    "channels_none": cut(channel=[]),
    "channels_of_text": cut(channel=["0"]),
    "channels_nested": cut(channel=[[0]]),
    "start_missing": without(cut(), "start"),
    "duration_missing": without(cut(), "duration"),
    "id_missing": without(cut(), "id"),
    "id_null": cut(id=None),
    "id_number": cut(id=5),
    "id_list": cut(id=["x"]),
    "id_empty": cut(id=""),
    "id_twice": cut(id="first"),
    "id_surrogate": cut(id="\ud800"),
    "id_nul": cut(id="x\0"),
    "id_line_break": cut(id="x\ny"),
    "id_separator": cut(id="x\u2028y"),
    "id_escape": cut(id="\x1b[2Jx"),
    "id_long": cut(id="x" * (limits.MAX_ID_CHARS + 1)),
    "type_mixed": cut(type="MixedCut"),
    "type_padding": cut(type="PaddingCut"),
    "type_imported": cut(type="os.system"),
    "type_number": cut(type=5),
    "type_list": cut(type=["MonoCut"]),
    "type_null": cut(type=None),
    "recording_text": cut(recording="q"),
    "recording_list": cut(recording=[1]),
    "supervisions_object": cut(supervisions={}),
    "supervisions_text": cut(supervisions="pa"),
    "supervisions_of_texts": cut(supervisions=["pa"]),
    "supervisions_of_null": cut(supervisions=[None]),
    "supervision_without_start": cut(supervisions=[{"text": "pa"}]),
    "supervision_start_nan": of_supervision(start=float("nan")),
    "text_number": of_supervision(text=5),
    "text_list": of_supervision(text=["pa"]),
    "text_surrogate": of_supervision(text="\udcff"),
    "text_true": of_supervision(text=True),
    "language_list": of_supervision(language=["ru"]),
    "speaker_object": of_supervision(speaker={}),
    "alignment_list": of_supervision(alignment=[1]),
    "alignment_of_numbers": of_supervision(alignment={"phone": [5]}),
    "alignment_short": of_supervision(alignment={"phone": [["p", 0.0]]}),
    "alignment_nan": of_supervision(alignment={"phone": [["p", float("nan"), 0.1]]}),
    "alignment_symbol": of_supervision(alignment={"phone": [[1, 0.0, 0.1]]}),
    "custom_list": cut(custom=[1]),
    "custom_text": cut(custom="x"),
    "custom_of_supervision": of_supervision(custom=[1]),
    "custom_surrogate": cut(custom={"a": "\ud800"}),
    "custom_deep": cut(custom={"a": json.loads("[" * 50 + "]" * 50)}),
}
BAD_LINES = {
    "not_json": b'{"id": "x"',
    "text": b"once upon a time",
    "list": b"[1]",
    "null": b"null",
    "number": b"5",
    "nothing_in_it": b"{}",
    "deep_list": b"[" * 100_000,
    "deep_object": b'{"a":' * 100_000,
    "deep_custom": json.dumps(cut(custom={"a": 0})).encode().replace(b'"a": 0', b'"a": ' + b"[" * 800 + b"]" * 800),
    "digits": b"9" * 5000,
    "nul_bytes": b"\0" * 100,
    "latin_1": json.dumps(cut(), ensure_ascii=False).encode().replace(b"pa", b"p\xe4"),
    "utf_16": json.dumps(cut()).encode("utf-16"),
    "surrogate_bytes": json.dumps(cut()).encode().replace(b"pa", b"\xed\xa0\x80"),
    "binary": bytes(range(1, 256)).replace(b"\n", b""),
    "two_on_a_line": json.dumps(cut()).encode() * 2,
}


@pytest.mark.parametrize("line", [*(json.dumps(c).encode() for c in BAD_CUTS.values()), *BAD_LINES.values()],
                         ids=[*BAD_CUTS, *BAD_LINES])  # fmt: skip
def test_a_bad_line_is_left_out_by_name_and_the_others_keep_their_audio(tmp_path, line):
    folder = shard(tmp_path / "s", line)
    found, problems = read_all(folder)
    assert found == TONES
    assert "cuts.000000.jsonl.gz: 1 of 3 cuts" in problems and "(line 2" in problems and "\n" not in problems
    (report,) = folder.rglob("*.left_out.txt")
    assert (
        report.read_text(encoding="utf-8").startswith("line 2") and report.read_text(encoding="utf-8").count("\n") == 1
    )


GOOD_CUTS = {
    "no_supervisions": (without(cut(), "supervisions"), ""),
    "supervisions_null": (cut(supervisions=None), ""),
    "supervisions_empty": (cut(supervisions=[]), ""),
    "no_text": (cut(supervisions=[without(cut()["supervisions"][0], "text")]), ""),
    "text_null": (of_supervision(text=None), ""),
    "text_empty": (of_supervision(text=""), ""),
    "two_supervisions": (cut(supervisions=[{"start": 0.5, "text": "ta"}, {"start": 0, "text": "pa"}]), "pa ta"),
    "no_type": (without(cut(), "type"), "pa"),
    "no_channel": (without(cut(), "channel"), "pa"),
    "no_recording": (without(cut(), "recording"), "pa"),
    "command_beside_a_tar": (of_recording(sources=[{"type": "command", "source": "exit"}]), "pa"),
    "alignment_null": (of_supervision(alignment=None), "pa"),
    "phones_null": (of_supervision(alignment={"phone": None}), "pa"),
    "custom_null": (cut(custom=None), "pa"),
    "custom_names": (cut(custom={"id": 3, "text": "evil", "duration": 9}), "pa"),
    "whole_numbers": (cut(start=0, duration=1), "pa"),
    "unknown_fields": (cut(os="system", __class__="x"), "pa"),
}


@pytest.mark.parametrize(("made", "text"), GOOD_CUTS.values(), ids=GOOD_CUTS)
def test_what_is_only_missing_is_read(tmp_path, made, text):
    folder = shard(tmp_path / "s", json.dumps(made).encode())
    assert read_all(folder) == ({**TONES, "x": 0.2}, "")
    assert folder_corpus([folder]).utterance(1).text == text and not list(folder.rglob("*.left_out.txt"))


def test_names_of_speakers_may_be_numbers():
    assert parse_cut(of_supervision(speaker=12, language=None), True).speaker == "12"


ENDLESS = {
    "fifo": lambda folder: os.mkfifo(folder / "a.wav") or folder / "a.wav",
    "folder": lambda folder: folder,
    "dev_zero": lambda folder: "/dev/zero",
    "dev_random": lambda folder: "/dev/urandom",
    "link_to_a_device": lambda folder: (folder / "l.wav").symlink_to("/dev/zero") or folder / "l.wav",
    "broken_link": lambda folder: (folder / "l.wav").symlink_to(folder / "nothing") or folder / "l.wav",
    "link_in_a_ring": lambda folder: (folder / "l.wav").symlink_to(folder / "l.wav") or folder / "l.wav",
    "socket": lambda folder: socket.socket(socket.AF_UNIX).bind(str(folder / "s.wav")) or folder / "s.wav",
    "other_text": lambda folder: "/etc/passwd",
    "missing": lambda folder: folder / "nothing.wav",
    "long_name": lambda folder: "x" * 5000,
    "pipe": lambda folder: f"touch {folder}/ran |",
    "address": lambda folder: "http://127.0.0.1:9/x.wav",
    "file_address": lambda folder: f"file://{folder}/first.wav",
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_a_source_that_is_no_recording_is_one_error_and_nothing_is_waited_for(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    lines = []
    for name in TONES:
        soundfile.write(f"{name}.wav", level(name), 16000, subtype="FLOAT")
        lines.append(cut(name, {"type": "file", "channels": [0], "source": f"{name}.wav"}))
    lines.insert(1, cut("x", {"type": "file", "channels": [0], "source": str(make(tmp_path))}))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, problems = read_all(tmp_path / "s")
    error = found.pop("x")
    assert found == TONES and isinstance(error, UserError) and not problems
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "sources",
    [
        [{"type": "command", "channels": [0], "source": "touch ran; cat first.wav"}],
        [{"type": "url", "channels": [0], "source": "http://127.0.0.1:9/x.wav"}],
        [{"type": "url", "channels": [0], "source": "file:///etc/passwd"}],
        [{"type": "memory", "channels": [0], "source": "UklGRg=="}],
        [{"type": "ais", "channels": [0], "source": "ais://x"}],
        [{"type": "Command", "channels": [0], "source": "touch ran"}],
        [{"type": ["command"], "channels": [0], "source": "touch ran"}],
        [{"type": "file", "source": "first.wav"}, {"type": "command", "source": "touch ran"}],
        [{"type": "file", "channels": [0]}],
        [{"type": "file", "source": 5}],
        [{"type": "file", "source": ""}],
        [{"type": "file", "source": "a\0b.wav"}],
        [{"source": "first.wav"}],
        ["first.wav"],
        [None],
        [],
        {},
        "first.wav",
    ],
)
def test_nothing_but_one_file_is_a_recording(tmp_path, monkeypatch, sources):
    monkeypatch.chdir(tmp_path)
    soundfile.write("first.wav", level("first"), 16000, subtype="FLOAT")
    lines = [cut("first", {"type": "file", "channels": [0], "source": "first.wav"}), of_recording(sources=sources)]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, problems = read_all(tmp_path / "s")
    assert found == {"first": 0.1} and "1 of 2 cuts" in problems and not (tmp_path / "ran").exists()


def test_channels_of_a_file(tmp_path):
    stereo = np.stack([level("first"), level("last")], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 16000, subtype="FLOAT")
    source = {"type": "file", "channels": [0, 1], "source": str(tmp_path / "s.wav")}
    made = {
        "left": {"channel": 0},
        "right": {"channel": 1},
        "one_of_a_list": {"channel": [1], "type": "MultiCut"},
        "both": {"channel": [0, 1], "type": "MultiCut"},
    }
    lines = [cut(name, source, **more) for name, more in made.items()]
    source = {**source, "channels": [0, 1, 2]}
    lines.append(cut("some", source, channel=[0, 2], type="MultiCut"))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, problems = read_all(tmp_path / "s")
    assert found == {"left": 0.1, "right": 0.3, "one_of_a_list": 0.3, "both": 0.2}
    assert "some of a recording's channels" in problems and "(line 5, 'some')" in problems


def test_a_late_start_is_kept_to_the_sample(tmp_path):
    """In single precision an hour into a recording is only known to a quarter of a millisecond."""
    samples = np.zeros(16000, np.float32)
    made = parse_cut(cut(start=36000.0 + 1 / 16000), True)
    assert round(made.start * 16000) == 36000 * 16000 + 1
    folder = shard(tmp_path / "s", json.dumps(cut(start=36000.0 + 1 / 16000)).encode())
    corpus = folder_corpus([folder])
    assert round(float(corpus.shards[0].rows[1]["start"]) * 16000) == 36000 * 16000 + 1
    assert not samples.any()


@pytest.mark.parametrize("size", [limits.MAX_MANIFEST_LINE_BYTES + 1, 100 << 20], ids=["16_mib", "100_mib"])
def test_a_line_of_any_length_is_passed_over(tmp_path, size):
    folder = tmp_path / "s"
    shard(folder, b"x")
    good = [json.dumps(cut(name)).encode() for name in TONES]
    with open(folder / "cuts.000000.jsonl", "wb") as out:
        out.write(good[0] + b'\n{"id": "x", "text": "')
        for _ in range(size >> 20):
            out.write(b"p" * (1 << 20))
        out.write(b'"}\n' + good[1] + b"\n")
    (folder / "cuts.000000.jsonl.gz").unlink()
    found, problems = read_all(folder)
    assert found == TONES and "1 x the line is longer than 16777216 bytes (line 2)" in problems


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (("last", "x", "first"), {**TONES, "x": 0.2}),  # another order
        (("first", "other", "last"), TONES),  # another name
        (("last",), {"last": 0.3}),
        (("first", "first", "x", "last"), {**TONES, "x": 0.2}),
        (("./first", "./x", "./last"), {**TONES, "x": 0.2}),  # packed as `tar cf x.tar .` does
        (("audio/first", "x", "last"), {"x": 0.2, "last": 0.3}),
    ],
)
def test_audio_is_found_by_name_wherever_it_is_in_the_tar(tmp_path, members, expected):
    folder = shard(tmp_path / "s", json.dumps(cut()).encode(), ())
    tar_of(
        folder / "recording.000000.tar",
        [(f"{name}.flac", encoded(level(name.rpartition("/")[2]))) for name in members],
    )
    found, problems = read_all(folder)
    assert found == expected
    missing = 3 - len(expected)
    assert (f"{missing} x no audio in the tar" in problems) == bool(missing)


def test_of_two_lines_and_members_of_one_id_the_first_are_taken(tmp_path):
    folder = shard(tmp_path / "s", json.dumps(cut("first", start=0.5, duration=0.5)).encode(), ())
    loud = encoded(np.full(16000, 0.9, np.float32))
    entries = [("first.flac", encoded(level("first"))), ("first.flac", loud), ("last.flac", encoded(level("last")))]
    tar_of(folder / "recording.000000.tar", entries)
    found, problems = read_all(folder)
    assert found == TONES and "1 x its id is that of a line before (line 2, 'first')" in problems


def test_a_corrupt_member_is_that_cuts_error(tmp_path):
    folder = shard(tmp_path / "s", json.dumps(cut()).encode(), ())
    entries = [(f"{n}.flac", encoded(level(n)) if n in TONES else b"\0" * 999) for n in ("first", "x", "last")]
    tar_of(folder / "recording.000000.tar", entries)
    found, _ = read_all(folder)
    assert isinstance(found.pop("x"), UserError) and found == TONES


def many(folder, good, bad, split=10):
    """Shards of ten lines with bad ones among them, and audio for all."""
    folder.mkdir(parents=True)
    lines = [(f"g{i}", json.dumps(cut(f"g{i}", duration=0.5)).encode()) for i in range(good)]
    wrong = (b"not JSON", json.dumps(cut(duration=float("nan"))).encode(), json.dumps(cut("", start=1)).encode())
    for i in range(bad):
        lines.insert((7 * i + 3) % len(lines), (f"b{i}", wrong[i % 3]))
    for number, first in enumerate(range(0, len(lines), split)):
        part = lines[first : first + split]
        content = b"\n".join(line for _, line in part) + b"\n"
        (folder / f"cuts.{number:06d}.jsonl.gz").write_bytes(gzip.compress(content))
        tar = [(f"{name}.flac", encoded(noise(8000, int(name[1:])))) for name, _ in part]
        tar_of(folder / f"recording.{number:06d}.tar", tar)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_first_k_and_the_rest_are_the_epoch_with_bad_lines_on_two_ranks(tmp_path, workers):
    folder = many(tmp_path / "s", 60, 13)
    options = {"num_workers": workers, "valid_share": 0.0, "max_skipped_share": 0.5}
    seen = []
    for rank in (0, 1):
        data = module(folder, **options)
        whole = [(b.index, b.ids, b.audio.numpy().tobytes()) for b in data.train_loader(2, rank, 2)]
        again = module(folder, **options)
        k = len(whole) // 2
        rest = [(b.index, b.ids, b.audio.numpy().tobytes()) for b in again.train_loader(2, rank, 2, start_batch=k)]
        assert k > 0 and whole[k:] == rest and data.plan_fingerprint(2, 2) == again.plan_fingerprint(2, 2)
        seen += [name for _, ids, _ in whole for name in ids]
    assert sorted(seen) == sorted(f"g{i}" for i in range(60))


def test_the_order_is_that_of_the_good_lines_alone(tmp_path):
    with_bad, without_bad = many(tmp_path / "a", 60, 13, 100), many(tmp_path / "b", 60, 0, 100)
    orders = [
        [b.ids for b in module(folder, valid_share=0.0, max_skipped_share=0.5).train_loader(3)]
        for folder in (with_bad, without_bad)
    ]
    assert orders[0] == orders[1]


def test_above_the_stated_share_the_run_stops_and_says_so(tmp_path):
    folder = many(tmp_path / "s", 40, 12)
    with pytest.raises(UserError, match=r"12 of 52 cuts are unusable, more than --max-skipped-share 0\.2; the f"):
        module(folder, valid_share=0.0).train_loader(1)
    assert len(module(folder, valid_share=0.0, max_skipped_share=0.25).train_loader(1))
    few = many(tmp_path / "few", 3, 9)  # fewer than ten say nothing
    assert len(module(few, valid_share=0.0).train_loader(1))


def test_too_many_damaged_shards_stop_the_run(tmp_path):
    folder = many(tmp_path / "s", 150, 0)
    for number in range(10):
        (folder / f"recording.{number:06d}.tar").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"10 of 15 shards are unusable"):
        module(folder, valid_share=0.0).train_loader(1)


def test_the_log_names_the_first_of_each_reason_and_a_file_names_all(tmp_path, caplog):
    folder = many(tmp_path / "s", 60, 13, 100)
    module(folder, valid_share=0.0, max_skipped_share=0.5).train_loader(1)
    (line,) = [r.getMessage() for r in caplog.records if "left out: " in r.getMessage()]
    assert "13 of 73 cuts, all named in" in line and "5 x the line is not JSON (line 5; line 16; line 28; ...)" in line
    assert "4 x `duration` must be a number from 0 to 1e+06, but is NaN (line 4, 'x'; " in line
    (report,) = folder.rglob("*.left_out.txt")
    assert len(report.read_text().splitlines()) == 13


def test_many_reasons_are_counted_together(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    lines = [cut("ok"), *(cut(f"u{i}", duration=-i) for i in range(1, 40))]
    (folder / "cuts.000000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tar_of(folder / "recording.000000.tar", [("ok.flac", encoded(level("ok")))])
    found, problems = read_all(folder)
    assert found == {"ok": 0.2} and "39 of 40 cuts" in problems and "19 x other reasons" in problems


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (float("nan"), "NaN"), ("a\x1b\n", r"'a\x1b\n'"), ([1], "a list"),
        ({}, "an object"), ("x" * 99, "'" + "x" * 59 + "..."), (10**100, "1" + "0" * 59 + "..."), (1.5, "1.5"),
    ],
)  # fmt: skip
def test_values_are_shown_short_and_printable(value, text):
    assert shown(value) == text


def test_a_line_that_is_a_cut_is_taken_as_it_is():
    made = parse_cut(parse_line(json.dumps(cut(custom={"a": [1, [2]], "array": {"b": 1}})).encode()), True)
    assert (made.id, made.start, made.duration, made.channel, made.text) == ("x", 0.0, 1.0, 0, "pa")
    assert made.custom == {"a": [1, [2]]} and json.loads(made.blob())["custom"] == {"a": [1, [2]]}
    with pytest.raises(LeftOut):
        parse_line(b"[]")
