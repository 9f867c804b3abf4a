"""Whose tensor is whose, where an artifact was made by somebody else: names, places, shapes."""

from __future__ import annotations

from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from diagnostics import RuntimeFailure
from exporter import convert, verify
from exporter.frontends import Signature
from exporter.runtimes.session import TensorInfo
from exporter.verification.matched import match


def infos(**shapes: tuple[int, ...]) -> list[TensorInfo]:
    return [TensorInfo(name, shape, "float32") for name, shape in shapes.items()]


def signatures(**shapes: tuple[int, ...]) -> list[Signature]:
    return [Signature(name, shape, "float32") for name, shape in shapes.items()]


def test_equal_names_need_no_word_whatever_their_order() -> None:
    found = match(infos(b=(1, 4), a=(1, 3, 8, 8)), signatures(a=(1, 3, 8, 8), b=(1, 4)), "output")
    assert (found.names, found.layouts, found.notes) == ({}, {}, ())


def test_other_names_are_paired_by_place_and_told() -> None:
    found = match(infos(serving_x=(1, 3), b=(1, 4)), signatures(a=(1, 3), b=(1, 4)), "input")
    assert found.names == {"serving_x": "a"}
    assert found.notes == ("the artifact's input serving_x is taken for the original's a, by its place",)


def test_channels_last_is_known_by_the_shape_and_told() -> None:
    found = match(infos(x=(-1, 8, 9, 3)), signatures(x=(1, 3, 8, 9)), "input")
    assert found.layouts == {"x": "channels_last"}
    assert "channels-last" in found.notes[0]
    assert match(infos(x=(1, 3, 3, 3)), signatures(x=(1, 3, 3, 3)), "input").layouts == {}  # as the original wherever that fits


def test_what_only_one_side_has() -> None:
    assert match(infos(y=(1, 4), debug=(1, 9)), signatures(y=(1, 4)), "output").names == {}
    assert match(infos(x=(1, 4)), signatures(x=(1, 4), unused=(1,)), "input").names == {}


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (infos(y=(1, 4)), "output", "cannot be matched"),  # of two outputs
        (infos(a=(1, 3, 8, 8), p=(1,), q=(1,)), "input", "cannot be matched"),
        (infos(a=(1, 3, 8, 8), b=(1, 5)), "output", "has shape [1, 5]"),
        (infos(a=(1, 8, 8, 4), b=(1, 4)), "output", "has shape [1, 8, 8, 4]"),
        (infos(a=(1, 3, 8), b=(1, 4)), "output", "has shape [1, 3, 8]"),
    ],
)
def test_what_is_not_the_originals_is_refused(found: list[TensorInfo], kind: str, words: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        match(found, signatures(a=(1, 3, 8, 8), b=(1, 4)), kind)
    assert caught.value.code == "EW-R005"
    assert words in caught.value.what
    assert caught.value.why
    assert caught.value.fix


@given(st.lists(st.integers(1, 9), min_size=3, max_size=5))
def test_the_layout_found_is_the_one_that_fits(shape: list[int]) -> None:
    last = (shape[0], *shape[2:], shape[1])
    found = match([TensorInfo("x", last, "float32")], [Signature("x", tuple(shape), "float32")], "input")
    assert ("x" in found.layouts) == (last != tuple(shape))


def test_a_channels_last_file_with_other_names_is_verified(tmp_path: Path) -> None:
    """As other converters write it: the same numbers as the same artifact under the original's names."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 7])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    convert(tmp_path / "m.onnx", tmp_path / "m.tflite", io_layout="channels_last")
    model = schema.ModelT.InitFromPackedBuf((tmp_path / "m.tflite").read_bytes(), 0)
    (subgraph,) = model.subgraphs
    subgraph.tensors[subgraph.inputs[0]].name = "serving_default_x:0"
    subgraph.tensors[subgraph.outputs[0]].name = "PartitionedCall:0"
    model.signatureDefs = []
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "theirs.tflite").write_bytes(builder.Output())
    data = np.random.default_rng(1).normal(size=(3, 3, 8, 9)).astype(np.float32)
    done = verify(tmp_path / "theirs.tflite", tmp_path / "m.onnx", data, gates=["y.sqnr_db>=100"])
    assert done.passed
    assert list(done.evidence.deciding.outputs) == ["y"]
