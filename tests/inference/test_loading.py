"""The one door to trained models: every file is read once, for every caller, and one place finds a tokenizer."""

import argparse
import collections
import sys

import pytest
import torch
from programs import ROOT

sys.path.insert(0, str(ROOT / "tests/recipes"))
from random_run import random_run
from real_speech import prepare

from couloir.checkpoint import CheckpointReader, load_checkpoint, save_checkpoint
from couloir.errors import UserError
from couloir.families import registry
from couloir.inference.info import describe
from couloir.inference.opening import open_source
from couloir.inference.recognizer import Recognizer
from couloir.inference.source import Source
from couloir.inference.tokenizers import find_tokenizer
from couloir.recipes.finetune import initialise, sized
from couloir.recipes.finetune_config import FinetuneConfig
from couloir.recipes.run import load_run
from couloir.text.tokenizer import load_tokenizer
from couloir.training.averaging import averaged, load_averaged
from couloir.training.config import AveragingConfig
from couloir.training.span import look_at_newest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with exp/, a transducer's run of five checkpoints with running averages."""
    folder = prepare(tmp_path_factory.mktemp("door"))
    run = random_run(folder, "exp")
    weights = load_checkpoint(run / "checkpoint-1.pt")["model"]
    (run / "checkpoint-1.pt").unlink()
    for step in range(1, 6):
        moved = {
            name: tensor + 0.001 * step if tensor.is_floating_point() else tensor for name, tensor in weights.items()
        }
        content = {"model": moved, "model_avg": moved, "batch_idx_train": step, "average_period": 1}
        save_checkpoint(run / f"checkpoint-{step}.pt", content)
    return folder


@pytest.fixture
def opened(monkeypatch):
    """How often each file of weights was read, by name."""
    counts, load = collections.Counter(), torch.load

    def counting(path, *args, **values):
        counts[path.name] += 1
        return load(path, *args, **values)

    monkeypatch.setattr(torch, "load", counting)
    return counts


DOORS = {
    "recognizer": lambda run: Recognizer.from_pretrained(run),
    "a mean of two": lambda run: Recognizer.from_pretrained(run, averaging=AveragingConfig(iter=5, avg=2)),
    "a plain mean": lambda run: load_averaged(run, AveragingConfig(avg=3, use_averaged_model=False)),
    "a file": lambda run: Recognizer.from_pretrained(run / "checkpoint-3.pt"),
    "a recipe": lambda run: load_run(
        argparse.Namespace(exp_dir=run), AveragingConfig(), "zipformer_transducer", {}, "cpu"
    ),
    "a recipe's file": lambda run: load_run(
        argparse.Namespace(exp_dir=run / "checkpoint-2.pt"), AveragingConfig(), None, {}
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_each_file_is_read_once(home, opened, door):
    DOORS[door](home / "exp")
    assert opened and set(opened.values()) == {1}, opened


def test_info_says_what_a_loaded_average_is(home):
    facts, (_, suffix) = describe(home / "exp"), load_averaged(home / "exp", AveragingConfig())
    assert facts["weights"] == suffix
    reader = CheckpointReader()
    assert look_at_newest(home / "exp", reader)[1] == averaged(home / "exp", AveragingConfig(), reader).suffix


def test_fine_tuning_takes_what_the_door_gives(home):
    finetune = FinetuneConfig(finetune_ckpt=str(home / "exp/checkpoint-5.pt"))
    source = open_source(Source(home / "exp/checkpoint-5.pt"))
    config = source.config()
    found = sized(config, finetune, [])
    assert found.zipformer == config.zipformer and found.heads == config.heads
    torch.manual_seed(1)
    model, tokenizer = source.family.build(config), load_tokenizer(home / "exp/lang")
    initialise(model, tokenizer, finetune)
    wanted = load_checkpoint(home / "exp/checkpoint-5.pt")["model"]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_weights_that_were_looked_at_are_compared_with_their_checksums_when_read(home, tmp_path):
    path = tmp_path / "checkpoint-5.pt"
    data = bytearray((home / "exp/checkpoint-5.pt").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    source = open_source(Source(path))
    source.reader.look(path)
    with pytest.raises(UserError, match="damaged"):
        source.read_weights(AveragingConfig())


def tokenizers(folder, *places):
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text("<blk> 0\na 1\n")


@pytest.mark.parametrize(
    ("there", "named", "fallback", "found"),
    [
        (["lang/tokens.txt", "tokens.txt"], "", "", "lang"),
        (["tokens.txt", "data/lang/tokens.txt"], "", "", "."),
        (["ipa_simplified/unigram.model"], "", "", "ipa_simplified"),
        (["../lang/tokens.txt"], "", "", "../lang"),
        (["lang/bpe.model", "lang/other.model"], "elsewhere/other.model", "", "lang/other.model"),
        (["mine/tokens.txt", "tokens.txt"], "mine", "", "mine"),
        (["lang/tokens.txt", "mine/tokens.txt"], "mine", "", "lang"),
        (["tokens.txt", "mine/tokens.txt"], "", "mine", "."),
        (["mine/tokens.txt"], "", "mine", "mine"),
        (["mine/notes.txt"], "mine", "mine", None),
        ([], "mine", "", None),
    ],
)
def test_where_a_tokenizer_is_looked_for(tmp_path, there, named, fallback, found):
    folder = tmp_path / "run"
    folder.mkdir()
    tokenizers(folder, *there)
    saved = {"text": {"bpe_model": str(folder / named)}} if named else {}
    arguments = folder, saved, None, str(folder / fallback) if fallback else "", "--flag"
    if found is None:
        with pytest.raises(UserError, match="no tokenizer was found beside .* with --flag"):
            find_tokenizer(*arguments)
    else:
        assert find_tokenizer(*arguments).resolve() == (folder / found).resolve()
    assert find_tokenizer(folder, saved, tmp_path / "given") == tmp_path / "given"


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ({}, None),
        ({"zipformer": {}, "heads": {}}, "zipformer"),
        ({"zipformer": {}, "heads": {}, "family": "zipformer"}, "zipformer"),
        ({"zipformer": {}}, None),
        ({"family": "resnet", "layers": 3}, None),
        ({"family": ["zipformer"]}, None),
        ({"recipe": "x", "trainer": {}, "zipformer": {}, "heads": {}}, "zipformer"),
        ({"recipe": "x", "trainer": {}, "family": "zipformer"}, None),
    ],
)
def test_whose_a_configuration_is(values, family):
    found = registry.family_of_values(values, "config.yaml")
    assert (found and found.name) == family


@pytest.mark.parametrize("family", ["resnet", "", 3, None, ["zipformer"], {"a": 1}])
def test_ours_of_an_unknown_family_is_refused(family):
    with pytest.raises(UserError, match="`config.yaml` must be of a known family .zipformer: "):
        registry.family_of_values({"recipe": "x", "trainer": {}, "family": family}, "config.yaml")


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["encoder.encoders.0.layers.0.bypass_scale", "encoder.downsample_output.bias"], "zipformer"),
        (["encoder.encoders.0.encoder.layers.0.x", "encoder.downsample_output.bias"], "zipformer"),
        (["encoder.encoders.0.layers.0.x", "encoder.downsample_output.query"], None),
        (["encoder.downsample_output.bias"], None),
        (["encoder.encoders.00.x"], None),
        ([], None),
    ],
)
def test_whose_weights_are(names, family):
    if family:
        assert registry.family_of(names, "x.pt").name == family
        return
    with pytest.raises(UserError, match=r"`the weights in x.pt` must be those of a known family .zipformer"):
        registry.family_of(names, "x.pt")
