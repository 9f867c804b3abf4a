"""Nodes whose integer kernel is slower than float leave the integers, and no others; by the target's data alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from exporter.built import Built
from exporter.frontends import load
from exporter.pipeline import Options, build
from exporter.quantization import deciding
from exporter.quantization.apply import node_name, runs_in_integers
from targets.loader import load_target
from targets.schema import Target

PHONE, BOARD = load_target("android-arm64-cpu"), load_target("cortex-m7")
SHAPE = (1, 16, 40, 40)


def _built(tmp_path: Any, target: Target, middle: list[onnx.NodeProto], **constants: np.ndarray[Any, Any]) -> Built:
    """A convolution from x to a, `middle` from a to b, a convolution from b to y."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4 for name in ("v", "w")}
    nodes = [helper.make_node("Conv", ["x", "v"], ["a"]), *middle, helper.make_node("Conv", ["b", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "y")]
    stored = [numpy_helper.from_array(array, name) for name, array in {**weights, **constants}.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    source = load(path)
    samples = open_samples([{"x": random.standard_normal(SHAPE).astype(np.float32)} for _ in range(3)], source.inputs, None)
    return build(source, target, samples, Options(refine=False))


def _in_integers(built: Built) -> dict[str, bool]:
    return {
        node.op_type: runs_in_integers(node, built.plan) for node in built.graph.graph if node_name(node) in built.plan.precision
    }


def _with_kernels(target: Target, kernels: dict[str, dict[str, float]]) -> Target:
    data = target.model_dump()
    return Target.model_validate({**data, "cost": {**data["cost"], "kernels": kernels}})


SLOPES = np.linspace(0.1, 0.4, 16, dtype=np.float32).reshape(16, 1, 1)


def test_a_plain_loop_between_vector_kernels_stays_in_float_and_says_why(tmp_path: Any) -> None:
    built = _built(tmp_path, PHONE, [helper.make_node("PRelu", ["a", "slopes"], ["b"], name="bend")], slopes=SLOPES)
    assert _in_integers(built) == {"Conv": True, "PRelu": False}
    assert "times slower in int8 than in float on litert" in built.plan.reasons["bend"]


def test_an_integer_kernel_with_vector_code_stays(tmp_path: Any) -> None:
    built = _built(tmp_path, PHONE, [helper.make_node("Sigmoid", ["a"], ["b"])])
    assert _in_integers(built) == {"Conv": True, "Sigmoid": True}
    assert built.plan.reasons == {}


@pytest.mark.parametrize(("slow", "integer"), [(2.0, True), (1000.0, False)])
def test_integers_slower_than_floats_do_not_stay_for_the_sake_of_samples(
    monkeypatch: Any, tmp_path: Any, slow: float, integer: bool
) -> None:
    """Samples for which the float form looks worse keep a slow kernel in integers only where integers pay in all."""
    judged = iter([10.0, 20.0])
    monkeypatch.setattr(deciding, "planned_db", lambda *_: next(judged, 0.0))
    monkeypatch.setattr(deciding, "faster_in_float", lambda *_: {"bend": "slow"})
    target = _with_kernels(PHONE, {"PRelu": {"int8": slow, "float32": 1.0}})
    built = _built(tmp_path, target, [helper.make_node("PRelu", ["a", "slopes"], ["b"], name="bend")], slopes=SLOPES)
    assert _in_integers(built)["PRelu"] == integer


def test_what_stands_between_two_slow_kernels_goes_with_them(tmp_path: Any) -> None:
    middle = [
        helper.make_node("PRelu", ["a", "slopes"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["d"], name="square"),
        helper.make_node("Abs", ["d"], ["b"]),
    ]
    built = _built(tmp_path, PHONE, middle, slopes=SLOPES)
    assert _in_integers(built) == {"Conv": True, "PRelu": False, "Mul": False, "Abs": False}


def test_a_target_without_float_keeps_everything_in_integers(tmp_path: Any) -> None:
    built = _built(tmp_path, BOARD, [helper.make_node("PRelu", ["a", "slopes"], ["b"])], slopes=SLOPES)
    assert _in_integers(built) == {"Conv": True, "PRelu": True}


@pytest.mark.parametrize(("factor", "integer"), [(0.1, True), (1000.0, False)])
def test_the_profile_decides(tmp_path: Any, factor: float, integer: bool) -> None:
    target = _with_kernels(PHONE, {"Sigmoid": {"int8": factor}})
    built = _built(tmp_path, target, [helper.make_node("Sigmoid", ["a"], ["b"])])
    assert _in_integers(built) == {"Conv": True, "Sigmoid": integer}


def test_weights_stay_in_eight_bits_whatever_they_cost(tmp_path: Any) -> None:
    target = _with_kernels(PHONE, {"Conv": {"int8": 1000.0}})
    built = _built(tmp_path, target, [helper.make_node("Sigmoid", ["a"], ["b"])])
    assert _in_integers(built)["Conv"]


def test_a_graph_of_nothing_but_slow_kernels_is_left_in_float(tmp_path: Any) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "graph", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    source = load(tmp_path / "model.onnx")
    samples = open_samples([{"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}], source.inputs, None)
    assert _in_integers(build(source, PHONE, samples, Options())) == {"Abs": False}
