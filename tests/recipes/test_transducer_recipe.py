"""The transducer recipe as a user runs it: training, resuming, decoding, fine-tuning, mistakes."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from programs import assert_one_line, run_program
from real_speech import TINY, losses, prepare

from couloir.models.zipformer.model import build_model
from couloir.recipes.finetune import initialise
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run_config import build_config, make_parser, saved_config
from couloir.text.tokenizer import load_tokenizer, train_tokenizer
from zipformer_transducer.train import DEFAULTS, RECIPE

TRAIN, DECODE = "zipformer_transducer/train.py", "zipformer_transducer/decode.py"
FINETUNE = "zipformer_transducer/finetune.py"
MODEL = f"{TINY} --decoder-dim 16 --joiner-dim 16"
SHORT = (
    f"{MODEL} --manifest-dir data/shar --max-duration 8 --min-utterance-duration 0.3 --log-interval 1 "
    "--average-period 2 --save-every-n 2 --num-workers 0 --tensorboard False --warmup-batches 2 --num-epochs 99"
)
LANG = "--bpe-model data/lang/bpe.model"
BOTH = "--use-ctc True --enable-spec-aug False --use-cr-ctc True --warm-step 2"


@pytest.mark.parametrize("size", ["small", "large"])
def test_presets_are_zipas_transducers(size):
    config = build_config(make_parser("").parse_args(["--preset", f"zipa_t_{size}"]), RECIPE, DEFAULTS)
    with np.load(Path(__file__).parents[1] / "parity/data/zipformer2_keys.npz") as stored:
        lines = stored[f"zipa-{size}-transducer"].tobytes().decode().splitlines()
    with torch.device("meta"):
        model = build_model(config.zipformer, dataclasses.replace(config.heads, vocab_size=127))
    ours = {f"{name}\t{','.join(map(str, tensor.shape))}" for name, tensor in model.state_dict().items()}
    assert ours == set(lines)
    assert (config.loss.am_scale, config.zipformer.output_downsampling_factor) == (0.1, 2)
    assert config.augment.use_speed_perturb and config.augment.enable_spec_aug


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("transducer"))
    run_program(folder, TRAIN, f"{SHORT} {LANG} {BOTH} --exp-dir exp --max-steps 6 --final-decay 0")
    return folder


@pytest.mark.parametrize(
    ("method", "flags", "name", "key"),
    [
        ("greedy_search", "", "_context-2_max-sym-per-frame-1", "greedy_search"),
        (
            "modified_beam_search", "--beam-size 3", "__modified_beam_search__beam-size-3",
            "modified_beam_search_beam-size-3",
        ),
        (
            "fast_beam_search", "--max-contexts 4 --max-states 8", "_beam-20.0_max-contexts-4_max-states-8",
            "fast_beam_search_beam-20.0_max-contexts-4_max-states-8",
        ),
    ],
)  # fmt: skip
def test_decoding_writes_icefalls_files(trained, method, flags, name, key):
    done = run_program(trained, DECODE, f"--exp-dir exp --iter 6 --avg 2 --decoding-method {method} {flags}")
    assert "PER %" in done.stdout
    out, tail = trained / "exp" / method, f"test-heldout-iter-6_avg-2{name}_use-averaged-model.txt"
    assert len((out / f"recogs-{tail}").read_text().splitlines()) == 8
    assert (out / f"errs-{tail}").read_text().startswith("%WER")
    assert (out / f"wer-summary-{tail}").read_text().splitlines()[1].split("\t")[0] == key
    assert (out / "report.html").is_file()
    (log,) = out.glob(f"log-decode-iter-6_avg-2{name}_use-averaged-model-20??-??-??-??-??-??")
    assert f"INFO test-heldout: {key} " in log.read_text() and f"--decoding-method {method}" in log.read_text()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(trained):
    """Everything after the fourth batch is lost but the log; the same command makes it again, to the last bit."""
    parts = trained / "parts"
    parts.mkdir()
    for name in ("config.yaml", "metrics.jsonl", "checkpoint-2.pt", "checkpoint-4.pt"):
        shutil.copy(trained / "exp" / name, parts)
    done = run_program(trained, TRAIN, f"{SHORT} {LANG} {BOTH} --exp-dir parts --final-decay 0 --max-steps 6")
    assert "Epoch" in done.stderr and (parts / "checkpoint-6.pt").is_file()
    assert losses(parts) == losses(trained / "exp") and sorted(losses(parts)) == list(range(1, 7))


def test_finetuning_with_another_vocabulary(trained):
    texts = [re.sub("[ae]", "œ", "".join(load_tokenizer(trained / "data/lang").pieces[3:]))] * 2
    train_tokenizer(texts, trained / "data/other")
    done = run_program(
        trained,
        FINETUNE,
        f"{SHORT} --exp-dir tuned --bpe-model data/other/bpe.model --finetune-ckpt exp/checkpoint-6.pt --max-steps 2 "
        "--init-modules encoder,encoder_embed,decoder,joiner --freeze-modules encoder_embed --base-lr 1e-8 "
        "--max-skipped-share 1",
    )
    assert "tokens carried over" in done.stderr and "trained from scratch: simple_am_proj" in done.stderr
    before = torch.load(trained / "exp/checkpoint-6.pt", weights_only=False)["model"]
    after = torch.load(trained / "tuned/checkpoint-2.pt", weights_only=False)["model"]
    old, new = (load_tokenizer(trained / f"data/{name}").pieces for name in ("lang", "other"))
    assert old != new
    shared = [piece for piece in new if piece in old]
    assert len(shared) > 10
    for name in ("decoder.embedding.weight", "joiner.output_linear.bias"):
        rows = [[pieces.index(piece) for piece in shared] for pieces in (old, new)]
        assert torch.allclose(after[name][rows[1]], before[name][rows[0]], atol=1e-4), name
    for name in before:
        if name.startswith("encoder_embed."):
            assert torch.equal(after[name], before[name]), name


def test_the_whole_model_is_taken_where_nothing_is_said(trained):
    config, tokenizer = saved_config(trained / "exp"), load_tokenizer(trained / "data/lang")
    model = build_model(config.zipformer, config.heads)
    initialise(model, tokenizer, FinetuneConfig(finetune_ckpt=str(trained / "exp/checkpoint-6.pt")))
    before = torch.load(trained / "exp/checkpoint-6.pt", weights_only=False)["model"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


UNSIZED = SHORT.removeprefix(MODEL)


@pytest.mark.slow
def test_finetuning_starts_where_schedules_are_over(trained, monkeypatch):
    """icefall's finetune.py adds 100000 to the batch count; of the model nothing need be said."""
    pushed = []
    monkeypatch.setattr("couloir.training.trainer.set_batch_count", lambda model, count: pushed.append(count))
    ckpt = "--finetune-ckpt exp/checkpoint-6.pt"
    run_program(trained, FINETUNE, f"{UNSIZED} {LANG} --exp-dir tuned-offset {ckpt} --max-steps 2 --use-ctc True")
    assert pushed and set(pushed) == {100000.0}
    config, former = saved_config(trained / "tuned-offset"), saved_config(trained / "exp")
    assert (config.optim.base_lr, config.optim.lr_batches, config.optim.lr_epochs) == (0.0045, 1e5, 100.0)
    assert config.loss.warm_step == 2000 and (config.trainer.batch_count_scale, config.trainer.seed) == (1.0, 42)
    assert (config.zipformer, config.heads) == (former.zipformer, former.heads)
    done = run_program(trained, FINETUNE, f"{UNSIZED} {LANG} --exp-dir tuned-headless {ckpt} --max-steps 1")
    assert "left in exp/checkpoint-6.pt, as this model has no place for it: ctc_output" in done.stderr


