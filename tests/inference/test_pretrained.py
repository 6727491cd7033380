"""Models from elsewhere: bare checkpoints, averages of them, the hub's cache; sizes read off weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HTTPError
from tiny_models import PIECES, tiny_model, write_tokens

from couloir.checkpoint import save_checkpoint
from couloir.errors import UserError
from couloir.inference import hub
from couloir.inference.onnx_backend import ctc_file, transducer_files
from couloir.inference.pretrained import open_model
from couloir.inference.recognizer import Recognizer
from couloir.inference.registry import HUB_MODELS, HubModel
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.sizes import heads_config
from couloir.models.zipformer.architecture import adapted, preset_name, same_sizes, zipformer_config
from couloir.models.zipformer.config import HEAD_WIDTHS, PRESETS
from couloir.models.zipformer.model import build_model
from couloir.training.config import AveragingConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def text_of(speech):
    return lambda source, **options: Recognizer.from_pretrained(source, **options).transcribe(speech[:1])[0].text


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["ctc", pytest.param("transducer", marks=pytest.mark.slow)])
@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sizes_are_read_off_the_weights_of_every_preset(preset, kind, causal):
    config = dataclasses.replace(PRESETS[preset], causal=causal)
    widths = HEAD_WIDTHS.get(preset, {})
    heads = HeadsConfig(use_ctc=kind == "ctc", use_transducer=kind != "ctc", vocab_size=127, **widths)
    with torch.device("meta"):
        weights = build_model(config, heads).state_dict()
    found = zipformer_config(weights, "x")
    assert same_sizes(found, config)
    assert preset_name(found) == ("medium" if preset == "zipa_t_small" else preset)
    read = heads_config(weights, "x")
    names = ["use_ctc", "use_transducer", "vocab_size"] + ["decoder_dim", "joiner_dim", "context_size"] * (
        kind != "ctc"
    )
    assert [getattr(read, n) for n in names] == [getattr(heads, n) for n in names]


def test_bare_weights_icefall_checkpoints_and_raw_ones_averaged(text_of, tmp_path):
    weights = tiny_model().state_dict()
    tokens = write_tokens(tmp_path / "tokens")
    expected = None
    icefall = {"model": {f"module.{k}": v for k, v in weights.items()}, "exp_dir": tmp_path, "batch_idx_train": 5}
    contents = {"zipa.pth": dict(weights), "epoch-999.pt": icefall, "pretrained.pt": {"model": weights}}
    for name, content in contents.items():
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        torch.save(content, folder / name)
        for source in (folder, folder / name):
            text = text_of(source, tokens=tokens)
            expected = expected or text
            assert text == expected and len(text) > 10

    raw = tmp_path / "raw"
    raw.mkdir()
    for i, factor in ((1, 0.5), (2, 1.5)):
        scaled = {k: v * factor if v.is_floating_point() else v for k, v in weights.items()}
        torch.save({"model": scaled, "batch_idx_train": 1000 * i}, raw / f"checkpoint-{1000 * i}.pt")
    write_tokens(raw)
    assert text_of(raw, averaging=AveragingConfig(iter=2000, avg=2)) == expected
    assert text_of(raw, averaging=AveragingConfig(iter=2000, avg=1)) != expected


def _cache(root, repo, kind="model"):
    folder = root / "hub" / f"{kind}s--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


ZIPA_PIECES = [
    "<blk>", "<sos/eos>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyzæçðøħŋœǀǁǂǃɐɑɒɓɔɕɖɗɘəɛɜɞɟɠɢɣɤɥɦɧɨɪɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁ",
    *"ʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢʰʲʷʼː˞ˠˤ\u0303\u031a\u0325\u0329\u032a\u0334\u033aβθχᶑⱱ",
]  # fmt: skip


def _write_tokenizer(root, pieces, commit=COMMIT):
    """The repository of ZIPA's tokenizer in the cache, with a model of these pieces at a commit."""
    import sentencepiece

    folder = root / "hub" / "datasets--anyspeech--ipapack_plus_meta"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ("main" if commit == COMMIT else "v2")).write_text(commit)
    target = folder / "snapshots" / commit / "ipa_simplified"
    target.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["".join(pieces[3:])]), model_prefix=str(target / "unigram_127"),
        model_type="bpe", vocab_size=len(pieces), user_defined_symbols=[*pieces[:2], *pieces[3:]], unk_id=2, bos_id=-1,
        eos_id=-1, add_dummy_prefix=False, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    return target / "unigram_127.model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_hub_models_come_from_the_cache_without_a_network(cache, text_of):
    snapshot = _cache(cache, "someone/tiny")
    weights = tiny_model().state_dict()
    torch.save(weights, snapshot / "tiny.pth")
    write_tokens(snapshot)
    expected = text_of(snapshot / "tiny.pth")
    assert text_of("someone/tiny") == text_of(f"someone/tiny@{COMMIT}") == expected
    assert text_of("someone/tiny", revision="main") == expected
    with pytest.raises(UserError, match="someone/tiny@v2"):
        open_model("someone/tiny@v2")
    with pytest.raises(UserError, match="someone/other"):
        open_model("someone/other")
    with pytest.raises(UserError, match="commit f{40}"):
        monkeyed = hub._fetch
        try:
            hub._fetch = lambda *_, **__: str(snapshot)
            hub.fetch_model("someone/tiny", "f" * 40)
        finally:
            hub._fetch = monkeyed


