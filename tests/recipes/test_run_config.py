"""Flags, presets, files and saved configurations: what wins over what, and what is refused."""

import sys

import pytest

from couloir.errors import UserError
from couloir.recipes.run_config import (
    build_config,
    check_resume_config,
    lay_over_saved,
    make_parser,
    save_config,
    saved_config,
)
from couloir.recipes.train import train
from couloir.text.tokenizer import TokenTable
from zipformer_crctc.train import DEFAULTS, RECIPE

ZIPA_LARGE = (
    "--num-encoder-layers 4,3,4,5,4,4 --feedforward-dim 768,768,1536,2048,1536,768 --encoder-dim "
    "512,512,768,1024,768,512 --encoder-unmasked-dim 192,192,256,320,256,192 --decoder-dim 1024 --joiner-dim 1024 "
    "--query-head-dim 64 --value-head-dim 48 --num-heads 6,6,6,8,6,6"
)
ZIPA_TRAIN = (
    "--world-size 2 --num-epochs 2 --start-epoch 1 --start-batch 500000 --use-fp16 1 --exp-dir DIR --causal 0 "
    "--full-libri True --max-duration 120 --use-transducer False --use-ctc True --use-cr-ctc True --base-lr 0.015 "
    f"--enable-spec-aug False --seed 2333 --wandb False {ZIPA_LARGE} --num-buckets 8 --num-workers 4 "
    "--unsup-cr-ctc-loss-scale 0.5 --use-unsup-cr-ctc True"
)


def parse(flags):
    return make_parser("").parse_args(flags.split())


def config(flags):
    return build_config(parse(flags), RECIPE, DEFAULTS)


def test_zipas_training_command_gives_zipas_large_model():
    run = config(ZIPA_TRAIN + " --remove-diacritics True")
    preset = config("--preset zipa_large")
    assert run.zipformer == preset.zipformer
    assert (run.heads.decoder_dim, run.heads.joiner_dim) == (preset.heads.decoder_dim, preset.heads.joiner_dim)
    assert run.trainer.start_batch == 500000 and run.trainer.world_size == 2 and run.trainer.use_fp16
    assert run.optim.base_lr == 0.015 and run.trainer.seed == 2333 and run.data.max_duration == 120
    assert run.text.remove_diacritics


def test_zipas_defaults_are_the_recipes():
    run = config("")
    assert run.zipformer.output_downsampling_factor == 1
    assert (run.loss.cr_loss_scale, run.augment.time_mask_ratio, run.loss.use_cr_ctc) == (0.15, 2.0, True)


def test_defaults_lose_to_preset_to_file_to_flags(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: small\nzipformer: {pos_dim: 32, pos-head-dim: [8]}\noptim: {base_lr: 0.03}\n")
    run = config(f"--config {file} --base_lr 0.02")
    assert run.zipformer.num_encoder_layers == (2,) * 6
    assert run.zipformer.pos_dim == 32 and run.zipformer.pos_head_dim == (8,) * 6
    assert run.optim.base_lr == 0.02
    assert config(f"--config {file} --preset large").zipformer.encoder_dim[3] == 768


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--causal maybe", ["--causal", "True or False"]),
        ("--max-duration much", ["--max-duration", "a number", "much"]),
        ("--num-encoder-layers 1,2", ["--num-encoder-layers", "6"]),
        ("--encoder-unmasked-dim 9999", ["--encoder-unmasked-dim", "--encoder-dim"]),
        ("--use-cr-ctc True --enable-spec-aug True", ["--enable-spec-aug", "--use-cr-ctc"]),
        ("--use-ctc False --use-transducer True", ["--use-ctc", "--use-cr-ctc"]),
        ("--use-fp16 1 --use-bf16 1", ["--use-fp16", "--use-bf16"]),
        ("--resume sometimes", ["--resume", "auto", "sometimes"]),
        ("--sample-rate 8000", ["--sample-rate", "16000 Hz", "8000 Hz"]),
        ("--train-manifest cuts.jsonl.gz", ["--train-manifest", "cuts.jsonl.gz", "--manifest-dir"]),
    ],
)
def test_wrong_flags_are_named(flags, words):
    with pytest.raises(UserError) as error:
        config(flags)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_flag_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--max-durations 3")
    assert stopped.value.code == 2
    assert "did you mean `--max-duration`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zipformers: {}", ["zipformers", "did you mean `zipformer`"]),
        ("optim: {base_rl: 1}", ["base_rl", "did you mean `base_lr`"]),
        ("optim: 3", ["optim", "a mapping"]),
        ("- a", ["a YAML mapping"]),
        ("preset: tine", ["tine", "did you mean `tiny`"]),
        ("a: [", ["not valid YAML"]),
        ("text: {bpe_model: señal}", ["run.yaml", "UTF-8"]),
        (None, ["run.yaml cannot be read (Is a directory)"]),
    ],
)
def test_wrong_files_are_named(tmp_path, text, words):
    file = tmp_path / "run.yaml"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        config(f"--config {file}")
    for word in words:
        assert word in str(error.value)


def test_saved_configuration_round_trips(tmp_path):
    run = config("--preset tiny --base-lr 0.031 --remove-diacritics 1")
    save_config(run, tmp_path)
    assert saved_config(tmp_path) == run
    assert saved_config(tmp_path / "nowhere") is None


