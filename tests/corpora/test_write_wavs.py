"""Utterances of a Shar folder as files: who made the folder chose the ids, and none leads anywhere else."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from programs import assert_one_line, run_program

IDS = ["../../../ESCAPED", "{}/ABSOLUTE", "a/b", "plain", "CON", "x" * 300, "A", "a", "..", "-rf", "$(id)", "a b"]


def shar(folder, ids):
    """A Shar folder whose utterances have these ids, and 0.1 s of a constant each, by which they are known again."""
    folder.mkdir(parents=True)
    with (
        tarfile.open(folder / "recording.000000.tar", "w") as tar,
        gzip.open(folder / "cuts.000000.jsonl.gz", "wt") as cuts,
    ):
        for number, id in enumerate(ids):
            flac = io.BytesIO()
            soundfile.write(flac, np.full(1600, (number + 1) / 64), 16000, format="FLAC")
            info = tarfile.TarInfo(f"{id}.flac")
            info.size = len(flac.getvalue())
            tar.addfile(info, io.BytesIO(flac.getvalue()))
            span = {"id": id, "start": 0, "duration": 0.1}
            recording = {"id": id, "sampling_rate": 16000, "num_samples": 1600, "duration": 0.1}
            recording["sources"] = [{"type": "shar", "channels": [0], "source": ""}]
            supervision = {**span, "recording_id": id, "text": f"text {number}"}
            cut = {**span, "channel": 0, "type": "MonoCut", "recording": recording, "supervisions": [supervision]}
            cuts.write(json.dumps(cut) + "\n")
    return folder


def test_the_worst_ids_stay_in_the_folder_and_none_is_lost(tmp_path):
    ids = [id.format(tmp_path) for id in IDS]
    source, out = shar(tmp_path / "in/deep/shar", ids), tmp_path / "in/deep/out"
    before = set(tmp_path.rglob("*"))
    done = run_program(tmp_path, "local/write_wavs.py", [source, out, "--count", str(len(ids))])
    made = [
        path for path in tmp_path.rglob("*") if path.is_file() and path not in before and "cuts.index" not in str(path)
    ]
    assert {path.parent for path in made} == {out} and len(made) == 2 * len(ids)
    levels = {round(float(soundfile.read(path)[0][0]) * 64) - 1: path for path in out.glob("*.wav")}
    assert {n: path.with_suffix(".ipa").read_text() for n, path in levels.items()} == {
        n: f"text {n}\n" for n in range(len(ids))
    }
    assert levels[3].name == "plain.wav" and levels[11].name == "a b.wav"
    assert len(done.stdout.splitlines()) == len(ids)


@pytest.mark.parametrize("suffix", ["wav", "ipa"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path, suffix, there):
    source, out, elsewhere = shar(tmp_path / "shar", ["a"]), tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    if there:
        elsewhere.write_text("kept")
    (out / f"a.{suffix}").symlink_to(elsewhere)
    done = run_program(tmp_path, "local/write_wavs.py", [source, out], check=False)
    assert_one_line(done, "must be inside", "link")
    assert elsewhere.read_text() == "kept" if there else not elsewhere.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_program(
        tmp_path, "local/write_wavs.py", [shar(tmp_path / "shar", ["a"]), tmp_path / "file/out"], check=False
    )
    assert_one_line(done, "cannot be written")
