"""The reader of ONNX files sees what protobuf sees: hand-made forms, and mutated files against the package onnx."""

import contextlib
import random

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from test_external_weights import HIDING, tensor

from couloir.errors import UserError
from couloir.inference import onnx_files
from couloir.inference.onnx_backend import load_session
from couloir.inference.onnx_files import external_data
from couloir.inference.protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, number_at


def varint(value, length=0):
    """Seven bits per byte; with zeros on top where a ``length`` is wanted."""
    parts = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    parts += [0] * (length - len(parts))
    return bytes([part | 128 for part in parts[:-1]] + parts[-1:])


def given(number, content, tag_length=0, size_length=0, above=0):
    """A field of bytes; ``above`` stands in its tag above 32 bits."""
    return varint(number << 3 | BYTES | above << 32, tag_length) + varint(len(content), size_length) + content


def named(content, path):
    path.write_bytes(content)
    onnx_files._read.cache_clear()
    return onnx_files._contents(path).locations


def seen_by_onnx(message, found=None):
    """The locations of all tensors in a message, by the package's own descriptors."""
    found = set() if found is None else found
    if isinstance(message, TensorProto):
        found.update(entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                seen_by_onnx(inner, found)
    return found


def test_the_fields_that_lead_to_tensors_are_onnxs():
    names = {
        "ModelProto": "model", "TrainingInfoProto": "training", "FunctionProto": "function", "GraphProto": "graph",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse", "TensorProto": "tensor",
    }  # fmt: skip

    def leads(message, above=()):
        inner = [field.message_type for field in message.fields if field.message_type]
        return message.name == "TensorProto" or any(
            m.name not in above and leads(m, (*above, message.name)) for m in inner
        )

    found, waiting = {}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name in found or message.name == "TensorProto":
            continue
        leading = [field for field in message.fields if field.message_type and leads(field.message_type)]
        found[message.name] = {field.number: names[field.message_type.name] for field in leading}
        waiting += [field.message_type for field in leading]
    assert {names[name]: leading for name, leading in found.items()} == onnx_files.LEADING


def graph_of(entry):
    return given(7, given(5, given(13, entry)))


ENTRY = given(13, given(1, b"location") + given(2, b"w"))
TENSOR = given(5, ENTRY)  # of a graph
ONCE = given(7, TENSOR)
FORMS = {
    "plain": ONCE,
    "a tag with zeros on top": given(7, TENSOR, tag_length=5),
    "a size with zeros on top": given(7, TENSOR, size_length=5),
    "an unknown group before": varint(99 << 3 | 3) + given(7, b"x") + varint(99 << 3 | 4) + ONCE,
    "groups in one another": b"\x9b\x06\xa3\x06\xa4\x06\x9c\x06" + ONCE,
    "an unknown number before": varint(50 << 3) + varint(2**64 - 1) + ONCE,
    "unknown fixed fields before": b"\x99\x06" + bytes(8) + b"\x9d\x06" + bytes(4) + ONCE,
    "the graph as a number, and then as itself": varint(7 << 3) + varint(5) + ONCE,
    "a graph given twice": given(7, b"") + ONCE,
    "a graph given twice, the tensor in the first": ONCE + given(7, given(2, b"g")),
    "an entry whose key is given twice": graph_of(given(1, b"x") + given(1, b"location") + given(2, b"w")),
    "an entry whose value is given twice": graph_of(given(2, b"v") + given(1, b"location") + given(2, b"w")),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_other_spellings_of_one_message(tmp_path, form):
    assert named(FORMS[form], tmp_path / "m.onnx") == {"w"} == seen_by_onnx(onnx.ModelProto.FromString(FORMS[form]))


@pytest.mark.parametrize("above", [1, 2, 5, 7])
def test_what_stands_above_32_bits_of_a_tag_is_lost(tmp_path, above):
    """As the C++ library has it, which ONNX Runtime is built with; the Python package refuses such a tag."""
    for content in (
        given(7, TENSOR, above=above),
        given(7, given(5, ENTRY, above=above)),
        given(7, given(5, given(13, given(1, b"location", above=above) + given(2, b"w", above=above)))),
    ):
        assert named(content, tmp_path / "m.onnx") == {"w"}


def test_onnxruntime_reads_such_tags_too_or_refuses_them_and_we_let_neither_out(tmp_path):
    (tmp_path / "secret").write_bytes(np.zeros(300, np.float32).tobytes())
    (tmp_path / "models").mkdir()
    path, whole = tmp_path / "models" / "m.onnx", HIDING["initializer"]("../secret")
    model = onnx.ModelProto.FromString(whole)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString() + given(7, graph, above=1))
    with pytest.raises(UserError, match="must be in the model's own folder"):
        load_session(path, 1)


DAMAGED = {
    "a tag of six bytes": varint(7 << 3 | BYTES, 6) + varint(0),
    "a size of six bytes": varint(7 << 3 | BYTES) + varint(0, 6),
    "a number of eleven bytes": varint(1 << 3) + varint(1, 11),
    "the number 0": b"\x02\x00",
    "the kind 6": b"\x0e",
    "the kind 7": b"\x0f",
    "a group without end": b"\x9b\x06",
    "the end of another group": b"\x9b\x06\xa4\x06",
    "an end without group": b"\x9c\x06",
    "a graph longer than the file": varint(7 << 3 | BYTES) + varint(9) + b"x",
    "a number longer than the graph": given(7, b"\x08\xff") + b"\x01",
    "a fixed field longer than the graph": given(7, b"\x0d\x00") + bytes(3),
    "half a tag": b"\xba",
}


@pytest.mark.parametrize("form", DAMAGED)
def test_damaged_messages_are_refused_as_by_protobuf(tmp_path, form):
    with pytest.raises(DecodeError):
        onnx.ModelProto.FromString(DAMAGED[form])
    with pytest.raises(UserError, match="damaged or no model"):
        named(DAMAGED[form], tmp_path / "m.onnx")


@pytest.mark.parametrize("depth", [30, 5000])
def test_depth_is_bounded(tmp_path, depth):
    """Branches in branches: a node, its attribute, a graph. And groups."""
    content = TENSOR
    for _ in range(depth):
        content = given(1, given(5, given(6, content)))
    groups = b"\x9b\x06" * depth + b"\x9c\x06" * depth
    if depth == 30:
        assert named(given(7, content), tmp_path / "m.onnx") == {"w"} and named(groups + ONCE, tmp_path / "m") == {"w"}
        return
    for deep in (given(7, content), groups):
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(deep)
        with pytest.raises(UserError, match="damaged or no model"):
            named(deep, tmp_path / "m.onnx")


def test_kinds_and_places_of_fields():
    message = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4)
    assert list(fields(message, 0, len(message))) == [
        (1, VARINT, 1, 3), (2, FIXED64, 4, 12), (3, BYTES, 14, 16), (4, FIXED32, 17, 21),
    ]  # fmt: skip
    assert number_at(message, 1, 3) == 150
    assert number_at(varint(3 | 1 << 32), 0, 5) == 3  # of an enumeration, the lower 32 bits


