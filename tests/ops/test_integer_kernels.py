"""Every family of integer kernels, random shapes and encodings: LiteRT's reference kernels give the integers of the `integers` facets."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_bench import compared, feeds, planned
from onnx import helper
from op_bench import graph, single

from exporter.graph.values import activation_nodes
from exporter.ops.base import Refused, all_operators
from exporter.quantization import integers
from exporter.quantization.apply import encode_constant, runs_in_integers
from tools.operator_families import FAMILIES, Draw

pytest.importorskip("torch")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(-2, 2))
def test_the_reference_is_the_kernel_to_the_last_bit(family, seed, decades):
    draw = Draw(seed)
    model = FAMILIES[family](draw)
    found = compared(model, feeds(model, draw.random, 10**decades, draw.number(-1, 1) * 10**decades))
    assert found.layers
    assert [layer for layer in found if layer.max_lsb] == []


def test_operators_that_the_planner_quantizes_have_a_reference():
    """Of those that TFLite has: the others are gone when the graph is legal."""
    known = all_operators().values()
    lacking = {operator.op_type for operator in known if operator.has("quantize") and operator.has("lower")}
    lacking -= {operator.op_type for operator in known if operator.has("integers")}
    moved = """ArgMax ArgMin Concat DepthToSpace Expand Flatten Gather GatherND Identity Max MaxPool Min Pad ReduceMax ReduceMin Reshape
        Slice SpaceToDepth Split Squeeze Tile TopK Transpose Unsqueeze Where"""
    never = "CumSum Neg ReduceProd ReduceSum"  # refuse to be quantized, or become other operators for TFLite
    assert lacking == {*moved.split(), *never.split()}


def test_a_node_without_a_reference_is_named(monkeypatch):
    from exporter.ops.base import Operator
    from exporter.ops.elementwise import Add

    model = single("Add", (2, 3), (2, 3))
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    legal, plan = planned(model, samples)
    monkeypatch.setattr(Add, "integers", Operator.integers)
    with pytest.raises(Refused, match="Add has no integer reference"):
        integers.run(legal, plan, samples[0])


WIDE = (
    *(
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "FULLY_CONNECTED",
        "BATCH_MATMUL",
        "ADD",
        "SUB",
        "MUL",
        "AVERAGE_POOL_2D",
    ),
    *("MAX_POOL_2D", "MEAN", "LEAKY_RELU", "RELU", "RELU6", "ABS", "CONCATENATION", "PAD", "RESIZE_NEAREST_NEIGHBOR"),
)


@pytest.mark.parametrize("family", [*WIDE, "fused activation", "RESIZE_BILINEAR half pixel"])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(-2, 2))
def test_the_reference_is_the_kernel_of_16_bits_to_the_last_bit(family, seed, decades):
    draw = Draw(seed)
    model = FAMILIES[family](draw)
    samples = feeds(model, draw.random, 10**decades, draw.number(-1, 1) * 10**decades)
    assert "int16x8" in planned(model, samples, lambda node: True)[1].precision.values()
    found = compared(model, samples, choose=lambda node: True)
    assert found.layers
    assert [layer for layer in found if layer.max_lsb] == []


def of_several_kernels(d):
    """A residual with a branch, a pooling, a concatenation and a classifier: borders of every kind between 8 and 16 bits."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "w2", "b2"], ["c"], name="c", pads=[1, 1, 1, 1], group=4),
        helper.make_node("Add", ["r", "c"], ["s"], name="s"),
        helper.make_node("MaxPool", ["s"], ["m"], name="m", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("LeakyRelu", ["m"], ["l"], name="l"),
        helper.make_node("Concat", ["m", "l"], ["k"], name="k", axis=1),
        helper.make_node("Mul", ["k", "g"], ["u"], name="u"),
        helper.make_node("GlobalAveragePool", ["u"], ["v"], name="v"),
        helper.make_node("Flatten", ["v"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="y", transB=1),
    ]
    weights = {"w1": d.weight(4, 3, 3, 3), "b1": d.weight(4), "w2": d.weight(4, 1, 3, 3), "b2": d.weight(4)}
    weights |= {"g": d.weight(1, 8, 1, 1), "w3": d.weight(5, 8), "b3": d.weight(5)}
    return graph(nodes, {"x": (1, 3, 2 * d.length(1, 5), 6)}, ["y", "c"], **weights)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 0.9))
