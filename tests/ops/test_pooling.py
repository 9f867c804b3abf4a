import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import helper
from op_bench import assert_legalized, assert_torch_computes_it, builtins, graph, lowered, node_of, op_types, sample, single

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.ops.base import Channels, Cost, Port, operator_of
from exporter.ops.pooling import is_nonnegative


def pool(op_type, image=(1, 2, 8, 9), kernel=(3, 3), **attributes):
    return single(op_type, image, kernel_shape=kernel, **attributes)


def behind_relu(kernel=(3, 3), **attributes):
    return graph(
        [
            helper.make_node("Relu", ["x"], ["r"], name="relu"),
            helper.make_node("MaxPool", ["r"], ["y"], name="pool", kernel_shape=kernel, **attributes),
        ],
        {"x": (1, 2, 8, 9)},
        ["y"],
    )


FORMS = {
    "valid": {"strides": [2, 2]},
    "same": {"pads": [1, 1, 1, 1]},
    "symmetric, stride 2": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "ceil": {"strides": [2, 2], "ceil_mode": 1},
    "padded ceil": {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    "lopsided": {"pads": [0, 2, 1, 0]},
    "same by name": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "one axis": {"image": (1, 2, 9), "kernel": (3,), "pads": [1, 1], "strides": [2]},
    "dilated": {"dilations": [2, 3], "pads": [2, 1, 1, 2]},
    "dilated axis": {"image": (1, 2, 9), "kernel": (3,), "dilations": [2], "pads": [1, 2], "strides": [2]},
    "volume": {"image": (1, 2, 5, 6, 7), "kernel": (2, 3, 2)},
    "padded volume": {"image": (1, 2, 5, 6, 7), "kernel": (3, 3, 2), "pads": [1, 0, 1, 1, 2, 0], "strides": [2, 1, 2]},
    "dilated volume": {"image": (1, 2, 5, 6, 7), "kernel": (2, 2, 2), "dilations": [2, 1, 3], "pads": [1, 1, 1, 1, 1, 1]},
}


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("name", FORMS)
def test_torch_legalize_and_tflite_compute_what_onnx_says(op_type, name):
    model = pool(op_type, **FORMS[name])
    assert_torch_computes_it(model)
    assert_legalized(model, "onnx")
    assert_legalized(model)
    found = lowered(model)
    assert max(found.errors.values()) < 1e-5
    # In steps of its scale, an element is off by 1.5 (input, LeakyRelu); a mean adds 0.5, a factor behind it spreads that by up to 9 / 4 (in a
    # volume, of two means, by up to 9 / 2).
    found = lowered(pool(op_type, leaky=True, **FORMS[name]), "int8", last=True)
    assert max(found.steps.values()) < (9.01 if "volume" in name else 5.01)


windows = (
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 4)] * 4),
    st.booleans(),
)


def fits(model, size, kernel, strides, pads):
    """Whether onnxruntime takes the pool, and every window holds an element: of those beyond, ONNX and onnxruntime count differently."""
    count = list(model.graph.outputs[0].shape)[2:]
    return all(
        max(pads[axis], pads[axis + 2]) < kernel[axis] and (count[axis] - 1) * strides[axis] - pads[axis] < size[axis]
        for axis in range(2)
    )


@settings(max_examples=80, deadline=None)
@given(*windows)
@example((3, 3), (4, 4), (1, 1), (3, 3, 3, 3), False)
def test_padding_never_wins_a_maximum_nor_widens_the_range(size, kernel, strides, pads, ceil):
    """The replacement of a padded MaxPool gives the same bits, and pads with values that were there."""
    assume(all(kernel[axis] <= size[axis] + pads[axis] + pads[axis + 2] for axis in range(2)))
    model = pool("MaxPool", (1, 2, *size), kernel, strides=strides, pads=pads, ceil_mode=int(ceil))
    assume(fits(model, size, kernel, strides, pads))
    assert_torch_computes_it(model, atol=0)
    feed = sample(model)
    after = legalize(model, "tflite")
    assert unsupported(after, "lower") == []
    np.testing.assert_array_equal(FloatRunner(after)(feed)["y0"], FloatRunner(model)(feed)["y0"])
    padded = [node.outputs[0].name for node in after.graph if node.op_type == "Pad"]
    for array in FloatRunner(after, padded)(feed).values() if padded else ():
        assert set(array.reshape(-1)) <= set(feed["x0"].reshape(-1))


@settings(max_examples=80, deadline=None)
@given(*windows, st.booleans())
def test_any_mean_is_simulated_and_legalized(size, kernel, strides, pads, ceil, counted):
    assume(all(kernel[axis] <= size[axis] + pads[axis] + pads[axis + 2] for axis in range(2)))
    model = pool(
        "AveragePool", (1, 2, *size), kernel, strides=strides, pads=pads, ceil_mode=int(ceil), count_include_pad=int(counted)
    )
    assume(fits(model, size, kernel, strides, pads))
    assert_torch_computes_it(model)
    assert_legalized(model)


