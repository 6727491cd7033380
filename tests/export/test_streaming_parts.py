"""A family whose states are others than Zipformer2's is exported, and run by others, without a line of couloir.export.

The toy has the contract of icefall's first-generation streaming Zipformer: windows of c + 7 feature frames, seven kinds
of states, kind-major over the stacks, of which one counts in int64 and three have their streams on the third axis.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_models import FBANK, PIECES, SPEECH, make_model, speech_features, write_tokens
from torch import nn

from couloir.audio import load_audio
from couloir.export.config import StreamingOnnxConfig
from couloir.export.onnx import export_streaming
from couloir.export.parts import ScriptedPart, StreamingPart
from couloir.export.torchscript import export_script
from couloir.export.transducer import search_parts
from couloir.families.zipformer_export import export_parts
from couloir.inference.search import transducer_greedy
from couloir.models.geometry import FrameGeometry
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.transducer import Decoder, Joiner
from couloir.models.zipformer.streaming import ZipformerStreaming
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.model import build_model as build_zipformer1
from couloir.models.zipformer1.streaming import Zipformer1Streaming

LAYERS, FACTORS, WIDTH, ATTENTION, KERNEL, CHUNK, LEFT = (2, 1), (1, 2), 16, 8, 5, 32, 64
JOINER = 12
KINDS = ("len", "avg", "key", "val", "val2", "conv1", "conv2")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


class Layer(nn.Module):
    """Every state matters: a running mean, attention over what is cached, and two causal convolutions."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(WIDTH, WIDTH)
        self.key, self.query = nn.Linear(WIDTH, ATTENTION), nn.Linear(WIDTH, ATTENTION)
        self.values = nn.ModuleList(nn.Linear(WIDTH, ATTENTION // 2) for _ in range(2))
        self.back = nn.ModuleList(nn.Linear(ATTENTION // 2, WIDTH) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, KERNEL, groups=WIDTH) for _ in range(2))

    def forward(self, x, count, mean, key, val, val2, conv1, conv2):
        """(T, B, D) and the states of one layer -> (T, B, D) and new ones."""
        total = count + x.shape[0]
        mean = (mean * count[:, None] + x.sum(0)) / total[:, None]
        x = x + self.mean(mean)
        keys = torch.cat([key, self.key(x)])
        weights = torch.einsum("tbd,sbd->bts", self.query(x), keys).softmax(-1)
        kept = [keys[-key.shape[0] :]]
        for cache, value, back in zip((val, val2), self.values, self.back):
            values = torch.cat([cache, value(x)])
            x = x + back(torch.einsum("bts,sbd->tbd", weights, values))
            kept.append(values[-cache.shape[0] :])
        for cache, conv in zip((conv1, conv2), self.convs):
            extended = torch.cat([cache, x.permute(1, 2, 0)], dim=2)
            x = x + torch.tanh(conv(extended)).permute(2, 0, 1)
            kept.append(extended[..., -cache.shape[2] :])
        return x, (total, mean, *kept)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv1d(80, WIDTH, 9, stride=2)  # (T - 9) // 2 + 1 frames
        self.stacks = nn.ModuleList(nn.ModuleList(Layer() for _ in range(layers)) for layers in LAYERS)
        self.encoder_proj = nn.Linear(WIDTH, JOINER)


class ToyStreaming:
    """As `couloir.models.common.streaming.Streaming`."""

    geometry, chunk_frames, window_frames, feature_dim = FrameGeometry(), CHUNK, CHUNK + 7, 80
    names = [f"cached_{kind}_{stack}" for kind in KINDS for stack in range(len(LAYERS))]
    context: dict[str, int] = {}
    attributes = {"decode_chunk_size": CHUNK, "pad_length": 7}

    def __init__(self, model):
        self.model = model

    def initial(self, batch):
        shapes = {
            "avg": lambda n, left: (n, batch, WIDTH),
            "key": lambda n, left: (n, left, batch, ATTENTION),
            "val": lambda n, left: (n, left, batch, ATTENTION // 2),
            "val2": lambda n, left: (n, left, batch, ATTENTION // 2),
            "conv1": lambda n, left: (n, batch, WIDTH, KERNEL - 1),
            "conv2": lambda n, left: (n, batch, WIDTH, KERNEL - 1),
        }
        counts = [torch.zeros(layers, batch, dtype=torch.int64) for layers in LAYERS]
        others = [torch.zeros(shapes[kind](n, LEFT // ds)) for kind in KINDS[1:] for n, ds in zip(LAYERS, FACTORS)]
        return [*counts, *others]

    def batch_axis(self, name):
        return 2 if name.startswith(("cached_key", "cached_val")) else 1

    def step(self, x, states):
        stacks = len(LAYERS)
        x = self.model.embed(x.permute(0, 2, 1)).permute(2, 0, 1)
        new = [[[] for _ in LAYERS] for _ in KINDS]
        for i, (layers, factor) in enumerate(zip(self.model.stacks, FACTORS)):
            coarse = x.unflatten(0, (x.shape[0] // factor, factor)).mean(1)
            for j, layer in enumerate(layers):
                coarse, kept = layer(coarse, *(states[kind * stacks + i][j] for kind in range(len(KINDS))))
                for kind, value in enumerate(kept):
                    new[kind][i].append(value)
            x = x + coarse.unsqueeze(1).expand(-1, factor, -1, -1).flatten(0, 1)
        out = x.unflatten(0, (x.shape[0] // 2, 2)).mean(1).permute(1, 0, 2)
        return out, [torch.stack(values) for kind in new for values in kind]

    def metadata(self):
        lists = {
            "num_encoder_layers": LAYERS,
            "encoder_dims": [WIDTH] * 2,
            "attention_dims": [ATTENTION] * 2,
            "cnn_module_kernels": [KERNEL] * 2,
            "left_context_len": [LEFT // factor for factor in FACTORS],
        }
        texts = {name: ",".join(map(str, values)) for name, values in lists.items()}
        return {"decode_chunk_len": self.chunk_frames, "T": self.window_frames, **texts}


def pieces():
    """The toy with a transducer that is sure of itself: its streaming, decoder and joiner."""
    torch.manual_seed(3)
    toy, decoder, joiner = Toy(), Decoder(len(PIECES), 16, 2), Joiner(WIDTH, 16, JOINER, len(PIECES))
    joiner.encoder_proj = toy.encoder_proj
    for module in (toy, decoder, joiner):
        module.eval().requires_grad_(False)
    rows = streamed(ToyStreaming(toy), speech_features())
    head = joiner.output_linear
    head.weight.mul_(20.0)
    predicted = joiner.decoder_proj(decoder(torch.tensor([[-1, 0]]), need_pad=False)[0])
    head.bias.copy_(-(torch.tanh(toy.encoder_proj(rows) + predicted) @ head.weight.T).mean(0))
    head.bias[1:3] -= 1000.0
    return ToyStreaming(toy), decoder, joiner


@torch.no_grad()
def streamed(streaming, feats):
    """(1, T, F) -> (S, D), chunk by chunk in PyTorch."""
    states, rows = streaming.initial(1), []
    for start in range(0, feats.shape[1] - streaming.window_frames + 1, streaming.chunk_frames):
        out, states = streaming.step(feats[:, start : start + streaming.window_frames], states)
        rows.append(out[0])
    return torch.cat(rows)


@pytest.fixture(scope="module")
def toy(tmp_path_factory, waves):
    """Its parts, and the folder of its ONNX files."""
    folder = tmp_path_factory.mktemp("toy")
    write_tokens(folder)
    streaming, decoder, joiner = pieces()
    metadata = {"model_type": "zipformer", "version": 1, "model_author": "k2-fsa"}

    def encode(item):
        return joiner.encoder_proj(streamed(streaming, item[None]))

    encoder = StreamingPart("encoder", streaming, joiner.encoder_proj, metadata=metadata)
    parts = [encoder, *search_parts(decoder, joiner, encode)]
    config = StreamingOnnxConfig(enable_int8_quantization=False)
    done = export_streaming(parts, FBANK, config, folder, waves, "epoch-1-avg-1")
    # icefall's files of this family say nothing of their chunks in their names.
    assert list(done) == [f"{part}-epoch-1-avg-1.onnx" for part in ("encoder", "decoder", "joiner")]
    return streaming, decoder, joiner, folder


def test_the_file_is_what_the_first_generation_s_contract_says(toy):
    model = onnx.load(toy[-1] / "encoder-epoch-1-avg-1.onnx")
    onnx.checker.check_model(model)

    def declared(values):
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    states = {
        "cached_len_0": (INT64, [2, "N"]),
        "cached_len_1": (INT64, [1, "N"]),
        "cached_avg_0": (FLOAT, [2, "N", 16]),
        "cached_avg_1": (FLOAT, [1, "N", 16]),
        "cached_key_0": (FLOAT, [2, 64, "N", 8]),
        "cached_key_1": (FLOAT, [1, 32, "N", 8]),
        "cached_val_0": (FLOAT, [2, 64, "N", 4]),
        "cached_val_1": (FLOAT, [1, 32, "N", 4]),
        "cached_val2_0": (FLOAT, [2, 64, "N", 4]),
        "cached_val2_1": (FLOAT, [1, 32, "N", 4]),
        "cached_conv1_0": (FLOAT, [2, "N", 16, 4]),
        "cached_conv1_1": (FLOAT, [1, "N", 16, 4]),
        "cached_conv2_0": (FLOAT, [2, "N", 16, 4]),
        "cached_conv2_1": (FLOAT, [1, "N", 16, 4]),
    }
    inputs, outputs = declared(model.graph.input), declared(model.graph.output)
    assert list(inputs.items()) == [("x", (FLOAT, ["N", 39, 80])), *states.items()]
    expected = [("encoder_out", (FLOAT, ["N", 8, 12])), *((f"new_{name}", of) for name, of in states.items())]
    assert list(outputs.items()) == expected
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "model_type": "zipformer",
        "version": "1",
        "model_author": "k2-fsa",
        "decode_chunk_len": "32",
        "T": "39",
        "num_encoder_layers": "2,1",
        "encoder_dims": "16,16",
        "attention_dims": "8,8",
        "cnn_module_kernels": "5,5",
        "left_context_len": "64,32",
        "front_end": "fbank",
    }


def test_sherpa_streams_the_toy_and_finds_what_pytorch_finds(toy):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    streaming, decoder, joiner, folder = toy

    def predict(histories):
        return joiner.decoder_proj(decoder(torch.from_numpy(histories), need_pad=False)[:, 0]).numpy()

    def join(encoded, predicted):
        return joiner(torch.from_numpy(encoded), torch.from_numpy(predicted), project_input=False).numpy()

    rows = joiner.encoder_proj(streamed(streaming, speech_features())).numpy()
    expected = transducer_greedy([rows], predict, join, 2)[0].tokens
    files = {part: str(folder / f"{part}-epoch-1-avg-1.onnx") for part in ("encoder", "decoder", "joiner")}
    recognizer = sherpa.OnlineRecognizer.from_transducer(**files, tokens=str(folder / "tokens.txt"), num_threads=1)
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, load_audio(SPEECH))
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    found = [PIECES.index(piece) for piece in recognizer.tokens(stream)]
    assert len(found) > 20 and len(set(found)) > 5 and found == expected


def test_the_scripted_file_has_its_counters_as_whole_numbers(toy, tmp_path, waves):
    streaming = toy[0]
    part = ScriptedPart(StreamingPart("encoder", streaming, nn.Identity()), {"decoder": toy[1]})
    assert list(export_script(part, FBANK, tmp_path, waves)) == ["jit_script.pt"]
    encoder = torch.jit.load(tmp_path / "jit_script.pt").encoder
    assert (encoder.decode_chunk_size, encoder.pad_length) == (32, 7)
    states = encoder.get_init_states(3)
    assert [(s.dtype, s.shape) for s in states] == [(s.dtype, s.shape) for s in streaming.initial(3)]
    x = speech_features()[:, :39].repeat(3, 1, 1)
    found, lens, states = encoder(x, torch.tensor([39, 38, 9]), states)
    assert lens.tolist() == [8, 8, 1]  # ((T - 7) // 2 + 1) // 2
    torch.testing.assert_close(found[0], streamed(streaming, x[:1]), rtol=1e-4, atol=1e-4)
    assert torch.equal(states[0], torch.full((2, 3), 16)) and torch.equal(states[1], torch.full((1, 3), 8))


def test_counters_may_go_as_int32(toy, tmp_path, waves):
    config = StreamingOnnxConfig(enable_int8_quantization=False, use_int32_inputs=True, suffix="i")
    export_streaming([StreamingPart("encoder", toy[0], nn.Identity())], FBANK, config, tmp_path, waves, "")
    session = onnxruntime.InferenceSession(tmp_path / "encoder-i.onnx")
    assert {value.name: value.type for value in session.get_inputs() if "len" in value.name} == {
        "cached_len_0": "tensor(int32)",
        "cached_len_1": "tensor(int32)",
    }


def zipformer():
    model = make_model("ctc", causal=True)
    (part,) = export_parts(model, "ctc", streaming=True)
    return part.streaming


def zipformer1():
    torch.manual_seed(0)
    sizes = Zipformer1Config(
        num_encoder_layers=(1, 2),
        feedforward_dims=(32,),
        nhead=(2,),
        encoder_dims=(32,),
        attention_dims=(16,),
        encoder_unmasked_dims=(32,),
        zipformer_downsampling_factors=(1, 2),
        cnn_module_kernels=(5,),
    )
    heads = HeadsConfig(use_ctc=False, use_transducer=True, vocab_size=19, decoder_dim=16, joiner_dim=24)
    return Zipformer1Streaming(build_zipformer1(sizes, heads).eval().requires_grad_(False))


@pytest.mark.slow
def test_the_first_generation_itself_is_exported_as_it_is(tmp_path, waves):
    """Its model knows nothing of files, and these know nothing of it."""
    streaming = zipformer1()
    parts = [StreamingPart("encoder", streaming, streaming.model.joiner.encoder_proj)]
    config = StreamingOnnxConfig(enable_int8_quantization=False)
    done = export_streaming(parts, FBANK, config, tmp_path, waves, "a")
    assert done["encoder-a-chunk-16-left-64.onnx"].relative < 1e-5
    script = ScriptedPart(StreamingPart("encoder", streaming, nn.Identity()), {})
    assert max(agreement.relative for agreement in export_script(script, FBANK, tmp_path, waves).values()) < 1e-5


@pytest.mark.parametrize("make", [zipformer, zipformer1, lambda: ToyStreaming(Toy().eval().requires_grad_(False))])
def test_what_every_streaming_model_keeps(make):
    """Names, axes and types of states agree with each other, and streams do not depend on one another."""
    streaming = make()
    first = streaming.initial(1)
    assert len(streaming.names) == len(set(streaming.names)) == len(first)
    for name, one, three in zip(streaming.names, first, streaming.initial(3)):
        axis = streaming.batch_axis(name)
        assert one.dtype == three.dtype and not one.any()
        assert one.shape[axis] == 1 and three.shape == (*one.shape[:axis], 3, *one.shape[axis + 1 :])
    feats = speech_features()[0]
    step, window = streaming.chunk_frames, streaming.window_frames
    streams = torch.stack([feats[start : start + window + step] for start in (0, 60, 100)])
    states, rows = streaming.initial(3), []
    with torch.no_grad():
        for start in (0, step):
            out, new = streaming.step(streams[:, start : start + window], states)
            assert [s.shape for s in new] == [s.shape for s in states]
            assert [s.dtype for s in new] == [s.dtype for s in states]
            states = new
            rows.append(out)
    together = torch.cat(rows, dim=1)
    geometry = streaming.geometry
    ahead = window - step - geometry.embedding_margin
    assert together.shape[1] == 2 * geometry.output_frames(window - ahead)
    for row, stream in zip(together, streams):
        torch.testing.assert_close(row, streamed(streaming, stream[None]), rtol=1e-4, atol=1e-4)
    sizes = streaming.metadata()
    assert (sizes["decode_chunk_len"], sizes["T"]) == (step, window)
    assert {name: int(number) for name, number in streaming.attributes.items()}["pad_length"] == window - step


def test_a_zipformer_sees_13_frames_beyond_its_chunk():
    streaming = zipformer()
    assert (streaming.chunk_frames, streaming.window_frames) == (32, 45)
    assert streaming.context == {"chunk": 16, "left": 32}
    assert isinstance(streaming, ZipformerStreaming)
    np.testing.assert_array_equal(
        [streaming.batch_axis(name) for name in streaming.names[-8:]], [1, 1, 1, 1, 0, 0, 0, 0]
    )
