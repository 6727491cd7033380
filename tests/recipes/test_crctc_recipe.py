"""The CR-CTC recipe as a user runs it: training, resuming, decoding, foreign checkpoints, mistakes."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from programs import assert_one_line, run_process, run_program
from real_speech import TINY, losses, prepare

TRAIN = "zipformer_crctc/train.py"
DECODE = "zipformer_crctc/ctc_decode.py"
SHORT = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 8 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 2 --save-every-n 4 --num-workers 0 --tensorboard False --warmup-batches 2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("recipe"))
    run_process(folder, TRAIN, f"{SHORT} --exp-dir exp --max-steps 12 --num-epochs 99 --final-decay 0")
    return folder


def test_training_leaves_a_whole_run_directory(trained):
    names = {path.name for path in (trained / "exp").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoint-4.pt", "checkpoint-8.pt", "checkpoint-12.pt", "lang"} <= names
    assert sorted(losses(trained / "exp")) == list(range(1, 13))


def test_decoding_needs_the_run_directory_alone(trained):
    done = run_program(trained, DECODE, "--exp-dir exp --manifest-dir data/shar")
    assert "PER %" in done.stdout
    out = trained / "exp" / "ctc-greedy-search"
    report = json.loads((out / "report.json").read_text())
    assert report["overall"]["utterances"] == 4
    recogs = next(out.glob("recogs-test-heldout-*.txt")).read_text().splitlines()
    assert len(recogs) == 8 and recogs[0].split("\t")[1].startswith("ref=[")
    assert "<svg" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "heads"),
    [
        (TRAIN, ""),
        ("zipformer_transducer/train.py", "--use-ctc True --use-attention-decoder True --attention-decoder-dim 32 "
         "--attention-decoder-attention-dim 32 --attention-decoder-num-heads 2 --attention-decoder-num-layers 1 "
         "--attention-decoder-feedforward-dim 64"),
    ],
)  # fmt: skip
def test_bfloat16_trains_and_validates(trained, program, heads):
    exp = f"bf16{'-heads' * bool(heads)}"
    flags = f"{SHORT} {heads} --use-bf16 True --valid-interval 3 --max-steps 6 --num-epochs 99"
    run_program(trained, program, f"{flags} --exp-dir {exp}")
    assert len(losses(trained / exp)) == 6
    rows = [json.loads(line) for line in (trained / exp / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "valid"][0] == 3
    assert all(math.isfinite(row["loss"]) for row in rows)
    run_program(trained, program.replace("train", "ctc_decode"), f"--exp-dir {exp}")


def test_prefix_beam_search_writes_beside_greedy(trained):
    run_program(
        trained, DECODE, "--exp-dir exp --iter 12 --avg 2 --decoding-method ctc-prefix-beam-search --device cpu"
    )
    names = [path.name for path in (trained / "exp" / "ctc-prefix-beam-search").iterdir()]
    assert any(name.startswith("errs-test-heldout-iter-12_avg-2_beam-4_use-averaged-model") for name in names)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_losses(trained):
    """The first eight batches, then the other four by the same command: the twelve of one go, to the last bit."""
    flags = f"{SHORT} --exp-dir parts --num-epochs 99 --final-decay 0"
    run_program(trained, TRAIN, f"{flags} --max-steps 8")
    run_program(trained, TRAIN, f"{flags} --max-steps 12")
    assert losses(trained / "parts") == losses(trained / "exp")


def test_zipas_way_of_decoding_raw_checkpoints(trained):
    """Raw checkpoints without configuration or running average; the flags tell the model; too few to average."""
    folder = trained / "zipa"
    folder.mkdir(exist_ok=True)
    for step in (4, 8, 12):
        weights = torch.load(trained / "exp" / f"checkpoint-{step}.pt", weights_only=True)["model"]
        torch.save({"model": weights}, folder / f"checkpoint-{step}.pt")
    done = run_program(
        trained,
        DECODE,
        f"--iter 12 --avg 3 --exp-dir zipa --use-transducer False --use-ctc True --use-cr-ctc True --max-duration 600 "
        f"--decoding-method ctc-greedy-search --bpe-model data/lang/bpe.model --num-workers 1 {TINY}",
    )
    assert "PER %" in done.stdout
    assert "plain mean" in done.stderr


@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        (DECODE, "--exp-dir nowhere", ["nowhere"]),
        (DECODE, "--exp-dir exp --iter 3", ["3", "exp"]),
        (DECODE, "--exp-dir exp --encoder-dim 40,48", ["--encoder-dim", "24,32"]),
        (DECODE, "--exp-dir exp --test-sets test-helout", ["test-heldout"]),
        (DECODE, "--exp-dir exp --manifest-dir data/lang", ["data/lang"]),
        (DECODE, "--exp-dir zipformer1 --manifest-dir data/shar", ["downsample_output", "second-generation"]),
        (TRAIN, f"{SHORT} --exp-dir fresh --manifest-dir missing", ["missing"]),
        (TRAIN, f"{SHORT} --exp-dir fresh --bpe-model missing.model", ["missing.model"]),
        (TRAIN, f"{SHORT} --exp-dir other", ["other", "zipformer_transducer"]),
        (TRAIN, f"{SHORT} --exp-dir exp --encoder-dim 40,48 --encoder-unmasked-dim 24,32", ["exp"]),
        (TRAIN, f"{SHORT} --exp-dir exp --start-batch 77", ["checkpoint-77.pt"]),
    ],
)
def test_mistakes_end_with_one_line(trained, program, flags, words):
    (trained / "other").mkdir(exist_ok=True)
    (trained / "other/config.yaml").write_text("recipe: zipformer_transducer\n")
    (trained / "zipformer1").mkdir(exist_ok=True)
    torch.save({"model": {"encoder.weight": torch.zeros(2)}}, trained / "zipformer1/epoch-1.pt")
    assert_one_line(run_program(trained, program, flags, check=False), *words)


class Evil:
    """Would leave a file behind if a checkpoint were unpickled without care."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_checkpoint_that_would_run_code_is_refused(trained):
    (trained / "evil").mkdir()
    torch.save({"model": Evil()}, trained / "evil/checkpoint-4.pt")
    done = run_program(trained, TRAIN, f"{SHORT} --exp-dir evil --start-batch 4", check=False)
    assert_one_line(done, "evil")
    assert not (trained / "executed").exists()