def test_flags_that_contradict_the_saved_configuration_are_refused(tmp_path):
    run = config(ZIPA_TRAIN)
    # ZIPA's decode command repeats the model's flags: the same values are no contradiction.
    assert lay_over_saved(run, parse(f"--max-duration 600 {ZIPA_LARGE}")).data.max_duration == 600
    assert lay_over_saved(run, parse("--pos-dim 48 --query-head-dim 64,64,64,64,64,64")).zipformer == run.zipformer
    with pytest.raises(UserError, match="--num-heads.*6,6,6,8,6,6.*trained with"):
        lay_over_saved(run, parse("--num-heads 4,4,4,8,4,4"))


@pytest.mark.parametrize(
    ("trained", "flags", "words"),
    [
        ("", "--frame-shift-ms 8", ["--frame-shift-ms", "10.0", "trained with"]),
        ("", "--low-freq 60", ["--low-freq", "20.0"]),
        ("--high-freq 0", "--high-freq -400", ["--high-freq", "0.0"]),
        ("", "--sample-rate 8000", ["--sample-rate", "16000"]),
        ("", "--remove-diacritics True", ["--remove-diacritics", "False"]),
        ("--remove-diacritics True", "--remove-diacritics 0", ["--remove-diacritics", "True"]),
        ("--preset tiny", "--preset small", ["--num-encoder-layers", "2,2,1"]),
        ("--preset tiny", "--config {yaml}", ["--low-freq", "20.0", "30"]),
    ],
)
def test_what_the_weights_are_tied_to_cannot_be_changed(tmp_path, trained, flags, words):
    (tmp_path / "y").write_text("fbank: {low_freq: 30}\n")
    with pytest.raises(UserError) as error:
        lay_over_saved(config(trained), parse(flags.format(yaml=tmp_path / "y")))
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_a_run_that_goes_on_keeps_what_its_weights_are_tied_to():
    run = config("--preset tiny --causal 1 --chunk-size 16 --left-context-frames 64")
    again = config("--preset tiny --causal 1 --chunk-size 32 --left-context-frames 64 --base-lr 0.1 --max-duration 9")
    check_resume_config(run, again)
    for flags, flag in (("--low-freq 30", "--low-freq"), ("--remove-diacritics 1", "--remove-diacritics")):
        with pytest.raises(UserError, match=f"{flag}.*trained with.*--exp-dir"):
            check_resume_config(run, config(f"--preset tiny --causal 1 {flags}"))


NEUTRAL = (
    "--full-libri True --mini-libri False --on-the-fly-feats True --input-strategy AudioSamples --return-cuts False "
    "--gap 3.0 --duration-factor 1 --unsup-cr-ctc-loss-scale 0.5 --use-mask-threshold 0.8 --concatenate-cuts False"
)


@pytest.mark.parametrize(
    "flag",
    ["--full-libri False", "--mini-libri True", "--subset 25", "--on-the-fly-feats False",
     "--input-strategy PrecomputedFeatures", "--unsup-cr-ctc-loss-scale 0.3", "--use-unsup-cr-ctc True"],
)  # fmt: skip
def test_a_flag_without_effect_is_named(flag, caplog):
    run = config(NEUTRAL)
    assert not caplog.messages
    config(flag)
    (line,) = caplog.messages
    assert f"`{flag}` has no effect: " in line
    caplog.clear()
    # A later program says so too, where the flag is given to it and not where the run was trained with it.
    lay_over_saved(run, parse(flag))
    assert caplog.messages == [line]
    lay_over_saved(config(flag), parse("--max-duration 9"))
    assert caplog.messages == [line] * 2


@pytest.mark.parametrize("size", ["500", "2", "4"])
def test_a_size_of_the_vocabulary_that_is_not_the_tokenizers_is_named(tmp_path, caplog, size):
    TokenTable(["<blk>", "a", "b", "c"]).save_tokens(tmp_path / "tokens.txt")
    (tmp_path / "run.yaml").write_text(f"heads: {{vocab-size: {size}}}\n")
    tokens = f"--bpe-model {tmp_path / 'tokens.txt'}"
    wanted = [f"`--vocab-size {size}` has no effect: {tmp_path / 'tokens.txt'} has 4 tokens"] * (size != "4")
    for flags in (f"--vocab-size {size}", f"--config {tmp_path / 'run.yaml'}"):
        caplog.clear()
        config(f"{tokens} {flags}")
        assert caplog.messages == wanted
    caplog.clear()
    config(tokens)
    config("--vocab-size 9 --bpe-model nowhere")
    assert not caplog.messages


def test_flags_are_read_without_torch():
    import subprocess

    code = (
        "import sys; from couloir.recipes.run_config import make_parser; make_parser('').format_help();"
        "assert not {'torch', 'lhotse', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_attention_decoder_is_trained_with_a_sentence_mark_alone(tmp_path):
    TokenTable(["<blk>", "a", "b"]).save_tokens(tmp_path / "tokens.txt")
    heads = "--use-attention-decoder True --attention-decoder-loss-scale 0.9 --ctc-loss-scale 0.1 --preset small"
    run = config(f"{heads} --bpe-model {tmp_path / 'tokens.txt'} --exp-dir {tmp_path / 'exp'}")
    with pytest.raises(UserError, match="token 1 of the tokenizer` must be a sentence mark .*, but is `a`"):
        train(run)