def test_what_a_padded_pool_becomes():
    def types(model):
        return op_types(legalize(model, "tflite"))

    stride = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    assert types(pool("MaxPool", pads=[1, 1, 1, 1])) == ["MaxPool"]
    even = legalize(pool("MaxPool", (1, 2, 8, 8), **stride), "tflite")
    assert [(n.op_type, n.attributes["mode"].as_string()) for n in even.graph if n.op_type == "Pad"] == [("Pad", "reflect")]
    clipped = legalize(behind_relu(**stride), "tflite")
    assert [n.attributes["mode"].as_string() for n in clipped.graph if n.op_type == "Pad"] == ["constant"]
    wide = legalize(pool("MaxPool", kernel=(2, 2), pads=[1, 1, 0, 0]), "tflite")
    assert [n.attributes["mode"].as_string() for n in wide.graph if n.op_type == "Pad"] == ["edge"]
    assert types(pool("AveragePool", pads=[1, 1, 1, 1])) == ["AveragePool"]
    assert types(pool("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1)) == ["Pad", "AveragePool"]
    assert types(pool("AveragePool", (1, 2, 8, 8), **stride)) == ["Pad", "AveragePool", "Mul"]
    assert types(pool("MaxPool", (1, 2, 9), (3,))) == ["Unsqueeze", "MaxPool", "Squeeze"]


def test_zeros_in_front_of_a_maximum_behind_relu_run_in_tflite():
    model = behind_relu(pads=[1, 1, 1, 1], strides=[2, 2])
    assert_legalized(model, atol=0)
    found = lowered(model, last=True)
    assert builtins(found) == [("RELU", 1), ("PAD", 1), ("MAX_POOL_2D", 1)]
    assert found.errors["y"] == 0


def test_versions_and_facets():
    for op_type, builtin in (("MaxPool", "MAX_POOL_2D"), ("AveragePool", "AVERAGE_POOL_2D")):
        model = pool(op_type)
        node = node_of(model)
        operator = operator_of(node)
        assert builtins(lowered(model)) == [(builtin, 1)]
        assert builtins(lowered(pool(op_type, leaky=True), "int8", last=True)) == [(builtin, 2)]
        assert operator.quantize(node).shared
        assert operator.layout(node).inputs == (Port.LAST,)
        assert operator.couple(node).ties == ((Channels("in", 0, 1, 2), Channels("out", 0, 1, 2)),)
        assert operator.cost(node) == Cost(elementwise=2 * 6 * 7 * 9)


INDEXED = {name: form for name, form in FORMS.items() if name != "same by name"}


@pytest.mark.parametrize("name", INDEXED)
def test_indices_are_an_arg_max_over_all_taps(name):
    """Checked in onnxruntime, ties among them: the int64 indices behind a Cast to float."""
    form = {"image": (2, 2, 8, 9), "kernel": (3, 3), **INDEXED[name]}
    image, kernel = form.pop("image"), form.pop("kernel")
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=kernel, **form),
        helper.make_node("Cast", ["i"], ["z"], name="cast", to=1),
    ]
    model = graph(nodes, {"x": image}, ["y", "z"])
    feed = {"x": np.round(sample(model)["x"])}
    assert "ArgMax" in assert_legalized(model, feed=feed, atol=0)
    if len(image) == 4:
        columns = [
            helper.make_node("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=kernel, storage_order=1, **form),
            nodes[1],
        ]
        assert_legalized(graph(columns, {"x": image}, ["y", "z"]), feed=feed, atol=0)


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, {"dilations": [2, 2]}], ids=str)
def test_maxima_of_bytes(attributes):
    model = graph(
        [
            helper.make_node("Cast", ["x"], ["b"], name="cast", to=2),
            helper.make_node("MaxPool", ["b"], ["m"], name="pool", kernel_shape=(3, 3), **attributes),
            helper.make_node("Cast", ["m"], ["y"], name="back", to=1),
        ],
        {"x": (1, 2, 8, 9)},
        ["y"],
    )
    assert lowered(model, feed=sample(model, low=0, high=255)).errors["y"] == 0


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_windows_of_padding_alone_are_refused(op_type):
    model = legalize(pool(op_type, (1, 1, 2), (2,), dilations=[4], pads=[4, 4]), "tflite")
    assert [refused.reason for refused in unsupported(model, "lower")][:1] == [
        f"{op_type}: Every window covers an element of the input."
    ]


@pytest.mark.parametrize(
    ("op_type", "inputs", "known"),
    [
        ("Relu", ["x"], True),
        ("Sigmoid", ["x"], True),
        ("Tanh", ["x"], False),
        ("Clip", ["x", "zero"], True),
        ("Clip", ["x", "minus"], False),
        ("Clip", ["x"], False),
        ("Add", ["r", "zero"], True),
        ("Add", ["r", "minus"], False),
        ("Add", ["r", "x"], False),
        ("Sub", ["r", "r"], False),
    ],
)
def test_signs_are_known_from_the_producer(op_type, inputs, known):
    model = graph(
        [helper.make_node("Relu", ["x"], ["r"], name="relu"), helper.make_node(op_type, inputs, ["y"], name="node")],
        {"x": (1, 2)},
        ["y", "r"],
        zero=np.float32(0),
        minus=np.float32(-1),
    )
    assert is_nonnegative(model.graph.outputs[0]) is known
