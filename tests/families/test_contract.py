"""What every family of models keeps: it trains, resumes, loads by every door, decodes, exports, and is no other.

One row per recipe and at least one recipe per family: a family that has none here fails.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from programs import ROOT, assert_one_line, run_program

sys.path.insert(0, str(ROOT / "tests/recipes"))
from real_speech import FIXTURES, TINY, prepare

from couloir.checkpoint import load_checkpoint, model_weights
from couloir.families import registry
from couloir.families.base import FamilySpec
from couloir.families.saved import config_from_plain, saved_config
from couloir.inference.info import describe
from couloir.inference.recognizer import Recognizer

DATA = "--manifest-dir data/shar --bpe-model data/lang/bpe.model --num-workers 0"
TRAIN = f"{DATA} --max-duration 8 --log-interval 1 --average-period 1 --save-every-n 2 --tensorboard False --seed 3"
HEADS = "--decoder-dim 16 --joiner-dim 16"


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe.

    Fields:
        family, recipe: names. tiny: flags of a model that trains in no time. decode: its program, and one method.
        exports: program -> files that it writes. others: tensors of a state dict that is almost of this family.
    """

    family: str
    recipe: str
    tiny: str
    decode: tuple[str, str]
    exports: dict[str, tuple[str, ...]]
    others: tuple[str, ...]


ROWS = [
    Row(
        "zipformer",
        "zipformer_crctc",
        TINY,
        ("ctc_decode.py", "ctc-greedy-search"),
        {"export.py": ("pretrained.pt", "model.safetensors"), "export_onnx.py": ("model.onnx",)},
        ("encoder.encoders.0.layers.0.norm_final.eps", "encoder.downsample_output.query"),
    ),
    Row(
        "zipformer",
        "zipformer_transducer",
        f"{TINY} {HEADS}",
        ("decode.py", "greedy_search"),
        {
            "export.py": ("pretrained.pt", "model.safetensors"),
            "export_onnx.py": ("encoder-iter-4-avg-1.onnx", "decoder-iter-4-avg-1.onnx", "joiner-iter-4-avg-1.onnx"),
        },
        ("encoder.layers.0.self_attn.in_proj_weight", "decoder.embedding.weight"),
    ),
]
ids = [row.recipe for row in ROWS]


def test_every_family_has_a_row():
    assert {row.family for row in ROWS} == set(registry.FAMILIES)


@pytest.fixture(scope="module", params=ROWS, ids=ids)
def trained(request, tmp_path_factory):
    """A row, its folder, and exp/, trained four steps in two starts; whole/ in one."""
    row = request.param
    folder = prepare(tmp_path_factory.mktemp(row.recipe))
    for exp, steps in (("whole", (4,)), ("exp", (2, 4))):
        for bound in steps:
            flags = f"{TRAIN} {row.tiny} --exp-dir {exp} --max-steps {bound} --final-decay 0"
            run_program(folder, f"{row.recipe}/train.py", flags)
    return row, folder


def weights_of(path):
    return model_weights(load_checkpoint(path), str(path))


def test_it_resumes_bit_for_bit(trained):
    _, folder = trained
    ours, whole = (load_checkpoint(folder / exp / "checkpoint-4.pt") for exp in ("exp", "whole"))
    assert ours["batch_idx_train"] == whole["batch_idx_train"] == 4
    for entry in ("model", "model_avg"):
        assert ours[entry].keys() == whole[entry].keys()
        assert all(torch.equal(ours[entry][name], whole[entry][name]) for name in whole[entry])


def test_its_name_is_saved(trained):
    row, folder = trained
    values = yaml.safe_load((folder / "exp/config.yaml").read_text())
    assert values["family"] == row.family
    assert load_checkpoint(folder / "exp/checkpoint-4.pt")["config"] == values
    config = saved_config(folder / "exp")
    assert type(config) is registry.spec_of(row.family).config and config.recipe == row.recipe
    # Runs from before there were families have no such entry.
    del values["family"]
    assert (config_from_plain(values, "old") == config) is (row.family == registry.DEFAULT)


def doors(row, folder, place):
    """A trained model as people have it: run directory, file in it, folder of another system, file beside tokens."""
    weights = {"model": weights_of(folder / "exp/checkpoint-4.pt")}
    yield folder / "exp", ""
    yield folder / "exp/checkpoint-4.pt", ""
    foreign = place / "foreign"
    foreign.mkdir()
    torch.save(weights, foreign / "pretrained.pt")
    shutil.copy(folder / "data/lang/tokens.txt", foreign)
    yield foreign, row.tiny
    torch.save(weights["model"], place / "bare.pth")
    shutil.copy(folder / "data/lang/tokens.txt", place)
    yield place / "bare.pth", row.tiny


def test_every_door_opens_the_same_model(trained, tmp_path):
    row, folder = trained
    program, method = row.decode
    recording, found, files = FIXTURES / "ru_0274.flac", [], []
    for number, (source, flags) in enumerate(doors(row, folder, tmp_path)):
        recognizer = Recognizer.from_pretrained(source)
        found.append(recognizer.transcribe([recording])[0])
        flags = f"--exp-dir {source} --decoding-method {method} --avg 1 --use-averaged-model False {DATA} {flags}"
        flags = flags if source.name == "exp" else flags.replace("--avg 1", "")
        run_program(folder, f"{row.recipe}/{program}", flags.replace("--bpe-model data/lang/bpe.model", ""))
        home = source if source.is_dir() else source.parent
        texts = sorted((home / method).glob("recogs-test-heldout-*"), key=lambda path: path.stat().st_mtime_ns)
        files.append(texts[-1].read_text())
        assert describe(source)["family"] == row.family, number
    assert len(set(files)) == 1
    # The first is an average of several checkpoints, the others are of one.
    assert len({(one.text, one.confidence) for one in found[1:]}) == 1


