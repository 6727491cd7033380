"""What a decoding program does with utterances of unusual length, and with padding."""

import ast
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from programs import run_program
from random_run import random_run
from real_speech import prepare, utterances

from couloir.data.shar import SharUtterance, write_shar

DECODE = "zipformer_crctc/ctc_decode.py"
FLAGS = "--exp-dir exp --iter 1 --avg 1 --manifest-dir odd --device cpu"
SHORTEST_S = 0.085  # 9 feature frames; the front end makes one frame of them, and nothing of fewer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("program"))
    random_run(folder, "exp", "zipformer_crctc", "--use-transducer False --use-ctc True")
    random_run(folder, "causal", "zipformer_crctc", "--use-transducer False --use-ctc True --causal True")
    everything = list(utterances())
    speech = everything[:4]
    odd = [
        dataclasses.replace(speech[0], id=name, audio=speech[0].audio[: int(seconds * 16000)], text="ja")
        for name, seconds in (("empty", 0.004), ("tiny", SHORTEST_S - 0.0101), ("shortest", SHORTEST_S))
    ]
    long = SharUtterance("lecture", np.tile(speech[0].audio, 30), speech[0].text, "ru")
    assert len(long.audio) > 121 * 16000
    write_shar([*speech, *odd, long], folder / "odd" / "test-odd", shard_size=20)
    write_shar(odd, folder / "short" / "test-short")
    write_shar(everything, folder / "all" / "test-all", shard_size=20)
    return folder


def found(folder, exp_dir="exp"):
    """Utterance id -> hypothesis of the newest result file."""
    files = (folder / exp_dir / "ctc-greedy-search").glob("recogs-*.txt")
    lines = max(files, key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8").splitlines()
    split = [line.split(":\thyp=") for line in lines if ":\thyp=" in line]
    return {name: ast.literal_eval(hyp) for name, hyp in split}


def test_too_short_utterances_count_as_errors_and_too_long_ones_are_left_out_and_both_are_named(folder):
    done = run_program(folder, DECODE, FLAGS)
    hypotheses = found(folder)
    assert len(hypotheses) == 7 and hypotheses["empty"] == hypotheses["tiny"] == []
    assert "test-odd: 2 utterances too short for the model, scored as if nothing was found in them: tiny, empty" in (
        done.stderr
    )
    left_out = "test-odd: 1 of 8 utterances left out, longer than --max-test-utterance-duration 120 s: lecture"
    assert left_out in done.stderr
    report = json.loads((folder / "exp/ctc-greedy-search/report.json").read_text())
    assert report["overall"]["utterances"] == 7

    # All too short: nothing can be decoded, but the other test sets could be.
    write_shar(list(utterances())[:1], folder / "two" / "test-good")
    short = SharUtterance("blip", np.zeros(400, np.float32), "ja", "ru")
    write_shar([short], folder / "two" / "test-short")
    done = run_program(folder, DECODE, FLAGS.replace("odd", "two"))
    assert "test-short: 1 utterances too short" in done.stderr


def test_a_causal_model_takes_the_short_ones_too(folder):
    flags = FLAGS.replace("exp-dir exp", "exp-dir causal").replace("odd", "short")
    done = run_program(folder, DECODE, f"{flags} --chunk-size 16 --left-context-frames 64")
    assert found(folder, "causal").keys() == {"empty", "tiny", "shortest"} and "too short" not in done.stderr


@pytest.mark.slow
def test_padding_changes_a_result_under_decode_padding_reference_alone(folder):
    # A fresh front end hardly looks at its neighbours, which is where padding comes in.
    path = random_run(folder, "padded", "zipformer_crctc", "--use-transducer False --use-ctc True") / "checkpoint-1.pt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model"]["encoder_embed.convnext.pointwise_conv2.weight"] *= 300
    torch.save(checkpoint, path)

    def decode(flags):
        run_program(folder, DECODE, f"{FLAGS.replace('odd', 'all').replace('dir exp', 'dir padded')} {flags}")
        return found(folder, "padded")

    alone = decode("--max-utterances 1")
    assert decode("--max-duration 60") == alone
    assert decode("--max-utterances 1 --decode-padding reference") == alone
    together = decode("--max-duration 60 --decode-padding reference")
    assert together != alone
    assert together["ru_0274"] == alone["ru_0274"]  # the longest has no padding behind it
