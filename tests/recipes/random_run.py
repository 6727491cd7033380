"""Run directories with random weights, and decoding programs run in this process as a user would."""

import dataclasses
import importlib

import torch
from programs import run_program
from real_speech import TINY

from couloir.models.zipformer.model import build_model
from couloir.recipes.run import keep_tokenizer
from couloir.recipes.run_config import build_config, make_parser, save_config
from couloir.text.tokenizer import load_tokenizer

HEADS = (
    "--decoder-dim 16 --joiner-dim 16 --use-transducer True --use-ctc True --use-attention-decoder True "
    "--ctc-loss-scale 0.1 --attention-decoder-loss-scale 0.9 --attention-decoder-dim 16 "
    "--attention-decoder-num-layers 1 --attention-decoder-attention-dim 16 --attention-decoder-num-heads 2 "
    "--attention-decoder-feedforward-dim 16"
)


def random_run(folder, exp_dir, recipe="zipformer_transducer", flags=HEADS, seed=0):
    """A run directory below a prepared ``folder`` whose model has peaky random outputs, without training."""
    defaults = importlib.import_module(f"{recipe}.train").DEFAULTS
    words = f"{TINY} {flags} --exp-dir {folder / exp_dir} --manifest-dir {folder / 'data/shar'} --num-workers 0 "
    words += f"--bpe-model {folder / 'data/lang/bpe.model'}"
    config = build_config(make_parser("").parse_args(words.split()), recipe, defaults)
    tokenizer = load_tokenizer(folder / "data/lang")
    heads = dataclasses.replace(config.heads, vocab_size=tokenizer.vocab_size)
    config = dataclasses.replace(config, heads=heads)
    torch.manual_seed(seed)
    model = build_model(config.zipformer, config.heads)
    with torch.no_grad():
        if heads.use_ctc:
            model.ctc_output[1].weight *= 10
            model.ctc_output[1].bias[0] += 2
        if heads.use_transducer:
            model.joiner.output_linear.weight *= 6
            model.joiner.output_linear.bias[0] += 2
    (folder / exp_dir).mkdir()
    save_config(config, folder / exp_dir)
    keep_tokenizer(config)
    torch.save({"model": model.state_dict()}, folder / exp_dir / "checkpoint-1.pt")
    return folder / exp_dir


def call(folder, program, flags):
    """Exit code and the last line of stderr of ``recipe.program``, run in ``folder``."""
    done = run_program(folder, f"{program.replace('.', '/')}.py", flags, check=False)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]
