"""Outputs beyond their encoding: what a runtime that leaves out a rounding gives, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from diagnostics import RuntimeFailure
from exporter import export
from exporter.quantization.plan import Encoding, Plan
from exporter.verification.within import require_within


def clamp(folder: Path) -> Path:
    """``relu(x)`` of an input: on a target without float, a quantized clamp between two floats."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4, 5]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "clamp")], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "clamp.onnx")
    return folder / "clamp.onnx"


def graph_and_plan(folder: Path) -> tuple:
    from exporter.frontends import load

    graph = load(clamp(folder)).model.graph
    return graph, Plan("t", precision={"clamp": "int8"}, encodings={"y": Encoding("int8", (0.5,), (-128,))})


@pytest.mark.parametrize("number", [-0.2, 0.0, 127.5, 127.7])
def test_numbers_of_the_encoding_pass(tmp_path: Path, number: float) -> None:
    require_within(*graph_and_plan(tmp_path), [{"y": np.full(4, number, np.float32)}], "some-runtime")


@pytest.mark.parametrize("number", [-0.3, 128.0])
def test_numbers_beyond_it_are_an_error(tmp_path: Path, number: float) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        require_within(*graph_and_plan(tmp_path), [{"y": np.zeros(4)}, {"y": np.full(4, number, np.float32)}], "some-runtime")
    assert caught.value.code == "EW-R005"
    assert "some-runtime" in caught.value.what


def test_a_float_node_may_give_what_it_likes(tmp_path: Path) -> None:
    graph, plan = graph_and_plan(tmp_path)
    require_within(graph, Plan("t", precision={"clamp": "float32"}, encodings=plan.encodings), [{"y": np.full(4, -9.0)}], "r")


def test_a_clamp_that_the_npu_leaves_out_is_not_exported(tmp_path: Path) -> None:
    data = [{"x": array} for array in np.random.default_rng(0).normal(size=(10, 3, 4, 5)).astype(np.float32)]
    with pytest.raises(RuntimeFailure) as caught:
        export(
            clamp(tmp_path),
            targets=["snapdragon-8gen3-npu"],
            calibration=data,
            out=tmp_path / "out",
        )
    assert caught.value.code == "EW-R005"
    assert "qnn-htp" in caught.value.what
    assert not (tmp_path / "out" / "snapdragon-8gen3-npu").exists()
