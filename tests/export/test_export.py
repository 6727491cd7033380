"""Exported files against PyTorch and in the runtimes that people use. Tiny random models, real speech."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from couloir.audio import load_audio
from couloir.config import as_plain, write_yaml
from couloir.errors import UserError
from couloir.export import graph as onnx_graph
from couloir.export import onnx as onnx_export
from couloir.export.config import CtcOnnxConfig, OnnxConfig, StreamingOnnxConfig
from couloir.export.selfcheck import check_waves
from couloir.export.torchscript import export_script, export_trace
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.search import ctc_greedy, transducer_greedy
from couloir.models.asr import build_model
from couloir.models.config import HeadsConfig
from couloir.models.zipformer.config import PRESETS, ZipformerConfig
from couloir.models.zipformer.streaming import initial_states
from couloir.training.checkpoint import save_checkpoint

SPEECH = Path(__file__).resolve().parents[1] / "data" / "ru_0274.flac"
PIECES = ["<blk>", "<sos/eos>", "<unk>", *"abcdefghijklmnop"]
FBANK = FbankConfig()


def make_model(kind, causal=False):
    torch.manual_seed(1)
    sizes = ZipformerConfig(
        num_encoder_layers=(1, 1),
        downsampling_factor=(1, 2),
        feedforward_dim=(48,),
        num_heads=(2,),
        encoder_dim=(32, 48),
        query_head_dim=(8,),
        value_head_dim=(6,),
        encoder_unmasked_dim=(32,),
        cnn_module_kernel=(15, 7),
        frontend_channels=(8, 32, 128),  # sherpa-onnx's streams know no other
        causal=causal,
        chunk_size=(16,),
        left_context_frames=(32,),
    )
    heads = HeadsConfig(
        use_ctc=kind == "ctc",
        use_transducer=kind == "transducer",
        vocab_size=len(PIECES),
        decoder_dim=16,
        joiner_dim=24,
    )
    model = build_model(sizes, heads).eval()
    with torch.no_grad():
        # A head that is sure of itself, so that symbols come out.
        head = model.ctc_output[1] if kind == "ctc" else model.joiner.output_linear
        head.weight.mul_(100.0)
        head.bias[0] -= 1.0 if kind == "ctc" else 30.0
        head.bias[1:3] -= 1000.0
    return model


@pytest.fixture(scope="module")
def waves():
    return check_waves(str(SPEECH))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)))
    return tmp_path


@torch.no_grad()
def outputs_of(model, wave, kind):
    feats, lens = Fbank()(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    encoded, _ = model.forward_encoder(feats, lens, padding="reference")
    return (model.ctc_log_probs(encoded) if kind == "ctc" else model.joiner.encoder_proj(encoded))[0].numpy()


@torch.no_grad()
def greedy(model, rows):
    def predict(histories):
        decoded = model.decoder(torch.from_numpy(histories), need_pad=False)[:, 0]
        return model.joiner.decoder_proj(decoded).numpy()

    def join(encoded, predicted):
        return model.joiner(torch.from_numpy(encoded), torch.from_numpy(predicted), project_input=False).numpy()

    with torch.no_grad():
        return transducer_greedy([rows], predict, join, 2)[0].tokens


@torch.no_grad()
def streamed(model, wave, kind):
    """Outputs of a whole recording, chunk after chunk, as sherpa-onnx feeds it: what fills no chunk is left over."""
    feats = Fbank()(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0]
    states, rows = initial_states(model.zipformer_config, 1, 32), []
    for start in range(0, feats.shape[1] - 45 + 1, 32):
        encoded, states = model.streaming_forward(feats[:, start : start + 45], states)
        rows.append(model.ctc_log_probs(encoded)[0] if kind == "ctc" else model.joiner.encoder_proj(encoded)[0])
    return torch.cat(rows).numpy()


def as_tokens(result):
    return [PIECES.index(piece) for piece in result]


def offline(recognizer, wave):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, wave)
    recognizer.decode_stream(stream)
    return as_tokens(stream.result.tokens)


def online(recognizer, wave):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, wave)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return as_tokens(recognizer.tokens(stream))


def test_ctc_in_onnxruntime_and_sherpa(folder, waves):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model = make_model("ctc")
    done = onnx_export.export_ctc(model, FBANK, CtcOnnxConfig(fp16=True), folder, waves)
    assert set(done) == {"model.onnx", "model.fp16.onnx", "model.int8.onnx"}
    assert done["model.onnx"].relative < 1e-5 and done["model.onnx"].same_best == 1.0
    assert done["model.fp16.onnx"].same_best > 0.98 and done["model.int8.onnx"].same_best > 0.8
    wave = load_audio(SPEECH)
    recognizer = sherpa.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt")
    )
    expected = ctc_greedy(outputs_of(model, wave, "ctc")).tokens
    assert len(expected) > 10
    assert offline(recognizer, wave) == expected


def test_one_file_from_samples_to_log_probs(folder, waves):
    config = CtcOnnxConfig(with_frontend=True, fp16=True)
    done = onnx_export.export_ctc(make_model("ctc"), FBANK, config, folder, waves)
    assert set(done) == {"audio-model.onnx", "audio-model.fp16.onnx", "audio-model.int8.onnx"}
    assert done["audio-model.onnx"].same_best == 1.0
    # int8 rounds the weights alone, each to the nearest step of its channel: browsers get what Python gets.
    full, small = (onnx.load(folder / f"audio-model{precision}.onnx").graph for precision in ("", ".int8"))
    exact, stored = (
        {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer} for graph in (full, small)
    )
    rounded = [name.removesuffix("_int8") for name in stored if name.endswith("_int8")]
    assert len(rounded) > 20
    for name in rounded:
        steps, scale = stored[f"{name}_int8"], stored[f"{name}_scale"]
        assert steps.dtype == np.int8 and scale.size in exact[name].shape
        assert (np.abs(exact[name] - steps * scale) <= 0.5001 * scale).all()
    assert {node.op_type for node in small.node} <= {node.op_type for node in full.node} | {"Cast", "Mul"}


@pytest.mark.slow
def test_transducer_in_onnxruntime_and_sherpa(folder, waves):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model = make_model("transducer")
    done = onnx_export.export_transducer(model, FBANK, OnnxConfig(fp16=True), folder, waves, "epoch-1-avg-1")
    assert len(done) == 9
    wave = load_audio(SPEECH)
    for precision in ("", ".fp16", ".int8"):
        parts = {
            part: str(folder / f"{part}-epoch-1-avg-1{precision}.onnx") for part in ("encoder", "decoder", "joiner")
        }
        recognizer = sherpa.OfflineRecognizer.from_transducer(**parts, tokens=str(folder / "tokens.txt"))
        found = offline(recognizer, wave)
        assert len(found) > 10
        if not precision:
            assert found == greedy(model, outputs_of(model, wave, "transducer"))


def inputs_of(path):
    session = onnxruntime.InferenceSession(path)
    return {value.name: (value.type.removeprefix("tensor"), value.shape) for value in session.get_inputs()}


@pytest.mark.slow
def test_one_length_no_lengths_int32_and_weights_apart(folder, waves):
    plain = {"enable_int8_quantization": False, "use_int32_inputs": True}
    model = make_model("transducer")
    config = OnnxConfig(max_len=130, keep_x_lens=0, use_external_data=True, **plain)
    done = onnx_export.export_transducer(model, FBANK, config, folder, waves, "a")
    assert max(agreement.relative for agreement in done.values()) < 1e-5
    assert inputs_of(folder / "encoder-a.onnx") == {"x": ("(float)", ["N", 130, 80])}
    assert inputs_of(folder / "decoder-a.onnx") == {"y": ("(int32)", ["N", 2])}
    assert {path.name for path in folder.iterdir()} >= {"encoder-a.onnx", "encoder-a.onnx.data", "joiner-a.onnx.data"}
    assert (folder / "encoder-a.onnx").stat().st_size < 2 * (folder / "encoder-a.onnx.data").stat().st_size
    with pytest.raises(UserError, match="x_lens"):
        OnnxBackend(folder)
    ctc = make_model("ctc")
    onnx_export.export_ctc(ctc, FBANK, CtcOnnxConfig(keep_x_lens=0, suffix="b", **plain), folder, waves)
    assert inputs_of(folder / "model-b.onnx") == {"x": ("(float)", ["N", "T", 80])}
    onnx_export.export_ctc(ctc, FBANK, CtcOnnxConfig(max_len=700, suffix="c", **plain), folder, waves)
    assert inputs_of(folder / "model-c.onnx") == {"x": ("(float)", ["N", 700, 80]), "x_lens": ("(int32)", ["N"])}
    with pytest.raises(UserError, match="700 frames alone"):
        OnnxBackend(folder / "model-c.onnx")


@pytest.mark.slow
def test_streaming_counters_as_int32(folder, waves):
    config = StreamingOnnxConfig(enable_int8_quantization=False, use_int32_inputs=True)
    onnx_export.export_streaming(make_model("ctc", causal=True), "ctc", FBANK, config, folder, waves, "a")
    assert inputs_of(folder / "ctc-a-chunk-16-left-32.onnx")["processed_lens"] == ("(int32)", ["N"])


def test_flags_that_cannot_be_met_are_named():
    with pytest.raises(UserError, match="--use-whisper-features"):
        StreamingOnnxConfig(use_whisper_features=True)
    with pytest.raises(UserError, match="--with-frontend"):
        CtcOnnxConfig(with_frontend=True, max_len=100)
    with pytest.raises(UserError, match="--max-len"):
        OnnxConfig(max_len=5)


@pytest.mark.slow
def test_streaming_transducer_in_sherpa(folder, waves):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model = make_model("transducer", causal=True)
    onnx_export.export_streaming(
        model, "transducer", FBANK, StreamingOnnxConfig(fp16=True), folder, waves, "epoch-1-avg-1"
    )
    wave = load_audio(SPEECH)
    names = {part: f"{part}-epoch-1-avg-1-chunk-16-left-32" for part in ("encoder", "decoder", "joiner")}
    for precision in ("", ".int8"):
        files = {part: str(folder / f"{name}{precision}.onnx") for part, name in names.items()}
        found = online(
            sherpa.OnlineRecognizer.from_transducer(**files, tokens=str(folder / "tokens.txt"), num_threads=1), wave
        )
        assert len(found) > 10
        if not precision:
            assert found == greedy(model, streamed(model, wave, "transducer"))


@pytest.mark.slow
def test_streaming_ctc_in_sherpa(folder, waves):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model = make_model("ctc", causal=True)
    onnx_export.export_streaming(model, "ctc", FBANK, StreamingOnnxConfig(), folder, waves, "epoch-1-avg-1")
    wave = load_audio(SPEECH)
    recognizer = sherpa.OnlineRecognizer.from_zipformer2_ctc(
        tokens=str(folder / "tokens.txt"),
        model=str(folder / "ctc-epoch-1-avg-1-chunk-16-left-32.onnx"),
        num_threads=1,
    )
    assert online(recognizer, wave) == ctc_greedy(streamed(model, wave, "ctc")).tokens


LOADER = """
import sys
sys.modules["couloir"] = None  # an import of it raises
import numpy, torch
model = torch.jit.load(sys.argv[1])
feats = torch.from_numpy(numpy.load(sys.argv[2]))
if hasattr(model.encoder, "get_init_states"):
    states = model.encoder.get_init_states(len(feats), torch.device("cpu"))
    out, lens, states = model.encoder(feats, torch.full((len(feats),), feats.shape[1]), states)
    assert (model.encoder.chunk_size, model.encoder.left_context_len, model.encoder.pad_length) == (16, 32, 13)
