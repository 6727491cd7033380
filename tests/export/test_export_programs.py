"""The export programs on every kind of weights that people have, and what the files of weights are good for."""

import argparse
import dataclasses
import json

import pytest
import safetensors.torch
import soundfile
import torch
from programs import assert_one_line, run_program
from small_models import PIECES, SPEECH, make_model, write_tokens

from couloir.audio import load_audio
from couloir.checkpoint import save_checkpoint
from couloir.config import as_plain, write_yaml
from couloir.errors import UserError
from couloir.export import weights as weight_export
from couloir.export.weights import save_weights
from couloir.families.zipformer_export import prepared
from couloir.families.zipformer_spec import ZipformerRunConfig
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.inference.info import describe
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.inference.registry import HUB_MODELS, HubModel
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.vocabulary import Vocabulary
from couloir.models.zipformer.config import PRESETS
from couloir.recipes.export import check_full_context
from couloir.recipes.run import LoadedRun

CTC, TRANSDUCER = "zipformer_crctc", "zipformer_transducer"
EXPORT = f"{CTC}/export.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model():
    return make_model("ctc")


def write_run(folder, model, recipe=CTC, fbank=None):
    """A run directory as the trainer leaves it."""
    write_tokens(folder / "lang")
    sections = {
        "recipe": recipe,
        "zipformer": as_plain(model.zipformer_config),
        "heads": as_plain(model.heads_config),
        "fbank": as_plain(fbank or FbankConfig()),
        "text": {"bpe_model": "moved/away.model"},
    }
    write_yaml(folder / "config.yaml", sections)
    save_checkpoint(folder / "epoch-1.pt", {"model": model.state_dict(), "batch_idx_train": 10})
    return folder


def text_of(model, kind=None, fbank=None):
    backend = TorchBackend(model, Fbank(fbank or FbankConfig()), Vocabulary(PIECES), torch.device("cpu"), kind=kind)
    return Recognizer(backend).transcribe([SPEECH])[0].text


def heard(source, **options):
    return Recognizer.from_pretrained(source, **options).transcribe([SPEECH])[0].text


def assert_same_weights(folder, model):
    """Both files hold the model's weights, as torch and safetensors themselves read them."""
    pretrained = torch.load(folder / "pretrained.pt", weights_only=True)["model"]
    safe = safetensors.torch.load_file(folder / "model.safetensors")
    expected = model.state_dict()
    assert pretrained.keys() == safe.keys() == expected.keys()
    assert len({(folder / name).stat().st_mode for name in ("pretrained.pt", "model.safetensors", "tokens.txt")}) == 1
    for name, tensor in expected.items():
        torch.testing.assert_close(pretrained[name], tensor, rtol=1e-6, atol=1e-7)
        assert torch.equal(safe[name], pretrained[name])
    assert (folder / "tokens.txt").read_text().split()[::2] == PIECES


def scaled(model, factor):
    return {
        name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }


