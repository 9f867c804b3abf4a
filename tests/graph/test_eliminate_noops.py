import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds

from exporter.graph.eliminate_noops import eliminate_noops


@pytest.mark.parametrize(
    ("kernel", "gone"),
    [("kernel_shape=[1,1]", True), ("kernel_shape=[1,1], strides=[2,2]", False), ("kernel_shape=[2,1]", False)],
)
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_a_pooling_of_single_elements_disappears(pool, kernel, gone):
    model = graph(
        f"a = Relu(x) b = {pool}<{kernel}>(a) y = Neg(b)",
        inputs="float[1,2,1,3] x" if gone else "float[1,2,3,3] x",
        outputs="float[1,2,?,?] y",
    )
    after = model.clone()
    assert eliminate_noops(after) == gone
    assert_same(model, after)


@pytest.mark.parametrize(
    "body",
    [
        "b = Identity(a)",
        "b = Dropout(a)",
        "b = Cast<to=1>(a)",
        "b = Reshape(a, shape)",
        "b = Transpose<perm=[0, 1, 2]>(a)",
        "b = Pad(a, pads)",
        "b = Concat<axis=1>(a)",
        "b = Mul(a, one)",
        "b = Sub(a, zero)",
        "b = Mul(one, a)",
        "b = Add(zero, a)",
        "c = Identity(a) b = Dropout(c)",
    ],
)
def test_what_gives_back_its_input_disappears(body):
    weights = {
        "shape": np.array([1, 2, 3]),
        "pads": np.zeros(6, np.int64),
        "one": np.float32(1),
        "zero": np.zeros((1, 1), np.float32),
    }
    used = {name: array for name, array in weights.items() if f", {name})" in body or f"({name}, " in body}
    model = graph(f"a = Relu(x) {body} y = Neg(b)", inputs="float[1,2,3] x", outputs="float[1,2,3] y", **used)
    after = model.clone()
    assert eliminate_noops(after) == len(model.graph) - 2
    assert kinds(after) == ["Relu", "Neg"]
    assert_same(model, after)


@pytest.mark.parametrize(
    "body",
    [
        "b = Transpose<perm=[0, 2, 1]>(a)",
        "b = Mul(a, two)",
        "b = Sub(zero, a)",
        "b = Add(zero, wide)",
        "b = Cast<to=10>(a)",
    ],
)
def test_what_computes_something_stays(body):
    weights = {"two": np.float32(2), "zero": np.float32(0), "wide": np.zeros((1, 3, 3), np.float32)}
    used = {name: array for name, array in weights.items() if name in body}
    model = graph(f"a = Relu(x) {body}", inputs="float[1,3,3] x", outputs="T[N,M,K] b".replace("T", "float"), infer=False, **used)
    model.graph.outputs[0].shape = model.graph.outputs[0].type = None
    from exporter.graph.infer_shapes import infer_shapes

    infer_shapes(model)
    assert eliminate_noops(model) == 0


def test_a_graph_output_keeps_its_name():
    model = graph("a = Relu(x) y = Identity(a)", inputs="float[2] x", outputs="float[2] y")
    eliminate_noops(model)
    assert kinds(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_two_names_of_one_value_need_the_node():
    """An input that is an output, and a value that is two outputs: only a node can give the second name."""
    model = graph(
        "y = Identity(x) a = Relu(x) z = Identity(a)", inputs="float[2] x", outputs="float[2] y, float[2] a, float[2] z"
    )
    assert eliminate_noops(model) == 0
    assert kinds(model) == ["Identity", "Relu", "Identity"]