def test_a_connection_that_breaks_is_one_line(monkeypatch):
    client = pytest.importorskip(HTTPError.__module__.partition(".")[0])
    for failure in (client.ReadTimeout(""), getattr(client, "RemoteProtocolError", client.ReadTimeout)("peer left")):

        def broken(_failure=failure, **_):
            raise _failure

        monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
        with pytest.raises(UserError, match=f"someone/tiny could not be fetched.*: {failure or 'ReadTimeout'}"):
            hub.fetch_model("someone/tiny")


def test_a_suffix_asks_for_onnx_files(models, tmp_path):
    both = Path(shutil.copytree(models() / "run", tmp_path / "both"))
    shutil.copy(models() / "onnx" / "model.onnx", both / "model.int8.onnx")
    shutil.copy(models() / "onnx" / "tokens.txt", both)
    assert "epoch-1.pt" in {file.name for file in open_model(both).files}
    assert "model.int8.onnx" in {file.name for file in open_model(both, suffix=".int8.onnx").files}


def test_a_file_that_is_named_decides(tmp_path):
    for stem in ("epoch-1-avg-1", "epoch-2-avg-1"):
        for name in (f"encoder-{stem}", f"decoder-{stem}", f"joiner-{stem}", f"model-{stem}"):
            (tmp_path / f"{name}.onnx").touch()
            if not name.startswith("decoder"):
                (tmp_path / f"{name}.int8.onnx").touch()

    def parts(name, suffix=".onnx"):
        return [file.name for file in transducer_files(tmp_path / name, suffix).values()]

    second = [f"{part}-epoch-2-avg-1.onnx" for part in ("encoder", "decoder", "joiner")]
    int8 = ["encoder-epoch-1-avg-1.int8.onnx", "decoder-epoch-1-avg-1.onnx", "joiner-epoch-1-avg-1.int8.onnx"]
    assert parts(second[0]) == parts(second[1]) == parts(second[2]) == second
    assert parts(int8[0]) == parts(int8[2]) == parts(int8[1], ".int8.onnx") == int8
    with pytest.raises(UserError, match="--model-path"):
        transducer_files(tmp_path, ".onnx")
    (tmp_path / second[2]).unlink()
    with pytest.raises(UserError, match=r"no joiner-epoch-2-avg-1\.onnx of a transducer; there is"):
        parts(second[0])

    fp32 = tmp_path / "model-epoch-1-avg-1.onnx"
    (tmp_path / "model.ort").touch()
    assert ctc_file(fp32, ".onnx") == fp32 and ctc_file(tmp_path / "model.ort", ".onnx").name == "model.ort"
    for name in ("model-epoch-1-avg-1.onnx", "model-epoch-1-avg-1.int8.onnx"):
        assert ctc_file(tmp_path / name, ".int8.onnx").name == "model-epoch-1-avg-1.int8.onnx"
    with pytest.raises(UserError, match=r"holds no model-epoch-1-avg-1\.fp16\.onnx; there is .*--suffix"):
        ctc_file(fp32, ".fp16.onnx")