@pytest.mark.parametrize("kind", ["icefall", "bare"])
def test_finetuning_from_foreign_checkpoints(trained, kind):
    """icefall's dictionary, from several processes and with its path inside, and ZIPA's bare state dict."""
    before = torch.load(trained / "exp/checkpoint-6.pt", weights_only=False)["model"]
    folder = trained / f"foreign-{kind}"
    folder.mkdir()
    path = folder / ("epoch-3.pt" if kind == "icefall" else "weights.pth")
    prefixed = {f"module.{name}": tensor for name, tensor in before.items()}
    foreign = {"model": prefixed, "model_avg": prefixed, "optimizer": {}, "exp_dir": Path("zipformer/exp"), "avg": 9}
    torch.save(foreign if kind == "icefall" else before, path)
    flags = f"{UNSIZED} {LANG} --finetune-ckpt {path} --base-lr 1e-9 --max-steps 1 --exp-dir tuned-{kind}"
    done = run_program(trained, FINETUNE, f"{flags} --use-ctc True")
    assert "left in" not in done.stderr and "trained from scratch" not in done.stderr
    after = torch.load(trained / f"tuned-{kind}/checkpoint-1.pt", weights_only=False)["model"]
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    sizes, former = saved_config(trained / f"tuned-{kind}").zipformer, saved_config(trained / "exp").zipformer
    assert sizes == dataclasses.replace(former, encoder_unmasked_dim=sizes.encoder_unmasked_dim)