@pytest.mark.slow
def test_a_run_directory_needs_no_other_flag(tmp_path, model):
    run = write_run(tmp_path / "run", model)
    run_program(tmp_path, EXPORT, ["--exp-dir", run])
    assert_same_weights(run, model)
    run_program(tmp_path, f"{CTC}/export_onnx.py", ["--exp-dir", run, "--out-dir", tmp_path / "out"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.int8.onnx", "model.onnx", "tokens.txt"}
    assert Recognizer(OnnxBackend(tmp_path / "out")).transcribe([SPEECH])[0].text == text_of(model)
    refused = run_program(tmp_path, f"{CTC}/export_onnx_streaming.py", ["--exp-dir", run], check=False)
    assert_one_line(refused, "--causal")
    assert_one_line(
        run_program(tmp_path, f"{CTC}/export_onnx.py", ["--exp-dir", run, "--head", "ctc"], check=False), "--head"
    )
    help_text = " ".join(run_program(tmp_path, EXPORT, ["--help"]).stdout.split())
    assert "empty: 4 s of Russian that come with the program" in help_text


def test_checkpoints_of_other_systems(tmp_path, model):
    """A folder of icefall's, a bare file, raw checkpoints to average: sizes are read off the weights."""
    icefall = tmp_path / "icefall"
    write_tokens(icefall)
    content = {
        "model": {f"module.{k}": v for k, v in model.state_dict().items()},
        "batch_idx_train": 5,
        "exp_dir": icefall,
    }
    torch.save(content, icefall / "epoch-999.pt")
    for source in (icefall, icefall / "epoch-999.pt"):
        flags = ["--epoch", "999", "--avg", "1", "--use-averaged-model", "0"] if source == icefall else []
        run_program(tmp_path, EXPORT, ["--exp-dir", source, *flags])
        assert_same_weights(icefall, model)
        (icefall / "pretrained.pt").unlink()

    bare = tmp_path / "zipa"
    write_tokens(bare)
    # What icefall's tokens.txt has besides stays in it.
    with open(bare / "tokens.txt", "a", encoding="utf-8") as out:
        out.write("#0 19\n")
    torch.save(dict(model.state_dict()), bare / "zipa.pth")
    for source in ("zipa.pth", ".", "zipa.pth"):  # the copies that the first leaves there do not stand in the way
        run_program(bare, EXPORT, ["--exp-dir", source])
    assert (bare / "tokens.txt").read_text().endswith("#0 19\n")
    assert heard(bare) == heard(bare / "zipa.pth") == text_of(model)

    raw = tmp_path / "raw"
    write_tokens(tmp_path / "tokens")
    raw.mkdir()
    for i, factor in ((1, 0.5), (2, 1.5)):
        torch.save({"model": scaled(model, factor), "batch_idx_train": i * 1000}, raw / f"checkpoint-{i}000.pt")
    flags = ["--exp-dir", raw, "--iter", "2000", "--avg", "2", "--use-averaged-model", "0"]
    run_program(tmp_path, EXPORT, [*flags, "--tokens", tmp_path / "tokens/tokens.txt", "--out-dir", "mean"])
    assert_same_weights(tmp_path / "mean", model)
    refused = run_program(tmp_path, EXPORT, flags, check=False)
    assert_one_line(refused, "no tokenizer was found beside", "--bpe-model")
    assert not (raw / "pretrained.pt").exists()


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """(hub id) -> the folder of its files in a cache of one's own."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def make(repo):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(COMMIT)
        write_tokens(snapshot)
        return snapshot

    return make


def test_models_on_the_hub(tmp_path, model, cached, monkeypatch):
    snapshot = cached("someone/small")
    torch.save(model.state_dict(), snapshot / "small.pth")
    for name in ("someone/small", f"someone/small@{COMMIT}"):
        run_program(tmp_path, EXPORT, ["--exp-dir", name, "--out-dir", "out"])
        assert_same_weights(tmp_path / "out", model)
    assert sorted(path.name for path in snapshot.iterdir()) == ["small.pth", "tokens.txt"]

    # A published model: its raw checkpoints are averaged as they were, and it has to be of its size and kind.
    raw = cached("anyspeech/zipa-cr-s")
    for i, factor in ((1, 7.0), (2, 0.5), (3, 1.5)):
        torch.save({"model": scaled(model, factor), "batch_idx_train": 1000 * i}, raw / f"checkpoint-{1000 * i}.pt")
    flags = ["--exp-dir", "anyspeech/zipa-cr-s", "--out-dir", "raw"]
    assert_one_line(run_program(tmp_path, EXPORT, flags, check=False), "10")  # there are three
    monkeypatch.setitem(HUB_MODELS, "anyspeech/zipa-cr-s", HubModel("zipa_small", "ctc", average=2))
    assert_one_line(run_program(tmp_path, EXPORT, flags, check=False), "zipa_small")
    monkeypatch.setitem(PRESETS, "mine", model.zipformer_config)
    monkeypatch.setitem(HUB_MODELS, "anyspeech/zipa-cr-s", HubModel("mine", "ctc", average=2))
    run_program(tmp_path, EXPORT, flags)
    assert_same_weights(tmp_path / "raw", model)
    wrong = run_program(tmp_path, f"{TRANSDUCER}/export.py", flags, check=False)
    assert_one_line(wrong, "anyspeech/zipa-cr-s, a ctc model", "a recipe for ctc models")


def test_what_is_not_there_is_said_in_one_line(tmp_path, model, cached):
    def refused(*flags):
        return run_program(tmp_path, EXPORT, flags, check=False)

    cached("someone/small")
    assert_one_line(refused("--exp-dir", "someone/small"), "someone/small, which does not exist", "--out-dir")
    assert_one_line(refused("--exp-dir", "exp/typo", "--out-dir", "out"), "no folder or file here", "exp/typo")
    assert_one_line(refused("--exp-dir", "gone.safetensors", "--out-dir", "out"), "gone.safetensors does not exist")
    assert_one_line(refused(), "zipformer_crctc/exp does not exist")
    (tmp_path / "empty").mkdir()
    assert_one_line(refused("--exp-dir", "empty"), "must hold checkpoints")
    write_run(tmp_path / "run", model)
    assert_one_line(refused("--exp-dir", "run", "--check-wav", "gone.wav"), "gone.wav")
    assert_one_line(run_program(tmp_path, f"{TRANSDUCER}/export.py", ["--exp-dir", "run"], check=False), CTC)


@pytest.mark.slow
def test_weights_with_their_configuration_open_everywhere(tmp_path, model):
    """model.safetensors stands for the run: features that are not the default ones are in its metadata too."""
    fbank = FbankConfig(low_freq=60.0)
    run = write_run(tmp_path / "run", model, fbank=fbank)
    run_program(tmp_path, EXPORT, ["--exp-dir", run, "--out-dir", "out"])
    with safetensors.safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert (stored["recipe"], stored["fbank"]["low_freq"]) == (CTC, 60.0)
    expected = text_of(model, fbank=fbank)
    assert heard(tmp_path / "out/model.safetensors") == heard(run) == expected != text_of(model)
    # Of the two copies in the folder the one that holds the configuration is taken; alone it is found too.
    assert heard(tmp_path / "out") == expected
    (tmp_path / "out/pretrained.pt").unlink()
    (tmp_path / "out/jit_script.pt").write_text("TorchScript is no checkpoint")
    assert heard(tmp_path / "out") == expected
    facts = describe(tmp_path / "out/model.safetensors")
    assert (facts["recipe"], facts["heads"], facts["is"]) == (CTC, "CTC", "checkpoint")
    for source in ("out/model.safetensors", "out"):
        run_program(tmp_path, EXPORT, ["--exp-dir", source, "--out-dir", "again"])
        assert heard(tmp_path / "again") == expected
    other = run_program(tmp_path, f"{TRANSDUCER}/export.py", ["--exp-dir", "out/model.safetensors"], check=False)
    assert_one_line(other, f"a run of {CTC}")


def test_damaged_and_foreign_safetensors(tmp_path, model):
    write_tokens(tmp_path)
    path = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(model.state_dict(), path, {"config": "no JSON"})
    assert heard(path) == text_of(model)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"bare.safetensors is damaged or cut off"):
        heard(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"bare.safetensors is damaged or cut off"):
        heard(path)


@pytest.mark.parametrize("name", ["pretrained.pt", "model.safetensors"])
def test_weights_that_come_back_otherwise_are_not_left_behind(tmp_path, model, name, monkeypatch):
    def corrupted(path):
        found = read(path)
        if path.name == name:
            found["model"]["encoder_embed.out.weight"][0, 0] += 1e-7
        return found

    read = weight_export.load_checkpoint
    monkeypatch.setattr(weight_export, "load_checkpoint", corrupted)
    (tmp_path / "pretrained.pt").write_text("older")
    with pytest.raises(UserError, match=rf"^{name} does not give back .*encoder_embed.out.weight.*earlier export"):
        save_weights(model, {}, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


@pytest.mark.slow
def test_the_ctc_head_of_a_transducer(tmp_path):
    both = make_model("both", causal=True)
    run = write_run(tmp_path / "run", both, TRANSDUCER)
    soundfile.write(tmp_path / "short.wav", load_audio(SPEECH)[16000:28000], 16000)
    fp32 = ["--exp-dir", run, "--enable-int8-quantization", "0", "--check-wav", "short.wav"]
    offline, streaming = f"{TRANSDUCER}/export_onnx.py", f"{TRANSDUCER}/export_onnx_streaming.py"
    run_program(tmp_path, offline, [*fp32, "--head", "ctc", "--out-dir", "ctc"])
    run_program(tmp_path, offline, [*fp32, "--head", "ctc", "--out-dir", "audio", "--with-frontend", "1"])
    run_program(tmp_path, streaming, [*fp32, "--head", "ctc", "--out-dir", "online"])
    names = {place: {path.name for path in (tmp_path / place).iterdir()} for place in ("ctc", "audio", "online")}
    online = "ctc-epoch-1-avg-1-chunk-16-left-32.onnx"
    assert names == {
        "ctc": {"model.onnx", "tokens.txt"},
        "audio": {"audio-model.onnx", "tokens.txt"},
        "online": {online, "tokens.txt"},
    }
    # Exported models see the whole recording.
    whole = prepared(both)
    for place in ("ctc", "audio"):
        (found,) = Recognizer(OnnxBackend(tmp_path / place)).transcribe([SPEECH])
        assert found.text == text_of(whole, "ctc") != text_of(whole, "transducer")
    assert_one_line(run_program(tmp_path, offline, [*fp32, "--with-frontend", "1"], check=False), "--head ctc")
    run = write_run(tmp_path / "alone", make_model("transducer"), TRANSDUCER)
    refused = run_program(tmp_path, offline, ["--exp-dir", run, "--head", "ctc"], check=False)
    assert_one_line(refused, "--use-ctc", "True to export a ctc model")


def as_run(config, kind, **given):
    """What the export programs have loaded, and their flags."""
    model = make_model(kind, causal=config["causal"])
    zipformer = dataclasses.replace(model.zipformer_config, **(config | given))
    run = LoadedRun(None, ZipformerRunConfig(zipformer=zipformer), model, None, None, "", torch.device("cpu"))
    return run, argparse.Namespace(**{name: ",".join(map(str, values)) for name, values in given.items()})


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"chunk_size": (16,), "left_context_frames": (64,)}, "--chunk-size"),
        ({"chunk_size": (32,)}, "--chunk-size"),
        ({"chunk_size": (-1,), "left_context_frames": (64,)}, "--left-context-frames"),
        ({"left_context_frames": (128,)}, "--left-context-frames"),
        ({}, None),
        ({"chunk_size": (-1,), "left_context_frames": (-1,)}, None),
        ({"chunk_size": (16, 32, 64, -1), "left_context_frames": (64, 128, 256, -1)}, None),
    ],
)
def test_a_file_of_whole_recordings_refuses_another_context(given, flag):
    """Never ignored in silence; the several sizes of a training's flags ask for nothing."""
    run, namespace = as_run({"causal": True, "chunk_size": (16, 32, -1)}, "ctc", **given)
    if flag is None:
        check_full_context(run, namespace, "leave it out")
        return
    with pytest.raises(UserError) as caught:
        check_full_context(run, namespace, "leave it out")
    asked = next(values[0] for name, values in given.items() if values != (-1,))
    assert str(caught.value).startswith(f"`{flag}` must be -1") and f"but is {asked}" in str(caught.value)
    assert "leave it out" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("causal", "chunks", "said"), [(True, (16,), True), (True, (16, 32), False), (False, (16,), False)]
)
def test_full_context_of_a_model_with_one_chunk_size_is_said(caplog, causal, chunks, said):
    run, namespace = as_run({"causal": causal, "chunk_size": chunks}, "ctc")
    with caplog.at_level("WARNING"):
        check_full_context(run, namespace, "")
    assert ("chunks of 16" in caplog.text) == said


@pytest.mark.slow
def test_a_context_that_is_asked_for_is_not_taken_for_that_of_training(tmp_path):
    """The weights say what they were trained with; the script has the chunk; the ONNX program refuses it."""
    model = make_model("ctc", causal=True)
    model.zipformer_config = dataclasses.replace(
        model.zipformer_config, chunk_size=(16, 32, -1), left_context_frames=(64, -1)
    )
    run = write_run(tmp_path / "run", model)
    asked = ["--exp-dir", run, "--chunk-size", "16", "--left-context-frames", "32"]
    run_program(tmp_path, EXPORT, [*asked, "--jit", "True", "--out-dir", "out"])
    assert (tmp_path / "out" / "jit_script_chunk_16_left_32.pt").is_file()
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        saved = json.loads(file.metadata()["config"])["zipformer"]
    assert tuple(saved["chunk_size"]) == (16, 32, -1) and tuple(saved["left_context_frames"]) == (64, -1)
    for name in ("pretrained.pt", "model.safetensors"):
        assert Recognizer.from_pretrained(tmp_path / "out" / name).choices == {}
    for program, flags in ((f"{CTC}/export_onnx.py", []), (EXPORT, ["--jit-trace", "True"])):
        refused = run_program(tmp_path, program, [*asked, *flags, "--out-dir", "none"], check=False)
        assert_one_line(refused, "--chunk-size", "full context")
    assert not (tmp_path / "none").exists()
