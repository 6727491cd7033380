"""A run's directory is its own: a refused run changes nothing in it, and its tokenizer is the one that counts."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from programs import assert_one_line, run_program
from random_run import random_run
from real_speech import TINY, prepare, utterances

from couloir.data.shar import write_shar
from couloir.recipes.run import keep_tokenizer
from couloir.recipes.run_config import saved_config
from couloir.text.tokenizer import load_tokenizer, train_tokenizer

TRAIN, DECODE = "zipformer_crctc/train.py", "zipformer_crctc/ctc_decode.py"
SHORT = (
    f"{TINY} --manifest-dir data/shar --max-duration 8 --min-utterance-duration 0.3 --num-workers 0 "
    "--tensorboard False --num-epochs 99 --max-steps 1"
)
DECODED = "--exp-dir exp --manifest-dir data/shar"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data; tokenizers, of which one is the original with a file more, and one differs in a phone; a run of each."""
    folder = prepare(tmp_path_factory.mktemp("directory"))
    shutil.copytree(folder / "data/lang", folder / "data/more")
    (folder / "data/more/extra.txt").write_text("left here by one who copies too early")
    train_tokenizer([one.text.replace("ə", "œ") for one in utterances()], folder / "data/other")
    random_run(folder, "exp", "zipformer_crctc", "")
    random_run(folder, "transducer")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != "log"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--exp-dir transducer --bpe-model data/other", ["transducer", "zipformer_transducer"]),
        ("--exp-dir exp --bpe-model data/other", ["--bpe-model", "exp", "`œ`, not `ɐ`"]),
        ("--exp-dir exp --encoder-dim 40,48 --encoder-unmasked-dim 24,32", ["--encoder-dim", "24,32", "exp"]),
        ("--exp-dir exp --low-freq 40", ["--low-freq", "20.0", "exp"]),
        ("--exp-dir exp --remove-diacritics True", ["--remove-diacritics", "False", "exp"]),
        ("--exp-dir exp --start-batch 77", ["checkpoint-77.pt"]),
        ("--exp-dir exp --manifest-dir nowhere", ["nowhere"]),
    ],
)
def test_a_refused_run_leaves_the_directory_as_it_was(prepared, flags, words):
    exp_dir = prepared / flags.split()[1]
    before = content(exp_dir)
    done = run_program(prepared, TRAIN, f"{SHORT} --bpe-model data/more {flags}", check=False)
    assert_one_line(done, *words)
    assert content(exp_dir) == before


def test_the_tokenizer_is_kept_once_the_run_begins(prepared):
    run_program(prepared, TRAIN, f"{SHORT} --exp-dir fresh --bpe-model data/more")
    assert content(prepared / "fresh/lang") == content(prepared / "data/more")
    # Again from the copy itself; and where nothing else was saved, another one takes its place.
    config = saved_config(prepared / "fresh")
    for source, kept in (("fresh/lang", "data/more"), ("data/other", "data/other")):
        keep_tokenizer(in_folder(config, prepared, source))
        assert content(prepared / "fresh/lang") == content(prepared / kept)


def in_folder(config, folder, bpe_model):
    trainer = dataclasses.replace(config.trainer, exp_dir=folder / config.trainer.exp_dir)
    text = dataclasses.replace(config.text, bpe_model=str(folder / bpe_model))
    return dataclasses.replace(config, trainer=trainer, text=text)


def recogs(exp_dir):
    (path,) = (exp_dir / "ctc-greedy-search").glob("recogs-*")
    return path.read_text()