@pytest.mark.slow
def test_a_finetuned_run_goes_on_without_the_checkpoint_it_started_from(trained):
    ckpt = trained / "exp-gone/checkpoint-6.pt"
    ckpt.parent.mkdir()
    shutil.copy(trained / "exp/checkpoint-6.pt", ckpt)
    flags = f"{UNSIZED} {LANG} --finetune-ckpt {ckpt} --exp-dir tuned-on --init-modules encoder,encoder_embed"
    run_program(trained, FINETUNE, f"{flags} --decoder-dim 12 --joiner-dim 20 --max-steps 2")
    ckpt.unlink()
    run_program(trained, FINETUNE, f"{flags} --decoder-dim 12 --joiner-dim 20 --max-steps 4")
    assert sorted(losses(trained / "tuned-on")) == [1, 2, 3, 4]


TUNE = f"{SHORT} {LANG} --exp-dir tune-wrong --max-steps 1"


@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        (DECODE, "--exp-dir exp --decoding-method greedy", ["--decoding-method", "greedy_search"]),
        (DECODE, "--exp-dir exp --decoding-method fast_beam_search_LG --lang-dir none", ["LG.npz"]),
        (DECODE, "--exp-dir exp --decoding-method modified_beam_search_LODR", ["--lm-exp-dir"]),
        (FINETUNE, TUNE, ["--finetune-ckpt"]),
        (FINETUNE, f"{TUNE} --finetune-ckpt exp/checkpoint-6.pt --init-modules encodr", ["encodr", "`encoder`"]),
        (
            FINETUNE,
            f"{TUNE} --finetune-ckpt exp/checkpoint-6.pt --joiner-dim 24",
            ["--joiner-dim", "16", "checkpoint-6.pt"],
        ),
    ],
)
def test_mistakes_end_with_one_line(trained, program, flags, words):
    assert_one_line(run_program(trained, program, flags, check=False), *words)


SMALL_LM = "--rnn-lm-embedding-dim 16 --rnn-lm-hidden-dim 16 --rnn-lm-num-layers 1"


@pytest.fixture(scope="module")
def with_lm(trained):
    """Words of three phones, written as a text; the neural LM and LG made from it."""
    pieces = [piece for piece in load_tokenizer(trained / "data/lang").pieces[3:] if piece.isalpha()]
    words = ["".join(pieces[i : i + 3]) for i in range(0, 18, 3)]
    (trained / "text").write_text("\n".join(" ".join(words[i:] + words[:i]) for i in range(6)) + "\nno §\n")
    run_program(
        trained,
        "zipformer_transducer/train_lm.py",
        f"--lm-text text {LANG} --lm-exp-dir lm --num-epochs 1 {SMALL_LM}",
    )
    run_program(trained, "zipformer_transducer/local/prepare_lm.py", f"--lm-text text {LANG} --lang-dir lg")
    return trained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "flags", "keys"),
    [
        ("fast_beam_search_LG", "--lang-dir lg", 1),
        (
            "modified_beam_search_LODR",
            "--lang-dir lg --lm-exp-dir lm --lm-epoch 1 --ngram-lm-scale -0.1 --use-shallow-fusion True",
            1,
        ),
        ("modified_beam_search_lm_rescore", "--lm-exp-dir lm", 40),
    ],
)
def test_decoding_with_what_was_made_from_a_text(with_lm, method, flags, keys):
    run_program(with_lm, DECODE, f"--exp-dir exp --decoding-method {method} {flags}")
    summary = next((with_lm / "exp" / method).glob("wer-summary-test-heldout-*.txt"))
    assert len(summary.read_text().splitlines()) == 1 + keys


@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        ("train_lm.py", f"{LANG}", ["--lm-text"]),
        ("train_lm.py", f"--lm-text odd {LANG}", ["odd", "vocabulary"]),
        ("local/prepare_lm.py", f"--lm-text text {LANG} --lexicon missing", ["missing"]),
    ],
)
def test_mistakes_about_language_models_end_with_one_line(with_lm, program, flags, words):
    (with_lm / "odd").write_text("§§\n")
    assert_one_line(run_program(with_lm, f"zipformer_transducer/{program}", flags, check=False), *words)
