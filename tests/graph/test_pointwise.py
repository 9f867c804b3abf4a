"""Fully connected layers as convolutions of one pixel: the same numbers, nothing moved, activations still free."""

from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import assert_same, graph, kinds

from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.legalize import legalize
from exporter.graph.values import FUSED, constant
from exporter.quantization.planner import float_plan
from targets import load_target
from targets.precision import choose_precision
from targets.releases.tflite import AVOIDED

FLOAT = choose_precision(load_target("android-arm64-cpu"), "float32")


def without(model: ir.Model) -> ir.Model:
    """The graph for a runtime whose FULLY_CONNECTED is avoided; it computes the same."""
    after = legalize(model, "tflite", avoid=AVOIDED["tflite-micro"])
    assert_same(model, after)
    return after


def written(model: ir.Model) -> list[str]:
    return [name for name, _ in write_tflite(model, assign(model, float_plan(model, FLOAT), "channels_last")).operators]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 5),
    depths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    between=st.sampled_from(["Relu", "Tanh", "Identity"]),
    biased=st.booleans(),
    outer=st.sampled_from(["", "1,", "2,1,"]),
)
def test_chains_of_layers_compute_the_same(rows: int, depths: list[int], between: str, biased: bool, outer: str) -> None:
    """As Keras and torch write them: products, and sums behind that become their biases first."""
    body, weights, x = [], {}, "x"
    for place, (depth, width) in enumerate(pairwise(depths)):
        weights |= {f"w{place}": (depth, width), f"b{place}": (width,)} if biased else {f"w{place}": (depth, width)}
        body.append(f"m{place} = MatMul ({x}, w{place})")
        body.append(f"a{place} = Add (m{place}, b{place})" if biased else f"a{place} = Identity (m{place})")
        body.append(f"h{place} = {between} (a{place})")
        x = f"h{place}"
    shapes = (f"float[{outer}{rows},{width}]" for width in (depths[0], depths[-1]))
    given_, made = (f"{shape} {name}" for shape, name in zip(shapes, "xy", strict=True))
    after = without(graph(f"{' '.join(body)} y = Identity ({x})", inputs=given_, outputs=made, **weights))
    assert {"Gemm", "MatMul", "Add"}.isdisjoint(kinds(after))
    assert kinds(after).count("Conv") == len(depths) - 1
    assert set(written(after)) <= {"RESHAPE", "CONV_2D", "TANH", "RELU"}


def test_a_pooling_in_front_and_a_layer_behind_need_no_reshape() -> None:
    body = "p = GlobalAveragePool (x) f = Flatten (p) g = Gemm <transB = 1> (f, v, b) r = Relu (g) y = Gemm <transB = 1> (r, w)"
    after = without(graph(body, inputs="float[1,6,4,4] x", outputs="float[1,3] y", v=(5, 6), b=(5,), w=(3, 5)))
    assert kinds(after)[1:] == ["Conv", "Relu", "Conv", "Squeeze"]
    assert FUSED in after.graph[2].metadata_props
    assert written(after) == ["MEAN", "CONV_2D", "CONV_2D", "RESHAPE"]


@pytest.mark.parametrize("rows", [1, 7])
def test_the_weights_are_those_of_the_layer_and_its_activation_stays_free(rows: int) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    body = "g = Gemm <transB = 1> (x, w) y = Relu (g)"
    model = graph(body, inputs=f"float[{rows},6] x", outputs=f"float[{rows},4] y", w=weight)
    model.graph[0].name = layer = "the layer"
    after = without(model)
    (conv,) = (node for node in after.graph if node.op_type == "Conv")
    (relu,) = (node for node in after.graph if node.op_type == "Relu")
    assert relu.inputs[0] is conv.outputs[0]
    assert conv.name == layer
    assert FUSED in relu.metadata_props
    assert np.array_equal(constant(conv.inputs[1])[:, :, 0, 0], weight)
    assert written(after) == ["RESHAPE", "CONV_2D", "RESHAPE"]


def test_an_operator_that_is_not_known_may_stand_behind_a_layer() -> None:
    layer = graph("g = Gemm <transB = 1> (x, w) y = Relu (g)", inputs="float[1,6] x", outputs="float[1,4] y", w=(4, 6))
    layer.graph.node(1).op_type = "Nonsense"
    assert "Nonsense" in kinds(legalize(layer, "tflite", avoid=AVOIDED["tflite-micro"]))


def test_products_of_two_computed_values_and_other_runtimes_stay() -> None:
    product = graph("y = Gemm (x, z)", inputs="float[2,3] x, float[3,4] z", outputs="float[2,4] y")
    assert kinds(without(product)) == ["MatMul"]
    layer = graph("y = Gemm <transB = 1> (x, w)", inputs="float[2,3] x", outputs="float[2,4] y", w=(4, 3))
    assert kinds(legalize(layer, "tflite")) == kinds(legalize(layer, "onnx", avoid=AVOIDED["tflite-micro"])) == ["Gemm"]