def everything():
    """A model with an external tensor in every place that there is."""
    whole = onnx.ModelProto()
    for number, hiding in enumerate(HIDING):
        if hiding != "key after its value":
            whole.MergeFrom(onnx.ModelProto.FromString(HIDING[hiding](f"f{number}")))
    training = whole.training_info.add()
    training.algorithm.initializer.append(tensor("algorithm"))
    training.initialization.sparse_initializer.append(
        onnx.SparseTensorProto(values=tensor("values"), indices=tensor("indices"), dims=[300])
    )
    graphs = helper.make_attribute("gs", [training.algorithm])
    whole.graph.node.add().attribute.append(graphs)
    whole.graph.node.add().attribute.append(helper.make_attribute("ts", [tensor("one"), tensor("two")]))
    whole.graph.initializer.append(numpy_helper.from_array(np.arange(6, dtype=np.int8), "small"))
    return whole.SerializeToString()


def mutated(content, rng):
    """One to three changes: bits, bytes, parts left out, doubled or exchanged, numbers made longer."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(content)), rng.randint(1, 12)
        kind = rng.randrange(6)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.randrange(256)
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length]
        elif kind == 4:
            content[at:at] = rng.randbytes(length)
        else:
            content[at : at + 1] = bytes([content[at] | 128, 0])
        content = content or bytearray(b"\x00")
    return bytes(content)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_as_onnx_reads_them(tmp_path, count):
    rng, whole, path = random.Random(0), everything(), tmp_path / "m.onnx"
    expected = seen_by_onnx(onnx.ModelProto.FromString(whole))
    assert named(whole, path) == expected and len(expected) >= 12
    outcomes = {"equal": 0, "both refuse": 0, "we refuse": 0, "onnx refuses": 0}
    for _ in range(count):
        content = mutated(whole, rng)
        try:
            theirs = seen_by_onnx(onnx.ModelProto.FromString(content))
        except DecodeError:
            theirs = None
        try:
            ours = named(content, path)
        except UserError as error:
            assert str(error).count("\n") == 0
            outcomes["both refuse" if theirs is None else "we refuse"] += 1
            continue
        assert theirs is None or theirs == ours
        outcomes["onnx refuses" if theirs is None else "equal"] += 1
        with contextlib.suppress(UserError):  # no such files are there
            external_data(path)
    assert outcomes["we refuse"] == 0
    assert outcomes["equal"] > count / 10 and outcomes["both refuse"] > count / 10
    assert outcomes["onnx refuses"] < count / 20  # such as a text that is no UTF-8, or a tag with bits above 32