def test_it_exports_what_it_says(trained, tmp_path):
    row, folder = trained
    for program, names in row.exports.items():
        flags = f"--exp-dir exp --out-dir {tmp_path} --iter 4 --avg 1 --use-averaged-model False"
        run_program(folder, f"{row.recipe}/{program}", flags)
        assert not [name for name in names if not (tmp_path / name).is_file()]
    recording, texts = FIXTURES / "ru_0274.flac", []
    for source in (
        folder / "exp/checkpoint-4.pt",
        tmp_path / "model.safetensors",
        tmp_path / "pretrained.pt",
        tmp_path,
    ):
        options = {"runtime": "onnx"} if source == tmp_path else {}
        texts.append(Recognizer.from_pretrained(source, **options).transcribe([recording])[0].text)
    assert len(set(texts)) == 1
    assert describe(tmp_path / "model.safetensors")["family"] == row.family


def toy():
    """A second family, of state dicts with one name."""
    spec = registry.FAMILIES[registry.DEFAULT]
    return dataclasses.replace(spec, name="toy", about="toys", owns=lambda names: "toy.weight" in names)


@pytest.mark.parametrize("program", ["decode", "export.py", "train.py"])
def test_a_run_of_another_family_is_refused_by_name(trained, tmp_path, monkeypatch, program):
    row, folder = trained
    monkeypatch.setitem(registry.FAMILIES, "toy", toy())
    other = tmp_path / "other"
    shutil.copytree(folder / "exp", other)
    values = yaml.safe_load((other / "config.yaml").read_text()) | {"family": "toy"}
    (other / "config.yaml").write_text(yaml.safe_dump(values))
    program = row.decode[0] if program == "decode" else program
    flags = f"{TRAIN} {row.tiny}" if program == "train.py" else DATA
    done = run_program(folder, f"{row.recipe}/{program}", f"{flags} --exp-dir {other}", check=False)
    assert_one_line(done, "--exp-dir", f"family {row.family}", "toy")


@pytest.mark.parametrize("family", ["paraformer", "Zipformer", "../evil", "os:system", "[]", ""])
def test_an_unknown_family_is_refused_and_the_known_are_named(trained, tmp_path, family):
    row, folder = trained
    other = tmp_path / "other"
    shutil.copytree(folder / "exp", other)
    values = yaml.safe_load((other / "config.yaml").read_text()) | {"family": family}
    (other / "config.yaml").write_text(yaml.safe_dump(values))
    done = run_program(folder, f"{row.recipe}/export.py", f"--exp-dir {other}", check=False)
    assert_one_line(done, "known family", *registry.FAMILIES)
    done = run_program(folder, "couloir/cli.py", f"info {other}", check=False)
    assert_one_line(done, "known family", *registry.FAMILIES)


def test_weights_of_none_are_refused_and_the_known_are_named(trained, tmp_path):
    row, folder = trained
    torch.save({name: torch.ones(2, 2) for name in row.others}, tmp_path / "other.pt")
    shutil.copy(folder / "data/lang/tokens.txt", tmp_path)
    recording = FIXTURES / "ru_0274.flac"
    commands = {
        f"{row.recipe}/export.py": f"--exp-dir {tmp_path / 'other.pt'}",
        f"{row.recipe}/{row.decode[0]}": f"--exp-dir {tmp_path / 'other.pt'} --manifest-dir data/shar",
        "couloir/cli.py": f"info {tmp_path / 'other.pt'}",
        str(Path("couloir") / "cli.py"): f"transcribe {tmp_path / 'other.pt'} {recording}",
    }
    for program, flags in commands.items():
        assert_one_line(run_program(folder, program, flags, check=False), "known family", *registry.FAMILIES)


def test_weights_of_another_family_in_a_run_directory_are_refused(trained, tmp_path, monkeypatch):
    row, folder = trained
    monkeypatch.setitem(registry.FAMILIES, "toy", toy())
    other = tmp_path / "other"
    shutil.copytree(folder / "exp", other, ignore=shutil.ignore_patterns("*.pt"))
    torch.save({"model": {"toy.weight": torch.ones(2)}}, other / "checkpoint-1.pt")
    done = run_program(folder, f"{row.recipe}/export.py", f"--exp-dir {other}", check=False)
    assert_one_line(done, "must be of its family", row.family, "toys")


@pytest.mark.parametrize("spec", registry.FAMILIES.values(), ids=list(registry.FAMILIES))
def test_what_a_description_says(spec):
    assert isinstance(spec, FamilySpec)
    assert {"data", "text", "optim", "trainer"} <= spec.sections.keys() and spec.config().family == spec.name
    names = [field.name for cls in spec.sections.values() for field in dataclasses.fields(cls)]
    shared = {name for name in names if names.count(name) > 1}
    assert shared <= {"feature_dim"}, "a flag sets one field"
    for section, fields in spec.weight_bound.items():
        assert {*fields} <= {field.name for field in dataclasses.fields(spec.sections[section])}
    assert {*spec.signature} <= spec.model_sections.keys()
    for name in spec.presets:
        config = config_from_plain({"family": spec.name, **spec.presets[name]}, name)
        assert registry.family(spec.name).is_preset(config, name)
    assert registry.family(spec.name).spec is spec
    assert spec.units and {*spec.units} <= {"phone", "word", "char"}


def test_descriptions_need_no_torch():
    import subprocess

    code = "import sys; from couloir.families import registry, saved; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_file_names_no_module(tmp_path):
    """The implementation comes from the table alone."""
    with pytest.raises(Exception, match="of a known family"):
        registry.family("os:system")
