"""The emulated Hexagon NPU: strict unless it is told otherwise, and its refusals name the nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from diagnostics import RuntimeFailure
from exporter.runtimes import open_session
from exporter.runtimes.registry import runtime_of

V75 = {"htp_arch": 75, "soc_model": 57}


@pytest.fixture
def with_a_determinant(tmp_path: Path) -> Path:
    """``relu(det(x))`` of three 2 x 2 matrices; the NPU has no determinant."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    nodes = [helper.make_node("Det", ["x"], ["d"], "the_det"), helper.make_node("Relu", ["d"], ["y"], "the_relu")]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "det.onnx"
    onnx.save(model, path)
    return path


def test_a_node_that_the_npu_lacks_is_refused_by_name(with_a_determinant: Path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        open_session("qnn-htp", with_a_determinant, options=V75)
    assert caught.value.code == "EW-R002"
    assert "the NPU does not run the_det (Det)" in caught.value.why
    assert "the_relu" not in caught.value.why.partition("\n")[0]


def test_where_it_may_such_a_node_runs_on_the_cpu(with_a_determinant: Path) -> None:
    matrices = np.array([[[1, 2], [3, 4]], [[2, 0], [0, 2]], [[0, 1], [1, 0]]], np.float32)
    with open_session("qnn-htp", with_a_determinant, options={**V75, "cpu_fallback": True}) as session:
        report = session.report()
        found = session.run({"x": matrices})["y"]
    assert report["cpu"] == ["the_det (Det)"]
    assert report["npu"] == ["the_relu (Relu)"]
    assert report["partitions"] == 1
    np.testing.assert_allclose(found, [0, 4, 0], rtol=1e-3)  # the NPU computes floats in float16


def test_it_is_an_emulator_and_its_time_is_no_latency() -> None:
    assert runtime_of("qnn-htp").emulates
    assert not runtime_of("onnxruntime").emulates
