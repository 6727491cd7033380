"""Utterances inside their recordings: clamped by half a second at most, judged by what is there, or left out."""

import dataclasses
import json
import os

import pytest
from user_files import grid, hum, put

from couloir.data.corpora import stages
from couloir.data.corpora.base import Phone, Utterance
from couloir.data.corpora.config import FilterConfig
from couloir.data.corpora.manifest import dropped_path, read_dropped, read_manifest
from couloir.data.corpora.times import inside, seconds, span
from couloir.data.corpora.user import UserData
from couloir.errors import UserError


def utterance(start=None, duration=None, phones=None):
    return Utterance("u", "u.wav", "x", "en", "", start=start, duration=duration, phones=phones)


@pytest.mark.parametrize(
    ("start", "duration", "right"),
    [
        (None, None, (None, 10.0)), (0.0, 10.0, (0.0, 10.0)), (-0.2, 2.2, (0.0, 2.0)), (-0.5, 2.1, (0.0, 1.6)),
        (9.0, 1.5, (9.0, 1.0)), (9.0, None, (9.0, 1.0)), (-0.3, None, (0.0, 10.0)), (-0.5, 11.0, (0.0, 10.0)),
        (2.5, 1.25, (2.5, 1.25)), (9.99, 0.3, (9.99, 0.01)),
    ],
)  # fmt: skip
def test_half_a_second_beyond_is_clamped(start, duration, right):
    found = inside(utterance(start, duration), 10.0)
    assert found.start == right[0] and found.duration == pytest.approx(right[1], abs=1e-4)


@pytest.mark.parametrize(
    ("start", "duration"),
    [(-0.6, 2.0), (9.0, 1.6), (9.5, 15.0), (10.0, 1.0), (10.2, None), (-3.0, 2.0), (-0.4, 0.3), (0.0, 1e300),
     (-1e300, 1e300)],
)  # fmt: skip
def test_what_is_further_outside_is_refused(start, duration):
    with pytest.raises(UserError, match="of a recording of 10 s"):
        inside(utterance(start, duration), 10.0)


@pytest.mark.parametrize(
    ("end", "unit"), [(8000, "milliseconds"), (10000, "milliseconds"), (160000, "samples"), (441000, "samples")]
)
def test_the_unit_is_guessed_and_said(end, unit):
    with pytest.raises(UserError, match=f"are its times {unit}"):
        inside(utterance(0.0, float(end)), 10.0)


def test_phones_are_clamped_with_their_utterance():
    phones = (Phone("a", 0.0, 0.3), Phone("b", 0.3, 0.5), Phone("c", 2.0, 0.4))
    found = inside(utterance(-0.2, 2.4, phones), 2.0)
    assert found.phones == (Phone("a", 0.0, 0.1), Phone("b", 0.1, 0.5), Phone("c", 1.8, 0.2))
    for phone in (Phone("d", 2.1, 1.0), Phone("d", 5.0, 0.1), Phone("d", -1.0, 0.1), Phone("d", 0.5, -0.2)):
        with pytest.raises(UserError, match="phone d"):
            inside(utterance(None, None, (phone,)), 2.0)


def test_times_as_they_are_written():
    assert [seconds(text, "x") for text in ("0", "1.25", "-.5", "2.", "1e-2", "+3")] == [0, 1.25, -0.5, 2, 0.01, 3]
    assert (
        span(1.0, -1.0, "u") == (1.0, None)
        and span(1.0, None, "u") == (1.0, None)
        and span(0.5, 2.0, "u") == (0.5, 1.5)
    )


def prepared(tmp_path, path):
    stages.make_manifest(UserData(path, "sw"), tmp_path, tmp_path / "data", None)
    kept = {u.id.removeprefix("user_"): u for u in read_manifest(tmp_path / "data/manifests/user.jsonl.gz")}
    listed = {d.id.removeprefix("user_"): d for d in read_dropped(dropped_path(tmp_path / "data", "manifests", "user"))}
    return kept, listed


def test_segments_of_a_kaldi_folder(tmp_path):
    speech = tmp_path / "speech"
    hum(speech / "r.wav", 10)
    rows = {"a": "-0.2 2", "b": "9.5 24.5", "c": "8 10.4", "d": "4 -1", "e": "11 12", "f": "-0.7 1", "g": "0 10000"}
    put(speech / "wav.scp", "r r.wav\n")
    put(speech / "segments", "".join(f"{key} r {times}\n" for key, times in {**rows, "h": "1 2", "i": "2 3"}.items()))
    put(speech / "text", "".join(f"{key} pata kami\n" for key in "abcdefghi"))
    kept, listed = prepared(tmp_path, speech)
    assert {key: (u.start, u.duration) for key, u in kept.items()} == {
        "a": (0.0, 2.0), "c": (8.0, 2.0), "d": (4.0, 6.0), "h": (1.0, 1.0), "i": (2.0, 1.0)
    }  # fmt: skip
    assert {key: d.reason for key, d in listed.items()} == dict.fromkeys("befg", "outside its recording")
    assert "milliseconds" in listed["g"].detail