@pytest.mark.slow
def test_a_hub_model_of_onnx_files_alone(cache, models, text_of, speech):
    snapshot = _cache(cache, "someone/exported")
    for file in (models() / "onnx").iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    expected = text_of(models() / "run")
    assert text_of("someone/exported") == text_of("someone/exported", runtime="onnx") == expected
    with pytest.raises(UserError, match="none"):
        open_model("someone/exported", runtime="torch")


def test_a_registered_id_gets_its_tokenizer_and_its_size_is_checked(cache, text_of, monkeypatch):
    snapshot = _cache(cache, "anyspeech/zipa-small-crctc-300k")
    torch.save(tiny_model().state_dict(), snapshot / "small.pth")
    write_tokens(snapshot)
    with pytest.raises(UserError, match="zipa_small"):
        open_model("anyspeech/zipa-small-crctc-300k")
    config = tiny_model().zipformer_config
    monkeypatch.setitem(PRESETS, "mine", config)
    monkeypatch.setitem(HUB_MODELS, "anyspeech/zipa-small-crctc-300k", HubModel("mine", "ctc"))
    expected = text_of("anyspeech/zipa-small-crctc-300k")

    (snapshot / "tokens.txt").unlink()
    with pytest.raises(UserError, match="unigram_127.model"):
        open_model("anyspeech/zipa-small-crctc-300k")
    _write_tokenizer(cache, PIECES)
    with pytest.raises(UserError, match="127 pieces, but is another one of 19 pieces; give --tokens"):
        open_model("anyspeech/zipa-small-crctc-300k")
    monkeypatch.setattr(hub, "TOKENIZER_PIECES_SHA256", hashlib.sha256("\n".join(PIECES).encode()).hexdigest())
    assert text_of("anyspeech/zipa-small-crctc-300k") == expected


def test_zipas_tokenizer_is_known_by_its_pieces_at_any_revision(cache):
    assert len(ZIPA_PIECES) == 127
    path = _write_tokenizer(cache, ZIPA_PIECES)
    other = _write_tokenizer(cache, [*ZIPA_PIECES[:-2], *ZIPA_PIECES[:-3:-1]], "f" * 40)
    assert hub.fetch_tokenizer() == hub.fetch_tokenizer(COMMIT) == hub.fetch_tokenizer("main") == path
    for revision in ("v2", "f" * 40):  # 127 pieces, two of them in each other's places
        with pytest.raises(UserError, match=f"unigram_127.model@{revision}.*another one of 127 pieces"):
            hub.fetch_tokenizer(revision)
    with pytest.raises(UserError, match="ipa_simplified/unigram_127.model@v3"):
        hub.fetch_tokenizer("v3")
    assert other.is_file()
    weights = tiny_model().state_dict()
    torch.save(weights, cache / "own.pth")
    with pytest.raises(UserError, match="19.*but is 127"):
        open_model(cache / "own.pth", tokens=f"anyspeech/ipapack_plus_meta@{COMMIT}")


@pytest.mark.slow
def test_onnx_files_of_a_registered_id_get_its_tokenizer_and_their_kind_is_checked(cache, models, text_of, monkeypatch):
    ctc, transducer = "anyspeech/zipa-small-crctc-500k", "anyspeech/zipa-small-noncausal-500k"
    for name in (ctc, transducer):
        snapshot = _cache(cache, name)
        (snapshot / "model.onnx").write_bytes((models() / "onnx" / "model.onnx").read_bytes())
    with pytest.raises(UserError, match="unigram_127.model"):
        open_model(ctc)
    _write_tokenizer(cache, PIECES)
    monkeypatch.setattr(hub, "TOKENIZER_PIECES_SHA256", hashlib.sha256("\n".join(PIECES).encode()).hexdigest())
    expected = text_of(models() / "run")
    assert text_of(ctc) == text_of(ctc, runtime="onnx") == text_of(f"{ctc}@{COMMIT}") == expected
    with pytest.raises(UserError, match=f"the ONNX files of {transducer}` must be those of a transducer"):
        open_model(transducer)


