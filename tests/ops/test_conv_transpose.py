import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, single

from exporter.graph.coverage import unsupported
from exporter.ops.base import Cost, Role, operator_of


def weights(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def transposed(image=(1, 4, 5, 6), filters=3, kernel=(2, 2), group=1, bias=True, **attributes):
    weight = weights(image[1], filters // group, *kernel)
    return single("ConvTranspose", image, weight, *([weights(filters, seed=2)] if bias else []), group=group, **attributes)


FORMS = {
    "doubling": (transposed(strides=[2, 2]), ["ConvTranspose"]),
    "without bias": (transposed(strides=[2, 2], bias=False), ["ConvTranspose"]),
    "same": (transposed(kernel=(4, 4), strides=[2, 2], pads=[1, 1, 1, 1]), ["ConvTranspose"]),
    "cropped": (transposed(kernel=(3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]), ["ConvTranspose", "Slice"]),
    "beyond the kernel": (transposed(kernel=(2, 2), strides=[3, 3], output_padding=[2, 1]), ["ConvTranspose"]),
    "dilated": (transposed(kernel=(2, 3), dilations=[2, 2]), ["ConvTranspose"]),
    "grouped": (transposed(filters=6, group=2, strides=[2, 2]), ["ConvTranspose"]),
    "depthwise": (transposed(filters=4, group=4, kernel=(4, 4), strides=[2, 2], pads=[1, 1, 1, 1]), ["ConvTranspose"]),
    "one axis": (transposed((1, 4, 7), kernel=(3,), strides=[2]), ["Unsqueeze", "ConvTranspose", "Squeeze"]),
    "same by name": (transposed(kernel=(3, 3), strides=[2, 2], auto_pad="SAME_UPPER"), ["ConvTranspose"]),
    "lower by name": (transposed(kernel=(3, 3), strides=[2, 2], auto_pad="SAME_LOWER"), ["ConvTranspose", "Slice"]),
    "by output shape": (transposed(kernel=(3, 3), strides=[2, 2], output_shape=[10, 12]), ["ConvTranspose", "Slice"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_torch_and_legalize_compute_what_onnx_says(name):
    model, becomes = FORMS[name]
    assert_torch_computes_it(model, atol=1e-5)
    assert assert_legalized(model, atol=1e-5) == becomes
    assert assert_legalized(model, "onnx", atol=1e-5) == ["ConvTranspose"]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_any_form_is_simulated_and_legalized_exactly(size, kernel, strides, dilations, pads, extra):
    for axis in range(2):
        assume(extra[axis] < strides[axis])
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        assume((size[axis] - 1) * strides[axis] + reach + extra[axis] - pads[axis] - pads[axis + 2] >= 1)
    model = transposed((1, 2, *size), 3, kernel, strides=strides, dilations=dilations, pads=pads, output_padding=extra)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_tflite_computes_it(name):
    model, _ = FORMS[name]
    assert max(lowered(model).errors.values()) < 1e-5
    if name != "without bias":
        assert max(lowered(model, "int8").steps.values()) < 5


def test_versions_are_the_lowest_that_do():
    assert builtins(lowered(FORMS["doubling"][0])) == [("TRANSPOSE_CONV", 3)]
    assert builtins(lowered(FORMS["without bias"][0])) == [("TRANSPOSE_CONV", 1)]
    assert builtins(lowered(FORMS["doubling"][0], "int8")) == [("TRANSPOSE_CONV", 3)]


def test_facets():
    node = node_of(FORMS["doubling"][0])
    operator = operator_of(node)
    rule = operator.quantize(node)
    assert [entry.role for entry in rule.inputs] == [Role.ACTIVATION, Role.WEIGHT, Role.BIAS]
    assert rule.inputs[1].axis == 1
    assert operator.cost(node) == Cost(macs=4 * 5 * 6 * 3 * 2 * 2)
    ties = operator.couple(node).ties
    assert [(run.index, run.axis, run.count) for run in ties[0]] == [(0, 1, 4), (1, 0, 4)]
    assert [(run.side, run.axis, run.count) for run in ties[1]] == [("in", 1, 3), ("in", 0, 3), ("out", 1, 3)]
    grouped = node_of(FORMS["grouped"][0])
    assert [(run.side, run.count) for run in operator.couple(grouped).blocked] == [("in", 4), ("out", 6)]


VOLUMES = {
    "volume": transposed((1, 2, 3, 4, 3), kernel=(2, 3, 2), strides=[2, 2, 3]),
    "same": transposed((1, 2, 3, 4, 3), kernel=(4, 4, 4), strides=[2, 2, 2], pads=[1, 1, 1, 1, 1, 1], bias=False),
    "cropped": transposed(
        (2, 2, 3, 3, 3), kernel=(3, 3, 3), strides=[2, 1, 2], pads=[1, 0, 1, 0, 1, 1], output_padding=[1, 0, 0]
    ),
    "dilated": transposed((1, 2, 3, 4, 3), kernel=(2, 2, 2), dilations=[1, 2, 3]),
    "grouped": transposed((1, 4, 3, 3, 3), filters=6, kernel=(2, 2, 2), group=2),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(name):
    model = VOLUMES[name]
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    found = lowered(model)
    assert ("CONV_3D_TRANSPOSE", 1) in found.operators
    assert max(found.errors.values()) < 1e-5
    assert max(lowered(model, "int8").errors.values()) < 1e-5  # it stays in float


def test_four_axes_are_refused():
    time = transposed((1, 2, 3, 3, 3, 3), kernel=(2, 2, 2, 2))
    assert [r.reason for r in unsupported(time, "lower")] == [
        "ConvTranspose: The convolution has one, two or three spatial axes."
    ]