def test_the_kept_tokenizer_comes_before_the_recorded_one(prepared):
    """prepare.sh was run again for other data; its tokenizer, of the same size, says nothing about this run."""
    run_program(prepared, DECODE, DECODED)
    before = recogs(prepared / "exp")
    assert "hyp=['ə'" in before
    shutil.copytree(prepared / "data/lang", prepared / "aside")
    try:
        shutil.copytree(prepared / "data/other", prepared / "data/lang", dirs_exist_ok=True)
        assert load_tokenizer(prepared / "data/lang").pieces != load_tokenizer(prepared / "exp/lang").pieces
        run_program(prepared, DECODE, DECODED)
    finally:
        shutil.copytree(prepared / "aside", prepared / "data/lang", dirs_exist_ok=True)
    assert recogs(prepared / "exp") == before


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--bpe-model data/other/bpe.model", ["--bpe-model", "data/other/bpe.model", "`œ`, not `ɐ`", "exp/lang"]),
        ("--bpe-model small.txt", ["--bpe-model", "which has 4 tokens"]),
        ("--bpe-model moved.model", ["moved.model"]),
        ("--low-freq 40", ["--low-freq", "20.0"]),
        ("--remove-diacritics True", ["--remove-diacritics"]),
        ("--sample-rate 8000", ["--sample-rate", "16000"]),
    ],
)
def test_decoding_with_what_the_run_was_not_trained_with_is_refused(prepared, flag, words):
    (prepared / "small.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\na 3\n")
    assert_one_line(run_program(prepared, DECODE, f"{DECODED} {flag}", check=False), *words)


def test_the_same_tokenizer_is_taken_from_wherever_it_is(prepared):
    assert "PER %" in run_program(prepared, DECODE, f"{DECODED} --bpe-model data/lang/tokens.txt").stdout


def test_scoring_is_skipped_on_request(prepared):
    shutil.rmtree(prepared / "exp/ctc-greedy-search", ignore_errors=True)
    done = run_program(prepared, DECODE, f"{DECODED} --skip-scoring True")
    assert "PER" not in done.stdout
    names = [path.name for path in (prepared / "exp/ctc-greedy-search").iterdir() if not path.name.startswith("log-")]
    assert len(names) == 1 and names[0].startswith("recogs-test-heldout")


@pytest.mark.slow
def test_what_the_loss_leaves_out_is_reported_and_judged(prepared):
    """With thrice the phones they fit at their own speed, and spoken twice as fast most of them do not."""
    crowded = [dataclasses.replace(one, id=f"{one.id}-{i}", text=one.text * 3) for one in utterances() for i in (1, 2)]
    write_shar(crowded, prepared / "data/crowded")
    flags = (
        f"{SHORT} --manifest-dir data/crowded --valid-share 0 --use-speed-perturb True --speed-perturb-factors 2.0 "
        "--bpe-model data/lang --max-steps 99 --num-epochs 1"
    )
    run_program(prepared, TRAIN, f"{flags} --exp-dir skips --max-skipped-share 1")
    lines = [json.loads(line) for line in (prepared / "skips/skipped.jsonl").read_text().splitlines()]
    shortened = {line["utterance"] for line in lines if "has no CTC path" in line["reason"]}
    assert len(lines) == len({line["utterance"] for line in lines}) and len(shortened) >= 10
    done = run_program(prepared, TRAIN, f"{flags} --exp-dir skipped --max-skipped-share 0.3", check=False)
    assert_one_line(done, f"{len(lines)} of {len(crowded)} utterances are unusable", "--max-skipped-share")
    assert any(f"skipped {name}: has no CTC path" in done.stderr for name in shortened)


@pytest.mark.slow
def test_other_batches_than_a_run_was_stopped_in_begin_their_epoch_anew(prepared):
    flags = f"{SHORT} --exp-dir changed --bpe-model data/lang --num-epochs 1 --log-interval 1 --final-decay 0"
    run_program(prepared, TRAIN, f"{flags} --max-duration 6 --max-steps 2")
    same = run_program(prepared, TRAIN, f"{flags} --max-duration 6 --max-steps 3 --num-workers 1 --prefetch 1")
    assert "begins again" not in same.stderr
    done = run_program(prepared, TRAIN, f"{flags} --max-duration 5 --max-steps 0")
    assert "within epoch 1, whose batches are others now (--max-duration 5.0 in place of 6.0)" in done.stderr
    rows = [json.loads(line) for line in (prepared / "changed/metrics.jsonl").read_text().splitlines()]
    batches = [row["batch"] for row in rows if row["kind"] == "train"]
    assert batches == [1, 2, 3, *range(1, len(batches) - 2)] and len(batches) > 6
