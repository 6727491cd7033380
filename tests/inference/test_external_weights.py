"""An ONNX file gets its weights from its own folder, wherever in it the tensors hide."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from couloir.errors import UserError
from couloir.inference.onnx_backend import OnnxBackend, load_session, run_session
from couloir.inference.onnx_files import external_data

WEIGHTS = np.arange(300, dtype=np.float32)


def tensor(location, entries=()):
    made = numpy_helper.from_array(WEIGHTS, "w")
    made.ClearField("raw_data")
    made.data_location = TensorProto.EXTERNAL
    for key, value in (*entries, ("location", location), ("offset", "0"), ("length", str(WEIGHTS.nbytes))):
        made.external_data.add(key=key, value=value)
    return made


def graph(nodes=None, weights=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in ("x", "y")]
    nodes = nodes or [helper.make_node("Add", ["x", "w"], ["y"])]
    return helper.make_graph(nodes, "g", ends[:1], ends[1:], list(weights))


def model(in_graph, functions=()):
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(in_graph, opset_imports=opset, ir_version=8, functions=list(functions)).SerializeToString()


def in_branch(location):
    constant = helper.make_node("Constant", [], ["w"], value=tensor(location))
    return graph([helper.make_node("If", ["x"], ["y"], then_branch=graph([constant]), else_branch=graph())])


def sparse(location):
    return onnx.SparseTensorProto(values=tensor(location), indices=numpy_helper.from_array(np.arange(300)), dims=[300])


HIDING = {
    "initializer": lambda place: model(graph(weights=[tensor(place)])),
    "second of two locations": lambda place: model(graph(weights=[tensor(place, [("location", "w.data")])])),
    "constant of a branch": lambda place: model(in_branch(place)),
    "list of tensors": lambda place: model(graph([helper.make_node("A", ["x"], ["y"], t=[tensor(place)])])),
    "sparse tensor": lambda place: model(graph([helper.make_node("A", ["x"], ["y"], s=sparse(place))])),
    "function": lambda place: model(
        graph(),
        [
            helper.make_function(
                "d", "f", [], ["w"], [helper.make_node("Constant", [], ["w"], value=tensor(place))],
                [helper.make_opsetid("", 13)],
            )
        ],
    ),
    "key after its value": lambda place: model(graph(weights=[tensor(place)])).replace(
        b"\x0a\x08location\x12" + bytes([len(place)]) + place.encode(),
        b"\x12" + bytes([len(place)]) + place.encode() + b"\x0a\x08location",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hiding", HIDING)
def test_weights_outside_the_models_folder_are_refused(tmp_path, hiding):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (folder / "w.data").write_bytes(WEIGHTS.tobytes())
    path = folder / "m.onnx"
    for place in ("../secret", "a/../../secret", str(tmp_path / "secret"), "C:\\secret", "..\\secret"):
        path.write_bytes(HIDING[hiding](place))
        with pytest.raises(UserError, match=r"m\.onnx names` must be in the model's own folder, but is '.*secret'$"):
            load_session(path, 1)
    path.write_bytes(HIDING[hiding]("w.data"))
    assert external_data(path) == [folder / "w.data"]
    (folder / "w.data").unlink()
    with pytest.raises(UserError, match=r"has its weights in w\.data, which is not beside it"):
        load_session(path, 1)


@pytest.mark.parametrize(
    "place",
    ["..", "a/..", "./../secret", "a/b/../../../secret", "/", "\\\\host\\share\\w", "c:w", "a\\..\\..\\secret", "w\0",
     "\0", "*/_ORT_MEM_ADDR_/*", ""],
)  # fmt: skip
def test_places_that_are_outside_by_some_systems_rules(tmp_path, place):
    """An address in memory too, which ONNX Runtime takes a certain name for, and what ends at a NUL for the system."""
    path = tmp_path / "m.onnx"
    path.write_bytes(model(graph(weights=[tensor(place)])))
    (tmp_path / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    for name in ("w", "*/_ORT_MEM_ADDR_/*"):
        (tmp_path / name).write_bytes(WEIGHTS.tobytes())
    with pytest.raises(UserError, match="must be in the model's own folder"):
        load_session(path, 1)


@pytest.mark.parametrize(
    "kind", ["a file", "a folder", "two links", "an absolute link", "a loop", "a long name", "a folder's name"]
)
def test_links_that_lead_out_of_the_models_folder_are_refused(tmp_path, kind):
    folder, name = tmp_path / "models", "w.data"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    if kind == "a file":
        (folder / name).symlink_to("../secret")
    elif kind == "a folder":
        (folder / "up").symlink_to("..")
        name = "up/secret"
    elif kind == "two links":
        (folder / name).symlink_to("sub/next")
        (folder / "sub/next").symlink_to("../../secret")
    elif kind == "an absolute link":
        (folder / name).symlink_to(tmp_path / "secret")
    elif kind == "a loop":
        (folder / name).symlink_to(name)
    elif kind == "a long name":
        name = "w" * 5000
    else:
        name = "sub"
    path = folder / "m.onnx"
    path.write_bytes(model(graph(weights=[tensor(name)])))
    with pytest.raises(UserError, match=r"must be in the model's own folder|not beside it"):
        load_session(path, 1)


def test_links_inside_the_models_folder_are_followed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "w.data").symlink_to("sub/w")
    (tmp_path / "m.onnx").write_bytes(model(graph(weights=[tensor("w.data")])))
    session = load_session(tmp_path / "m.onnx", 1)
    assert np.array_equal(run_session(session, np.ones(300), names=("x",))[0], WEIGHTS + 1)


def test_weights_beside_a_model_are_read_also_through_the_links_of_a_hubs_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "0").mkdir(parents=True)
    contents = {"m.onnx": model(graph(weights=[tensor("m.onnx.data")])), "m.onnx.data": WEIGHTS.tobytes()}
    for name, content in contents.items():
        (tmp_path / "blobs" / name[::-1]).write_bytes(content)
        (tmp_path / "snapshots" / "0" / name).symlink_to(f"../../blobs/{name[::-1]}")
    session = load_session(tmp_path / "snapshots" / "0" / "m.onnx", 1)
    assert np.array_equal(run_session(session, np.ones(300), names=("x",))[0], WEIGHTS + 1)


@pytest.mark.parametrize(
    "damage", [lambda b: b + b"\x0b", lambda b: b[:-7], lambda b: b + b"\x3a\xff", lambda b: b"<html>"]
)
def test_what_cannot_be_read_through_is_damaged(tmp_path, damage):
    path = tmp_path / "m.onnx"
    path.write_bytes(damage(model(graph(weights=[tensor("w.data")]))))
    with pytest.raises(UserError, match="damaged or no model"):
        load_session(path, 1)


@pytest.mark.slow
def test_a_models_files_are_known(models, tmp_path):
    for file in (models() / "onnx").iterdir():
        shutil.copy(file, tmp_path)
    whole = onnx.load(tmp_path / "model.onnx")
    onnx.save(whole, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    backend = OnnxBackend(tmp_path)
    assert sorted(path.name for path in backend.files) == ["model.onnx", "model.onnx.data", "tokens.txt"]
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    np.testing.assert_allclose(backend.encode([wave])[0], OnnxBackend(models() / "onnx").encode([wave])[0], atol=1e-5)
