"""A training of two processes and a decoding over shards of which many lines are bad, against the good lines alone."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from programs import ROOT, run_process, run_program
from real_speech import TINY, losses, prepare

TRAIN = "zipformer_crctc/train.py"
FLAGS = (
    f"{TINY} --bpe-model data/lang/bpe.model --max-duration 8 --min-utterance-duration 0.3 --world-size 2 "
    "--log-interval 1 --average-period 2 --save-every-n 3 --num-workers 1 --tensorboard False --warmup-batches 2 "
    "--max-steps 6 --num-epochs 99 --final-decay 0"
)


def of_cut(**changes):
    return lambda cut: json.dumps({**cut, "id": "bad", **changes}).encode()


def of_supervision(**changes):
    return lambda cut: of_cut(supervisions=[{**cut["supervisions"][0], **changes}])(cut)


BAD = [
    of_cut(start=float("nan")), of_cut(duration="1.0"), of_cut(duration=-1), of_cut(channel=70000), of_cut(id=""),
    of_cut(id=None), of_cut(custom=[1]), of_cut(type="MixedCut"), of_cut(recording=5), of_cut(supervisions={}),
    of_supervision(text=5), of_supervision(text="\ud800"), of_supervision(start=None), of_supervision(alignment=[1]),
    of_cut(id="in/no/tar"), lambda cut: json.dumps(cut).encode(),  # as the line before it
    lambda _: b"not JSON", lambda _: b"[" * 10_000, lambda _: b"\xff\xfe\0",
]  # fmt: skip


def spoil(folder, every):
    """Put one bad line behind each ``every`` good ones of all shards; returns how many."""
    good = made = 0
    for path in sorted(folder.glob("cuts.*.jsonl.gz")):
        lines = []
        for line in gzip.decompress(path.read_bytes()).splitlines():
            good += 1
            lines.append(line)
            if good % every == 0:
                lines.append(BAD[made % len(BAD)](json.loads(line)))
                made += 1
        path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("bad"), copies=16)
    shutil.copytree(folder / "data/shar", folder / "bad")
    made = [spoil(folder / "bad" / name, every) for name, every in (("train", 9), ("dev", 1), ("test-heldout", 1))]
    assert made[0] >= len(BAD) and made[1] and made[2] == 4
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    run_process(folder, TRAIN, f"{FLAGS} --manifest-dir data/shar --exp-dir good")
    return losses(folder / "good")


def command(exp_dir):
    return f"{FLAGS} --manifest-dir bad --max-skipped-share 0.6 --exp-dir {exp_dir}"


@pytest.mark.slow
def test_bad_lines_of_a_test_set_are_left_out_of_the_results_by_name(folder, expected):
    out = folder / "good/ctc-greedy-search/report.json"
    results = []
    for data in ("data/shar", "bad"):
        flags = f"--exp-dir good --manifest-dir {data} --max-skipped-share 0.6"
        done = run_program(folder, "zipformer_crctc/ctc_decode.py", flags)
        results.append(json.loads(out.read_text())["overall"])
    assert results[0] == results[1] and results[0]["utterances"] == 4
    assert "4 of 8 cuts, all named in" in done.stderr


@pytest.mark.slow
def test_a_killed_training_resumed_over_bad_lines_has_the_losses_of_the_good_lines(folder, expected):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / TRAIN), *command("killed").split()]
    with open(folder / "first.log", "wb") as log:
        child = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not (folder / "killed/checkpoint-3.pt").exists():
            assert child.poll() is None and time.monotonic() < deadline, (folder / "first.log").read_text()[-2000:]
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    done = run_process(folder, TRAIN, command("killed"))
    assert losses(folder / "killed") == expected and len(expected) == 6
    assert "Traceback" not in done.stderr + (folder / "first.log").read_text()
    reports = "".join(path.read_text() for path in (folder / "bad/train").glob("cuts.index/*.left_out.txt"))
    assert len(reports.splitlines()) >= len(BAD)
    for reason in (
        "`start` must be",
        "`channel` must be",
        "the line is not JSON",
        "no audio in the tar",
        "line before",
    ):
        assert reason in reports
