"""One Whisper in the files of four projects, and files that are no Whisper's."""

import re
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from couloir.errors import UserError
from couloir.models.whisper.config import PRESETS, WhisperConfig
from couloir.models.whisper.loading import load_whisper, read_whisper, whisper_config
from couloir.models.whisper.model import build_model

TINY = WhisperConfig(
    feature_dim=8,
    audio_context=10,
    encoder_dim=128,
    encoder_num_heads=2,
    num_encoder_layers=1,
    vocab_size=20,
    text_context=9,
    decoder_dim=128,
    decoder_num_heads=2,
    num_decoder_layers=2,
)
TO_HUGGING_FACE = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (
        r"\.(query|key|value|out)\.",
        lambda m: f".{ {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'out'}[m[1]] }_proj.",
    ),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.(ln_post|ln)\.", ".layer_norm."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(TINY).eval()


def hugging_face(weights):
    found = {}
    for name, tensor in weights.items():
        for pattern, new in TO_HUGGING_FACE:
            name = re.sub(pattern, new, name)
        found[f"model.{name}"] = tensor.clone()
    found["proj_out.weight"] = weights["decoder.token_embedding.weight"].clone()
    return found


def text(name):
    raw = name.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name, values, code):
    values = np.ascontiguousarray(values)
    head = text(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
    return head + struct.pack("<BI", code, values.nbytes) + values.tobytes()


def ctranslate2_variables(weights):
    """The table of names that CTranslate2 has, by name."""
    w = {name: tensor.numpy() for name, tensor in weights.items()}
    found = {}

    def put(theirs, ours, last=(("weight", "weight"), ("bias", "bias"))):
        for their, our in last:
            found[f"{theirs}/{their}"] = np.concatenate([w[f"{name}.{our}"] for name in ours])

    norm = (("gamma", "weight"), ("beta", "bias"))
    for i in (1, 2):
        put(f"encoder/conv{i}", [f"encoder.conv{i}"])
    put("encoder/layer_norm", ["encoder.ln_post"], norm)
    put("decoder/layer_norm", ["decoder.ln"], norm)
    found["decoder/embeddings/weight"] = w["decoder.token_embedding.weight"]
    for side, layers in (("encoder", 1), ("decoder", 2)):
        found[f"{side}/position_encodings/encodings"] = w[f"{side}.positional_embedding"]
        for i in range(layers):
            theirs, ours = f"{side}/layer_{i}", f"{side}.blocks.{i}"
            for part in ("attn", "cross_attn") if side == "decoder" else ("attn",):
                w[f"{ours}.{part}.key.bias"] = np.zeros(128, np.float32)
            put(f"{theirs}/self_attention/layer_norm", [f"{ours}.attn_ln"], norm)
            put(f"{theirs}/self_attention/linear_0", [f"{ours}.attn.{x}" for x in ("query", "key", "value")])
            put(f"{theirs}/self_attention/linear_1", [f"{ours}.attn.out"])
            put(f"{theirs}/ffn/layer_norm", [f"{ours}.mlp_ln"], norm)
            put(f"{theirs}/ffn/linear_0", [f"{ours}.mlp.0"])
            put(f"{theirs}/ffn/linear_1", [f"{ours}.mlp.2"])
            if side == "decoder":
                put(f"{theirs}/attention/layer_norm", [f"{ours}.cross_attn_ln"], norm)
                put(f"{theirs}/attention/linear_0", [f"{ours}.cross_attn.query"])
                put(f"{theirs}/attention/linear_1", [f"{ours}.cross_attn.{x}" for x in ("key", "value")])
                put(f"{theirs}/attention/linear_2", [f"{ours}.cross_attn.out"])
    return found


def ctranslate2(weights, half=False, whole=False):
    parts = [variable("decoder/activation", np.array(1, np.int8), 1)]
    for name, values in ctranslate2_variables(weights).items():
        if whole and "linear" in name and name.endswith("weight"):
            scale = 127 / np.abs(values).max(axis=1)
            parts.append(variable(name, np.rint(values * scale[:, None]).astype(np.int8), 1))
            parts.append(variable(f"{name}_scale", scale.astype(np.float32), 0))
        else:
            parts.append(variable(name, values.astype(np.float16 if half else np.float32), 4 if half else 0))
    head = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(parts))
    alias = struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return head + b"".join(parts) + alias


def written(kind, weights, folder):
    path = folder / {"openai": "model.pt", "hugging_face": "model.safetensors"}.get(kind, "model.bin")
    if kind == "openai":
        torch.save({"dims": {"n_audio_head": 2, "n_text_head": 2}, "model_state_dict": weights}, path)
    elif kind == "hugging_face":
        save_file(hugging_face(weights), path)
    else:
        path.write_bytes(ctranslate2(weights, half="half" in kind, whole="int8" in kind))
    return path


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("kind", ["openai", "hugging_face", "ctranslate2"])
def test_equal_weights_of_three_projects(kind, as_folder, model, tmp_path):
    path = written(kind, model.state_dict(), tmp_path)
    found = load_whisper(tmp_path if as_folder else path)
    assert found.config == TINY
    assert not found.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


