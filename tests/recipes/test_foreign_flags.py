"""Flags of other systems that have no effect here: accepted, named where they ask for something, kept nowhere."""

import dataclasses

import pytest

from couloir.config import as_plain, write_yaml
from couloir.errors import UserError
from couloir.families.foreign_flags import FOREIGN_FLAGS, is_foreign
from couloir.families.registry import DEFAULT, spec_of
from couloir.recipes.run_config import (
    build_config,
    config_from_plain,
    lay_over_saved,
    make_parser,
    save_config,
    saved_config,
)
from couloir.weight_files import CONFIG_FILE
from zipformer_crctc.train import DEFAULTS, RECIPE

# Which values icefall's and ZIPA's programs have where nobody gives the flag.
DEFAULTS_THERE = {
    "full_libri": True, "mini_libri": False, "concatenate_cuts": False, "duration_factor": 1.0, "gap": 1.0,
    "on_the_fly_feats": True, "return_cuts": True, "input_strategy": "AudioSamples",
    "subset": "", "train_manifest": "", "cr_loss_masked_scale": 1.0, "use_unsup_cr_ctc": False,
    "unsup_cr_ctc_loss_scale": 0.5, "use_mask_threshold": 0.8, "blank_id": 0,
}  # fmt: skip


def parse(flags):
    return make_parser("").parse_args(flags if isinstance(flags, list) else flags.split())


def config(flags):
    return build_config(parse(flags), RECIPE, DEFAULTS)


def test_no_section_has_a_flag_of_the_table():
    assert set(FOREIGN_FLAGS) == set(DEFAULTS_THERE)
    fields = {field.name for cls in spec_of(DEFAULT).sections.values() for field in dataclasses.fields(cls)}
    assert not fields & set(FOREIGN_FLAGS)
    assert all(flag.why and flag.whose in ("icefall", "ZIPA") for flag in FOREIGN_FLAGS.values())
    assert is_foreign("data", "gap") and not is_foreign("loss", "gap") and not is_foreign("data", "num_workers")


@pytest.mark.parametrize("name", DEFAULTS_THERE)
def test_their_own_defaults_ask_for_nothing(name, caplog):
    words = [f"--{name.replace('_', '-')}", str(DEFAULTS_THERE[name])]
    assert config(words) == config([]) and not caplog.messages


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--concatenate-cuts True", ["`--concatenate-cuts` must be False, but is True", "leave the flag out"]),
        ("--train-manifest a.jsonl.gz", ["`--train-manifest` must be empty, but is a.jsonl.gz", "--manifest-dir"]),
        ("--cr-loss-masked-scale 2", ["`--cr-loss-masked-scale` must be 1.0, but is 2.0"]),
        ("--blank-id 3", ["`--blank-id` must be 0, but is 3", "put it first in tokens.txt"]),
        ("--full-libri perhaps", ["`--full-libri` must be True or False", "perhaps"]),
        ("--gap wide", ["`--gap` must be a number", "wide"]),
        ("--use-mask-threshold nan", ["`--use-mask-threshold` must be a number"]),
    ],
)
def test_what_would_change_the_training_is_refused(flag, words):
    with pytest.raises(UserError) as error:
        config(flag)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_a_file_of_settings_may_hold_them(tmp_path, caplog):
    file = tmp_path / "run.yaml"
    file.write_text("data: {full-libri: False, gap: 2, max_duration: 7}\nloss: {use_unsup_cr_ctc: True}\n")
    run = config(f"--config {file}")
    assert run.data.max_duration == 7
    assert [line.split("`")[1] for line in caplog.messages] == ["--full-libri False", "--use-unsup-cr-ctc True"]
    caplog.clear()
    config(f"--config {file} --full-libri True --use-unsup-cr-ctc False")
    assert not caplog.messages, "flags win over the file"
    file.write_text("loss: {full_libri: False}\n")
    with pytest.raises(UserError, match="unknown key.*full_libri"):
        config(f"--config {file}")


def test_they_are_not_saved_and_old_runs_that_hold_them_load(tmp_path, caplog):
    run = config("--full-libri False --use-unsup-cr-ctc True --base-lr 0.03")
    caplog.clear()
    save_config(run, tmp_path)
    text = (tmp_path / CONFIG_FILE).read_text()
    assert "base_lr: 0.03" in text and not any(f"{name}:" in text for name in FOREIGN_FLAGS)
    old = as_plain(run)
    for name, value in DEFAULTS_THERE.items():
        old[FOREIGN_FLAGS[name].section][name] = value
    old["data"]["full_libri"], old["loss"]["use_unsup_cr_ctc"] = False, True
    write_yaml(tmp_path / CONFIG_FILE, old)
    assert saved_config(tmp_path) == run == config_from_plain(old, "a checkpoint")
    assert lay_over_saved(saved_config(tmp_path), parse("")) == run
    assert not caplog.messages, "nobody asked for anything now"


def test_help_all_has_their_table(capsys):
    with pytest.raises(SystemExit):
        parse("--help-all")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(
        f"--{name.replace('_', '-')} X {flag.whose}'s: {flag.why}" in shown for name, flag in FOREIGN_FLAGS.items()
    )
