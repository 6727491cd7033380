"""What a decoding program does with utterances of unusual length, and with padding."""

import ast
import dataclasses
import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from programs import assert_one_line, run_program
from random_run import random_run
from real_speech import prepare, utterances

from couloir.data.shar import SharUtterance, make_cut, write_shar

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
    note = "test-odd: of 7 utterances 2 too short for the model, scored as if nothing was found in them"
    assert f"{note}: tiny, empty" in done.stderr
    left_out = "test-odd: 1 of 8 utterances left out, longer than --max-test-utterance-duration 120 s: lecture"
    assert left_out in done.stderr
    report = json.loads((folder / "exp/ctc-greedy-search/report.json").read_text())
    assert report["overall"]["utterances"] == 7 and report["notes"] == [note]


BLIPS = [("a", np.zeros(400, np.float32), "ja"), ("b", np.zeros(160, np.float32), "na")]
SILENT_SETS = {
    "2 too short for the model": ("test-blip", BLIPS),
    "2 without usable audio": ("test-lost", [("a", b"no audio at all", "ja"), ("b", b"", "na")]),
    "1 too short for the model, 1 without usable audio": ("test-both", [("a", b"RIFF", "ja"), BLIPS[1]]),
}


def write_set(place, entries):
    """A shard whose audio may be any bytes."""
    soundfile = pytest.importorskip("soundfile")
    place.mkdir(parents=True)
    with (
        gzip.open(place / "cuts.000000.jsonl.gz", "wt", encoding="utf-8") as cuts,
        tarfile.open(place / "recording.000000.tar", "w") as tar,
    ):
        for name, audio, text in entries:
            samples = audio if isinstance(audio, np.ndarray) else np.zeros(16000, np.float32)
            cuts.write(json.dumps(make_cut(SharUtterance(name, samples, text, "ru"), len(samples)).to_dict()) + "\n")
            stream = io.BytesIO()
            if isinstance(audio, np.ndarray):
                soundfile.write(stream, audio, 16000, format="FLAC")
            content = stream.getvalue() if isinstance(audio, np.ndarray) else audio
            member = tarfile.TarInfo(f"{name}.flac")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("kind", SILENT_SETS, ids=["too_short", "without_audio", "both"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_set_in_which_nothing_can_be_found_has_all_its_errors_in_its_files_and_in_the_totals(folder, kind, first):
    """Two references of two phones each: four deletions of four, beside another set or alone."""
    name, entries = SILENT_SETS[kind]
    place = folder / f"{name}-{first}"
    write_set(place / name, entries)
    write_shar(list(utterances())[:1], place / ("test-z" if first else "test-a"))
    run_program(folder, DECODE, FLAGS.replace("--manifest-dir odd", f"--manifest-dir {place.name}"))
    results = folder / "exp" / "ctc-greedy-search"
    errors = (results / f"errs-{name}-iter-1-avg-1.txt").read_text(encoding="utf-8")
    assert "%WER = 100.00\nErrors: 0 insertions, 4 deletions, 0 substitutions, over 4 reference" in errors
    assert (results / f"wer-summary-{name}-iter-1-avg-1.txt").read_text() == "settings\tWER\nctc-greedy-search\t100.0\n"
    recogs = (results / f"recogs-{name}-iter-1-avg-1.txt").read_text(encoding="utf-8")
    assert recogs == "a:\tref=['j', 'a']\na:\thyp=[]\nb:\tref=['n', 'a']\nb:\thyp=[]\n"
    report = json.loads((results / "report.json").read_text())
    rows = {row["name"]: row for row in report["tables"]["split"]}
    assert (rows[name]["rate"], rows[name]["deletions"], rows[name]["utterances"]) == (100.0, 4, 2)
    assert report["overall"]["utterances"] == 3
    assert report["overall"]["reference"] == 4 + rows["test-z" if first else "test-a"]["reference"]
    assert report["notes"] == [f"{name}: of 2 utterances {kind}, scored as if nothing was found in them"]


@pytest.mark.parametrize(
    ("program", "flags", "keys"),
    [
        ("zipformer_transducer/decode.py", "greedy_search", 1),
        ("zipformer_transducer/ctc_decode.py", "ctc-greedy-search", 1),
        ("zipformer_transducer/ctc_decode.py", "attention-decoder-rescoring-no-ngram", 24),
    ],
)
def test_every_result_of_every_program_has_the_set_without_audio(folder, program, flags, keys):
    if not (folder / "every").exists():
        random_run(folder, "rnnt")
        write_set(folder / "every" / "test-lost", SILENT_SETS["2 without usable audio"][1])
        write_shar(list(utterances())[:1], folder / "every" / "test-sound")
    words = FLAGS.replace("exp-dir exp", "exp-dir rnnt").replace("odd", "every")
    run_program(folder, program, f"{words} --decoding-method {flags}")
    (summary,) = (folder / "rnnt" / flags).glob("wer-summary-test-lost-*.txt")
    rows = summary.read_text().splitlines()[1:]
    (beside,) = (folder / "rnnt" / flags).glob("wer-summary-test-sound-*.txt")
    assert {row.split("\t")[0] for row in rows} == {row.split("\t")[0] for row in beside.read_text().splitlines()[1:]}
    assert len(rows) == keys and {row.split("\t")[1] for row in rows} == {"100.0"}
    assert len(list((folder / "rnnt" / flags).glob("recogs-test-lost-*.txt"))) == keys


@pytest.mark.parametrize(
    "chunks", ["--chunk-size 16 --left-context-frames 64", "--chunk-size 32 --left-context-frames 128"]
)
def test_a_causal_model_in_chunks_scores_what_it_cannot_read(folder, chunks):
    name, entries = SILENT_SETS["1 too short for the model, 1 without usable audio"]
    if not (folder / "chunked").exists():
        write_set(folder / "chunked" / name, [*entries, ("one", np.full(1, 0.1, np.float32), "ja")])
    run_program(folder, DECODE, f"{FLAGS.replace('exp-dir exp', 'exp-dir causal').replace('odd', 'chunked')} {chunks}")
    assert found(folder, "causal").keys() == {"a", "b", "one"}
    report = json.loads((folder / "causal/ctc-greedy-search/report.json").read_text())
    assert report["overall"]["reference"] == 6 and "1 without usable audio" in report["notes"][0]


def test_all_sets_too_short_still_have_their_result(folder):
    short = SharUtterance("blip", np.zeros(400, np.float32), "ja", "ru")
    write_shar([short], folder / "only" / "test-short")
    run_program(folder, DECODE, FLAGS.replace("odd", "only"))
    report = json.loads((folder / "exp/ctc-greedy-search/report.json").read_text())
    assert (report["overall"]["rate"], report["overall"]["deletions"]) == (100.0, 2)


def test_a_set_that_holds_nothing_ends_in_an_error_and_the_others_have_their_results(folder):
    place = folder / "hollow"
    write_set(place / "test-hollow", [])
    write_set(place / "test-bad", [("bad", b"no audio", "ja")] * 1)
    (place / "test-bad" / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(b"not JSON\n"))
    write_shar(list(utterances())[:1], place / "test-sound")
    done = run_program(folder, DECODE, FLAGS.replace("odd", "hollow"), check=False)
    assert_one_line(done, "test-hollow", "test-bad")
    report = json.loads((folder / "exp/ctc-greedy-search/report.json").read_text())
    assert report["overall"]["utterances"] == 1 and len(report["notes"]) == 2


def test_too_many_unusable_recordings_end_in_an_error_after_all_is_written(folder):
    sound = [(f"good{i}", np.zeros(8000, np.float32), "ja") for i in range(3)]
    write_set(folder / "many" / "test-many", [*sound, *((f"bad{i}", b"none", "ja") for i in range(10))])
    done = run_program(folder, DECODE, FLAGS.replace("odd", "many"), check=False)
    assert done.returncode == 2
    assert "10 of 13 utterances have no usable audio, more than --max-skipped-share 0.2" in done.stderr
    report = json.loads((folder / "exp/ctc-greedy-search/report.json").read_text())
    assert report["overall"]["utterances"] == 13 and report["overall"]["deletions"] >= 20


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