def test_the_rate_is_judged_by_what_is_there():
    clamped = inside(utterance(9.7, 0.8), 10.0)
    clamped = dataclasses.replace(clamped, ipa="pataka")
    filters = FilterConfig(min_seconds=0.1, max_phones_per_second=10)
    kept, dropped = stages.apply_filter([clamped], filters)
    assert (
        not kept and dropped[0].reason == "more than 10 phones per second"
    )  # 6 in 0.3 s; in 0.8 s they were plausible


def test_intervals_of_textgrids(tmp_path):
    speech = tmp_path / "speech"
    for name, rows in {"r": [(0, 1, "habari"), (1, 2.3, "ya"), (2.4, 4, "asubuhi")], "s": [(0, 2, "moja")]}.items():
        hum(speech / f"{name}.wav", 2)
        put(speech / f"{name}.TextGrid", grid([("utterances", rows)], 4))
    hum(speech / "t.wav", 2)
    put(speech / "t.TextGrid", grid([("phones", [(0, 1, "m"), (3, 4, "o")])], 4))
    kept, listed = prepared(tmp_path, speech)
    assert {key: u.duration for key, u in kept.items()} == {"r-0000000": 1.0, "r-0001000": 1.0, "s-0000000": 2.0}
    assert set(listed) == {"r-0002400", "t"} and "phone o" in listed["t"].detail


def test_a_table_with_times(tmp_path):
    hum(tmp_path / "r.wav", 3)
    put(tmp_path / "t.tsv", "path\ttext\tstart\tend\tid\nr.wav\tx\t0\t1\ta\nr.wav\tx\t2\t\tb\nr.wav\tx\t2\t9\tc\n")
    kept, listed = prepared(tmp_path, tmp_path / "t.tsv")
    assert {key: (u.start, u.duration) for key, u in kept.items()} == {"a": (0.0, 1.0), "b": (2.0, 1.0)}
    assert list(listed) == ["c"]


def test_mostly_wrong_times_stop_the_run(tmp_path):
    hum(tmp_path / "r.wav", 3)
    put(tmp_path / "t.tsv", "path\ttext\tstart\tend\nr.wav\tx\t0\t1000\nr.wav\tx\t1000\t2000\nr.wav\tx\t0\t1\n")
    with pytest.raises(UserError, match=r"2 of 3 utterances of user cannot be used: .*are its times milliseconds"):
        prepared(tmp_path, tmp_path / "t.tsv")


HOSTILE = [
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "pipe.wav", "folder.wav", "a\0b.wav", "a" * 5000, "", "nowhere.wav",
    "~nobody-of-this-name/x", "link.wav", "broken.wav", "../r.wav/x", "empty.wav", "t.tsv",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: ascii(path[:12]))
def test_a_row_that_names_no_recording_is_left_out(tmp_path, path):
    folder = tmp_path / "speech"
    for name in "abc":
        hum(folder / f"{name}.wav", 1)
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "link.wav").symlink_to("/dev/zero")
    (folder / "broken.wav").symlink_to("nowhere")
    put(folder / "empty.wav")
    put(folder / "t.tsv", f"id\tpath\ttext\nbad\t{path}\tx\n" + "".join(f"{name}\t{name}.wav\tx\n" for name in "abc"))
    kept, listed = prepared(tmp_path, folder / "t.tsv")
    assert list(kept) == ["a", "b", "c"] and list(listed) == ["bad"]
    assert len(json.dumps(listed["bad"].detail)) < 6000


def test_ids_become_names_and_none_is_lost(tmp_path):
    ids = ["a b", "a-b", "a/b", "../../x", "A-b", "é", "9" * 5000, "CON", "$x"]
    hum(tmp_path / "r.wav", 1)
    rows = "".join(f"{id}\tr.wav\t{number}\n" for number, id in enumerate(ids))
    kept, listed = prepared(tmp_path, put(tmp_path / "t.tsv", "id\tpath\ttext\n" + rows))
    assert not listed and sorted(u.text for u in kept.values()) == [str(n) for n in range(len(ids))]
    assert all("/" not in id and " " not in id and len(id.encode()) < 200 for id in kept)