else:
    out, lens = model.encoder(feats, torch.full((len(feats),), feats.shape[1]))
y = torch.zeros(len(feats), model.decoder.context_size, dtype=torch.int64)
model.joiner(out[:, :1], model.decoder(y, need_pad=False), project_input=True)
numpy.save(sys.argv[3], out.detach().numpy())
"""


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_torchscript_without_couloir(tmp_path, waves, causal):
    model = make_model("transducer", causal)
    (name,) = export_script(model, FBANK, tmp_path, waves)
    assert name == ("jit_script_chunk_16_left_32.pt" if causal else "jit_script.pt")
    feats = torch.randn(2, 45 if causal else 173, 80)
    np.save(tmp_path / "feats.npy", feats.numpy())
    files = [str(tmp_path / file) for file in (name, "feats.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", LOADER, *files], check=True, cwd=tmp_path)
    with torch.no_grad():
        if causal:
            expected, _ = model.streaming_forward(feats, initial_states(model.zipformer_config, 2, 32))
        else:
            expected, _ = model.forward_encoder(feats, torch.tensor([173, 173]))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected.numpy(), atol=2e-5)


@pytest.mark.slow
def test_traced_files(tmp_path, waves):
    assert set(export_trace(make_model("ctc"), FBANK, tmp_path, waves)) == {"jit_trace.pt"}
    assert len(export_trace(make_model("transducer"), FBANK, tmp_path, waves)) == 3


@pytest.mark.slow
def test_a_file_that_disagrees_is_not_left_behind(tmp_path, waves, monkeypatch):
    """A file of other weights."""
    write = onnx_graph.write_fp32

    def corrupted(graph, path):
        other = onnx_export.OfflineEncoder(onnx_export.prepared(make_model("ctc")), "ctc")
        with torch.no_grad():
            other.model.encoder_embed.out.weight.neg_()
        write(dataclasses.replace(graph, module=other), path)

    monkeypatch.setattr(onnx_graph, "write_fp32", corrupted)
    with pytest.raises(UserError, match=r"model.onnx disagrees with PyTorch"):
        onnx_export.export_ctc(make_model("ctc"), FBANK, CtcOnnxConfig(), tmp_path, waves)
    assert not list(tmp_path.iterdir())


def test_streaming_needs_a_causal_model_and_one_chunk_size(tmp_path, waves):
    with pytest.raises(UserError, match="--causal"):
        onnx_export.export_streaming(make_model("ctc"), "ctc", FBANK, StreamingOnnxConfig(), tmp_path, waves, "x")
    model = make_model("ctc", causal=True)
    model.zipformer_config = dataclasses.replace(model.zipformer_config, chunk_size=(16, 32))
    with pytest.raises(UserError, match="--chunk-size"):
        onnx_export.export_streaming(model, "ctc", FBANK, StreamingOnnxConfig(), tmp_path, waves, "x")


@pytest.mark.slow
def test_programs_need_a_run_directory_alone(tmp_path):
    model, run = make_model("ctc"), tmp_path / "run"
    (run / "lang").mkdir(parents=True)
    (run / "lang" / "tokens.txt").write_text("".join(f"{piece} {i}\n" for i, piece in enumerate(PIECES)))
    sections = {"zipformer": model.zipformer_config, "heads": model.heads_config, "text": {"bpe_model": "moved"}}
    write_yaml(run / "config.yaml", {"recipe": "zipformer_crctc", **as_plain(sections)})
    save_checkpoint(run / "epoch-1.pt", {"model": model.state_dict(), "batch_idx_train": 10})
    flags = ["--exp-dir", str(run), "--epoch", "1", "--avg", "1", "--use-averaged-model", "0"]
    root = Path(__file__).resolve().parents[2]

    def program(name, *more):
        command = [sys.executable, str(root / "zipformer_crctc" / name), *flags, *more]
        return subprocess.run(command, capture_output=True, text=True)

    assert program("export.py").returncode == 0
    pretrained = torch.load(run / "pretrained.pt", weights_only=True)["model"]
    safe = load_file(run / "model.safetensors")
    assert all(torch.equal(value, safe[name]) and torch.equal(value, pretrained[name]) for name, value in
               model.state_dict().items())  # fmt: skip
    assert program("export_onnx.py", "--out-dir", str(tmp_path / "out"), "--check-wav", str(SPEECH)).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.int8.onnx", "model.onnx", "tokens.txt"]
    refused = program("export_onnx_streaming.py")
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()[-1:]) == 1
    assert "--causal" in refused.stderr and "Traceback" not in refused.stderr


def test_what_sherpa_cannot_do_with_a_model_is_said(caplog):
    onnx_export.warn_of_sherpa(PRESETS["medium"], streaming=True)
    assert not caplog.messages
    at_50_hz = dataclasses.replace(PRESETS["tiny"], output_downsampling_factor=1)
    onnx_export.warn_of_sherpa(at_50_hz, streaming=True)
    assert "time stamps" in caplog.messages[0] and "--frontend-channels" in caplog.messages[1]
    onnx_export.warn_of_sherpa(at_50_hz, streaming=False)
    assert len(caplog.messages) == 3