# Half precision keeps 11 bits; 255 steps of a row whose greatest value is below 0.1 are 0.0004 from the truth.
@pytest.mark.parametrize(("kind", "atol", "rtol"), [("ctranslate2_half", 1e-7, 2**-11), ("ctranslate2_int8", 4e-4, 0)])
def test_smaller_kinds(kind, atol, rtol, model, tmp_path):
    found = load_whisper(written(kind, model.state_dict(), tmp_path)).state_dict()
    assert set(found) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], tensor, atol=atol, rtol=rtol)


def test_every_cut_is_refused(model, tmp_path):
    whole = ctranslate2(model.state_dict())
    path = tmp_path / "model.bin"
    for end in [*range(18, 200, 7), *np.linspace(200, len(whole) - 1, 40).astype(int)]:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged or cut off"):
            read_whisper(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="1 bytes follow its end"):
        read_whisper(path)


HEAD = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
ONE = HEAD + struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack("<I", 5) + HEAD[4:], "version 5"),
        (HEAD + struct.pack("<I", 2**32 - 1), "claims 4294967295 variables"),
        (ONE + struct.pack("<H", 65535) + b"x" * 70000, "does not end where it says"),
        (ONE + struct.pack("<H", 4) + b"a\0b\0", "does not end where it says"),
        (ONE + text("a") + b"\xff" + bytes(2000), "255 axes"),
        (ONE + text("a") + b"\x02" + struct.pack("<IIBI", 2**31, 2**31, 0, 16) + bytes(16), "do not fill a shape"),
        (ONE + text("a") + b"\x01" + struct.pack("<IBI", 2**30 - 1, 0, 2**32 - 4), "ends early"),
        (ONE + text("a") + b"\x01" + struct.pack("<IBI", 1, 9, 4) + bytes(4), "unknown kind, 9"),
        (HEAD + struct.pack("<I", 2) + variable("a", np.zeros(1, "f4"), 0) * 2, "holds a twice"),
    ],
)
def test_claims_beyond_bounds_are_refused(content, said, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_whisper(path)


def test_a_bias_of_keys_is_refused(model, tmp_path):
    weights = ctranslate2_variables(model.state_dict())
    weights["encoder/layer_0/self_attention/linear_0/bias"][200] = 1.0
    parts = [variable(name, values, 0) for name, values in weights.items()]
    (tmp_path / "model.bin").write_bytes(HEAD + struct.pack("<I", len(parts)) + b"".join(parts) + bytes(4))
    with pytest.raises(UserError, match="keys of encoder.blocks.0 have a bias"):
        read_whisper(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_no_code_runs(tmp_path, capsys):
    torch.save({"dims": Evil(), "model_state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="refused"):
        read_whisper(tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_whisper(model, tmp_path):
    with pytest.raises(UserError, match="holds no Whisper"):
        read_whisper(tmp_path)
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"no Whisper: 'encoder\.conv1\.weight'"):
        read_whisper(tmp_path / "x.pt")
    weights = {name: t for name, t in model.state_dict().items() if name != "decoder.blocks.1.attn.key.weight"}
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"has no tensor `decoder\.blocks\.1\.attn\.key\.weight`"):
        load_whisper(tmp_path)


def counted(config):
    """Parameters by hand: attention 4 D^2 + 3 D, feed-forward 8 D^2 + 5 D, a norm 2 D, tokens, positions of text."""
    width = config.encoder_dim
    attention, feed_forward, norm = 4 * width**2 + 3 * width, 8 * width**2 + 5 * width, 2 * width
    convolutions = 3 * config.feature_dim * width + width + 3 * width**2 + width
    encoder = config.num_encoder_layers * (attention + feed_forward + 2 * norm)
    decoder = config.num_decoder_layers * (2 * attention + feed_forward + 3 * norm)
    return convolutions + encoder + decoder + 2 * norm + (config.vocab_size + config.text_context) * width


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_are_found(name):
    with torch.device("meta"):
        model = build_model(PRESETS[name])
    assert whisper_config(model.state_dict(), "x.pt") == PRESETS[name]
    assert sum(p.numel() for p in model.parameters()) == counted(PRESETS[name])


def test_number_of_tensors():
    """tiny.en has 167, base 245."""
    with torch.device("meta"):
        assert len(build_model(PRESETS["tiny.en"]).state_dict()) == 167
        assert len(build_model(PRESETS["base"]).state_dict()) == 245


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 0}, "`--vocab-size` must be at least 1"),
        ({"encoder_num_heads": 7}, "a multiple of --encoder-num-heads"),
        ({"decoder_dim": 256}, r"--encoder-dim \(512\)"),
        ({"encoder_dim": 3, "encoder_num_heads": 1}, "even and at least 4"),
    ],
)
def test_sizes_that_cannot_be(change, said):
    with pytest.raises(UserError, match=said):
        WhisperConfig(**change)