def test_the_reference_of_8_and_16_bits_mixed_is_the_artifact_to_the_last_bit(seed, share):
    draw = Draw(seed)
    model = of_several_kernels(draw)
    wide = {node.name: bool(draw.random.random() < share) for node in model.graph}
    found = compared(model, feeds(model, draw.random, 1.0, 0.3), choose=lambda node: wide.get(node.name, False))
    assert len(found.layers) >= 8
    assert [layer for layer in found if layer.max_lsb] == []


def test_16_bits_move_and_are_refused_by_name_where_they_are_computed_with():
    model = single("Concat", (1, 2), (1, 3), axis=1, leaky=True)
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    legal, plan = planned(model, samples)
    wide = {name: replace(encoding, dtype="int16", zero_point=(0,)) for name, encoding in plan.encodings.items()}
    moving = replace(
        plan, precision={**dict.fromkeys(plan.precision, "float32"), "node": "int16x8"}, encodings=wide, requantize={}
    )
    found = integers.run(legal, moving, samples[0])["y0"]
    assert found.dtype == np.int16
    leaky = [np.where(array > 0, array, 0.01 * array) for array in samples[0].values()]
    assert np.abs(wide["y0"].dequantize(found) - np.concatenate(leaky, axis=1)).max() <= wide["y0"].scale[0]
    model = single("Tanh", (2, 3))
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    with pytest.raises(Refused, match="Tanh in int16x8 has no integer reference"):
        integers.run(*planned(model, samples, lambda node: True), samples[0])


def test_float_nodes_read_integer_weights_as_real_numbers():
    weight = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    model = single("Gemm", (2, 6), weight, transB=1)
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    legal, plan = planned(model, samples)
    held = encode_constant(next(iter(legal.graph)), 1, plan)
    rounded = samples[0]["x0"] @ held[1].dequantize(held[0]).T
    stored = replace(plan, precision=dict.fromkeys(plan.precision, "weight_int8"))
    np.testing.assert_allclose(integers.run(legal, stored, samples[0])["y0"], rounded, rtol=1e-5, atol=1e-6)
    hybrid = replace(plan, precision=dict.fromkeys(plan.precision, "dynamic_int8"))
    with pytest.raises(Refused, match="Gemm in dynamic_int8 has no integer reference"):
        integers.run(legal, hybrid, samples[0])


def test_a_run_gives_integers_where_nodes_run_in_integers_and_floats_elsewhere():
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["a"], name="a"),
        helper.make_node("Exp", ["a"], ["b"], name="b"),
        helper.make_node("Mul", ["a", "b"], ["y"], name="y"),
    ]
    model = graph(nodes, {"x": (2, 50)}, ["y"])
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    legal, plan = planned(model, samples)
    values = integers.run(legal, plan, samples[0])
    assert {name: array.dtype.name for name, array in values.items()} == {
        "x": "float32",
        "a": "int8",
        "b": "float32",
        "y": "int8",
    }
    exact = np.exp(plan.encodings["a"].dequantize(values["a"]))
    np.testing.assert_allclose(values["b"], exact, rtol=1e-6)
    assert [runs_in_integers(node, plan) for node, _ in activation_nodes(legal.graph)] == [True, False, True]
    step = plan.encodings["y"].scale[0]
    wanted = samples[0]["x"] * np.exp(samples[0]["x"])
    leaky = np.where(samples[0]["x"] > 0, wanted, 0.01 * samples[0]["x"] * np.exp(0.01 * samples[0]["x"]))
    assert np.abs(plan.encodings["y"].dequantize(values["y"]) - leaky).max() < 6 * step