@pytest.mark.slow
def test_zipas_training_command_goes_on_from_its_checkpoint(trained):
    """ZIPA's README command, with the sizes of a tiny model: two processes, from --start-batch on."""
    exp_dir = trained / "zipa-train"
    exp_dir.mkdir()
    shutil.copy(trained / "exp/checkpoint-12.pt", exp_dir)
    done = run_process(
        trained,
        TRAIN,
        "--world-size 2 --num-epochs 99 --start-epoch 1 --start-batch 12 --use-fp16 1 --exp-dir zipa-train --causal 0 "
        "--full-libri True --max-duration 8 --use-transducer False --use-ctc True --use-cr-ctc True --base-lr 0.015 "
        f"--enable-spec-aug False --seed 2333 --wandb False {TINY} --num-buckets 8 --num-workers 4 "
        "--unsup-cr-ctc-loss-scale 0.5 --use-unsup-cr-ctc True --remove-diacritics True "
        "--manifest-dir data/shar --bpe-model data/lang/bpe.model --max-steps 15 --log-interval 1",
    )
    assert "labelled speech alone" in done.stderr
    assert max(losses(exp_dir)) == 15


def test_a_flat_folder_of_downloaded_shards_trains(trained):
    flat = trained / "flat"
    shutil.copytree(trained / "data/shar/train", flat, dirs_exist_ok=True)
    (flat / "recording.000001.tar").write_bytes(b"damaged")
    done = run_program(trained, TRAIN, f"{SHORT} --manifest-dir flat --exp-dir flat-exp --max-steps 2 --num-epochs 9")
    assert "recording.000001.tar" in done.stderr
    assert sorted(losses(trained / "flat-exp")) == [1, 2]
