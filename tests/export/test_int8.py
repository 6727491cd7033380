"""int8 files give the same numbers on every processor: their products, formed as those without VNNI form them."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from small_models import export, make_model, write_tokens

from couloir.export.config import CtcOnnxConfig
from couloir.export.quantize import write_int8
from couloir.inference import processor
from couloir.inference.info import describe
from couloir.inference.onnx_backend import OnnxBackend, load_session, run_session


def product(activations, weights):
    """What is meant: uint8 (M, K) times int8 (K, N)."""
    return activations.astype(np.int64) @ weights.astype(np.int64)


def saturating_product(activations, weights):
    """What AVX2 and AVX-512 make of it with `pmaddubsw`: pairs of products are added in 16 bits."""
    padding = (0, len(weights) % 2)
    a = np.pad(activations, ((0, 0), padding)).astype(np.int64)
    b = np.pad(weights, (padding, (0, 0))).astype(np.int64)
    pairs = a[:, 0::2, None] * b[None, 0::2] + a[:, 1::2, None] * b[None, 1::2]
    return pairs.clip(-(2**15), 2**15 - 1).sum(1)


def worst_activations(weights):
    """(2 N, K): the largest ones where a column is above 0, and those where it is below."""
    return np.concatenate([np.where(weights.T > 0, 255, 0), np.where(weights.T < 0, 255, 0)]).astype(np.uint8)


def integer_weights(path):
    """name -> the int8 weights (K, N) of the file's integer products."""
    graph = onnx.load(path).graph
    multiplied = {name for node in graph.node if node.op_type == "MatMulInteger" for name in node.input[1:2]}
    return {w.name: numpy_helper.to_array(w) for w in graph.initializer if w.name in multiplied}


def saturates(weights):
    a = worst_activations(weights)
    return not np.array_equal(saturating_product(a, weights), product(a, weights))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, waves):
    """A model as it is exported, and "old.int8.onnx" as icefall writes it."""
    folder = tmp_path_factory.mktemp("int8")
    write_tokens(folder)
    export(make_model("ctc"), "ctc", CtcOnnxConfig(), folder, waves)
    old_format(folder / "model.onnx", folder / "old.int8.onnx")
    return folder


def old_format(source, target, **options):
    options = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8} | options
    quantize_dynamic(str(source), str(target), **options)


def test_the_files_written_saturate_nowhere_and_those_of_eight_bits_do(folder):
    ours, old = integer_weights(folder / "model.int8.onnx"), integer_weights(folder / "old.int8.onnx")
    assert len(ours) == len(old) > 20
    assert not any(saturates(weights) for weights in ours.values())
    assert max(abs(weights.astype(int)).max() for weights in ours.values()) == 64
    assert sum(saturates(weights) for weights in old.values()) > len(old) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "streaming"), [("transducer", False), ("transducer", True), ("ctc", True)])
def test_no_other_file_saturates_either(exported, kind, streaming):
    _, folder, done = exported(kind, streaming)
    files = [name for name in done if name.endswith(".int8.onnx")]
    assert len(files) == (1 if kind == "ctc" else 3)
    for name in files:
        assert integer_weights(folder / name)
        assert not any(saturates(weights) for weights in integer_weights(folder / name).values())


def test_the_lost_bit_costs_nothing(folder, waves):
    """Against the same products of eight bits where they are exact: nearer to fp32, with a scale for each column."""
    full = OnnxBackend(folder / "model.onnx", threads=1).encode([wave.numpy() for wave in waves])
    old_format(folder / "model.onnx", folder / "tensor.int8.onnx", reduce_range=True)

    def difference(name):
        found = OnnxBackend(folder / name, threads=1).encode([wave.numpy() for wave in waves])
        return np.sqrt(np.mean([np.square(one - other).mean() for one, other in zip(found, full)]))

    assert difference("model.int8.onnx") < difference("tensor.int8.onnx")