def test_raw_checkpoints_of_a_registered_id_are_averaged(cache, text_of, monkeypatch):
    snapshot = _cache(cache, "anyspeech/zipa-cr-s")
    model = tiny_model()
    for i, factor in ((1, 0.5), (2, 1.5)):
        scaled = {name: tensor * factor for name, tensor in model.state_dict().items()}
        torch.save({"model": scaled, "batch_idx_train": 1000 * i}, snapshot / f"checkpoint-{1000 * i}.pt")
    torch.save(model.state_dict(), cache / "mean.pth")
    write_tokens(snapshot)
    write_tokens(cache)
    monkeypatch.setitem(PRESETS, "mine", model.zipformer_config)
    monkeypatch.setitem(HUB_MODELS, "anyspeech/zipa-cr-s", HubModel("mine", "ctc", average=2))
    assert text_of("anyspeech/zipa-cr-s") == text_of(cache / "mean.pth")
    newest = text_of("anyspeech/zipa-cr-s", averaging=AveragingConfig(avg=1))
    assert newest != text_of(cache / "mean.pth")


def test_registry_is_the_readme_table():
    sizes = {"small": "small", "large": "large", "s": "small", "l": "large"}
    assert len(HUB_MODELS) == 20
    for name, model in HUB_MODELS.items():
        words = name.removeprefix("anyspeech/zipa-").removesuffix("-no-diacritics").split("-")
        averaged = words[-1].endswith("k")
        transducer = "noncausal" in words or "t" in words
        assert model.kind == ("transducer" if transducer else "ctc")
        assert model.preset == ("zipa_t_" if transducer else "zipa_") + sizes[words[0] if averaged else words[-1]]
        assert PRESETS[model.preset].output_downsampling_factor == (2 if transducer else 1)
        assert model.average == (0 if averaged else 10)


def test_a_model_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was here"),))

    write_tokens(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(UserError, match=name):
            open_model(tmp_path / name)
    assert not (tmp_path / "was here").exists()


@pytest.mark.filterwarnings("error:'torch.load'")
def test_a_torchscript_file_is_called_so(tmp_path, call, one_line):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit_script.pt")
    found = call("couloir", "info", tmp_path / "jit_script.pt")
    assert found.returncode == 0 and "TorchScript" in found.out
    for name in ("jit_script.pt", "other.pt"):
        (tmp_path / "jit_script.pt").rename(tmp_path / name)
        command = ("transcribe", tmp_path / name, __file__)
        one_line("couloir", command, "must be a checkpoint, but is TorchScript", "exported from")
        (tmp_path / name).rename(tmp_path / "jit_script.pt")


def test_what_does_not_fit_is_named(tmp_path):
    weights = tiny_model().state_dict()
    save_checkpoint(tmp_path / "a.pt", {"model": weights})
    with pytest.raises(UserError, match="--tokens"):
        open_model(tmp_path / "a.pt")
    (tmp_path / "tokens.txt").write_text("<blk> 0\na 1\n")
    with pytest.raises(UserError, match="19"):
        open_model(tmp_path / "a.pt")
    write_tokens(tmp_path)
    with pytest.raises(UserError, match="ctc"):
        open_model(tmp_path / "a.pt", model_type="transducer")
    save_checkpoint(tmp_path / "b.pt", {"model": {"linear.weight": torch.zeros(2, 2)}})
    with pytest.raises(UserError, match="Zipformer"):
        open_model(tmp_path / "b.pt")
    with pytest.raises(UserError, match="--runtime"):
        open_model(tmp_path / "a.pt", runtime="tensorrt")


def test_flags_may_repeat_the_sizes_of_weights_and_not_contradict_them():
    model = tiny_model("transducer")
    weights, heads = model.state_dict(), dataclasses.replace(model.heads_config, decoder_dim=512, joiner_dim=512)
    found, widths = adapted(PRESETS["tiny"], heads, weights, ["encoder_unmasked_dim", "exp_dir"], "w.pt")
    assert same_sizes(found, model.zipformer_config) and widths == model.heads_config
    assert adapted(found, widths, weights, ["encoder_dim", "decoder_dim"], "w.pt") == (found, widths)
    for typed, flag in (("encoder_dim", "--encoder-dim` must be 32,48,40"), ("joiner_dim", "--joiner-dim` must be 24")):
        with pytest.raises(UserError, match=flag):
            adapted(PRESETS["tiny"], heads, weights, [typed], "w.pt")