def write_product(path, weights, kind=TensorProto.INT8):
    """A model of one integer product, with or without a file of its own for the weights."""
    ends = [
        helper.make_tensor_value_info("a", TensorProto.UINT8, ["M", len(weights)]),
        helper.make_tensor_value_info("y", TensorProto.INT32, ["M", weights.shape[1]]),
    ]
    node = helper.make_node("MatMulInteger", ["a", "w"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("largest", [64, 65, 127])
def test_onnxruntime_forms_products_as_emulated_or_as_meant(tmp_path, largest):
    rng = np.random.default_rng(largest)
    weights = rng.integers(-largest, largest + 1, (37, 5), np.int8)
    weights[:2] = largest
    path = write_product(tmp_path / "p.onnx", weights)
    a = np.concatenate([worst_activations(weights), rng.integers(0, 256, (20, 37)).astype(np.uint8)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    (found,) = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"a": a})
    meant, emulated = product(a, weights), saturating_product(a, weights)
    assert np.array_equal(meant, emulated) == (largest == 64)
    assert np.array_equal(found, emulated if processor.cuts_off() else meant)
    # couloir asks ONNX Runtime for the exact ones.
    assert np.array_equal(load_session(path, 1).run(None, {"a": a})[0], meant)


WITHOUT, WITH = frozenset({"avx2", "fma"}), frozenset({"avx2", "avx512f", "avx512_vnni"})


@pytest.mark.parametrize(
    ("flags", "machine", "cut"),
    [
        (WITHOUT, "x86_64", True),
        (WITHOUT | {"avx512f", "avx512bw"}, "x86_64", True),
        (frozenset({"sse4_1"}), "AMD64", True),
        (WITH, "x86_64", False),
        (WITHOUT | {"avx_vnni"}, "x86_64", False),
        (WITH | {"amx_int8"}, "x86_64", False),
        (frozenset(), "arm64", False),
        (frozenset({"asimd"}), "aarch64", False),
    ],
)
def test_which_processors_cut_off(monkeypatch, flags, machine, cut):
    monkeypatch.setattr(processor, "cpu_flags", lambda: flags)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    assert processor.cuts_off() == cut


@pytest.mark.parametrize("flags", [WITHOUT, WITH])
def test_a_file_of_eight_bits_is_named_where_it_matters(folder, monkeypatch, caplog, flags):
    monkeypatch.setattr(processor, "cpu_flags", lambda: flags)
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    processor._say.cache_clear()
    with caplog.at_level(logging.WARNING):
        backend = OnnxBackend(folder / "old.int8.onnx", threads=1)
        backend.encode([np.zeros(16000, np.float32)] * 2)  # opens it once more
        OnnxBackend(folder / "model.int8.onnx", threads=1)
        OnnxBackend(folder / "model.onnx", threads=1)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (flags == WITHOUT)
    assert all("old.int8.onnx has int8 weights of 8 bits" in line and "\n" not in line for line in said)


def test_info_says_which_products_a_file_has(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "cuts_off", lambda: True)
    facts = describe(folder / "model.int8.onnx")
    assert facts["integer products"] == "weights of 7 bits, the same on every processor"
    assert facts["precision"].startswith("int8 weights of 7 bits by channel")
    assert "this is one, cut off outside couloir" in describe(folder / "old.int8.onnx")["integer products"]
    monkeypatch.setattr(processor, "cuts_off", lambda: False)
    assert "without VNNI, cut off outside couloir" in describe(folder / "old.int8.onnx")["integer products"]
    assert "integer products" not in describe(folder / "model.onnx")
    unsigned = write_product(tmp_path / "u.onnx", np.full((4, 2), 255, np.uint8), TensorProto.UINT8)
    assert describe(unsigned)["integer products"] == "unsigned weights, the same on every processor"


@pytest.mark.parametrize(("largest", "bits"), [(64, 7), (-64, 7), (65, 8), (-65, 8), (-128, 8)])
def test_bits_are_counted_wherever_the_weights_are(tmp_path, largest, bits):
    weights = np.zeros((16, 8), np.int8)
    weights[3, 5] = largest
    path = write_product(tmp_path / "p.onnx", weights)
    assert processor.integer_bits(path) == bits
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="w.data", size_threshold=0)
    assert processor.integer_bits(apart) == bits
    listed = onnx.load(path)
    listed.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.INT8, [16, 8], weights.ravel().tolist()))
    onnx.save(listed, path)
    assert processor.integer_bits(path) == 8  # its values are in no form that is read: taken for the worst


def test_files_of_samples_store_their_weights_alone(tmp_path, waves):
    write_tokens(tmp_path)
    export(make_model("ctc"), "ctc", CtcOnnxConfig(with_frontend=True), tmp_path, waves)
    path = tmp_path / "audio-model.int8.onnx"
    assert not integer_weights(path) and processor.integer_format(path) == ""
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert found["precision"] == "int8 weights of 8 bits by channel, computed in fp32"


def test_a_runtime_that_is_wrong_with_amx_is_refused_whatever_the_bits(folder, tmp_path, monkeypatch):
    from couloir.errors import UserError

    monkeypatch.setattr(processor, "cpu_flags", lambda: WITH | {"amx_int8"})
    monkeypatch.setattr(onnxruntime, "__version__", "1.22.1")
    for name in ("model.int8.onnx", "old.int8.onnx"):
        with pytest.raises(UserError, match="computes int8 models wrongly on this CPU"):
            load_session(folder / name, 1)
    write_int8(folder / "model.onnx", tmp_path / "m.onnx")
    monkeypatch.setattr(onnxruntime, "__version__", "1.25.0")
    found = run_session(
        load_session(tmp_path / "m.onnx", 1), np.zeros((1, 50, 80)), np.array([50]), names=("x", "x_lens")
    )
    assert found[0].shape[2] == 19
