import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from op_bench import assert_legalized, assert_torch_computes_it, builtins, graph, lowered, node_of, single

from exporter.graph.coverage import unsupported
from exporter.ops.base import Channels, Cost, Port, Refused, Role, operator_of


def weights(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def conv(image=(1, 3, 9, 8), filters=4, kernel=(3, 3), group=1, bias=True, **attributes):
    weight = weights(filters, image[1] // group, *kernel)
    return single("Conv", image, weight, *([weights(filters, seed=2)] if bias else []), group=group, **attributes)


FORMS = {
    "valid": conv(),
    "same": conv(pads=[1, 1, 1, 1]),
    "same by name": conv(auto_pad="SAME_UPPER", strides=[2, 2]),
    "odd one in front": conv(auto_pad="SAME_LOWER", strides=[2, 2]),
    "symmetric, stride 2": conv((1, 3, 8, 8), pads=[1, 1, 1, 1], strides=[2, 2]),
    "lopsided": conv(pads=[0, 2, 1, 0]),
    "wide": conv(pads=[3, 3, 3, 3]),
    "dilated": conv(kernel=(2, 3), dilations=[2, 3], pads=[1, 3, 1, 3]),
    "pointwise": conv(kernel=(1, 1), bias=False),
    "depthwise": conv(filters=3, group=3, pads=[1, 1, 1, 1]),
    "depthwise, multiplied": conv(filters=6, group=3, strides=[2, 1]),
    "grouped": conv((1, 6, 9, 8), filters=4, group=2, pads=[1, 1, 1, 1]),
    "one channel": conv((1, 1, 9, 8), filters=4),
    "one axis": conv((1, 3, 11), kernel=(3,), pads=[1, 1]),
    "one axis, lopsided": conv((2, 4, 11), kernel=(4,), group=2, pads=[0, 3], strides=[2]),
}


@pytest.mark.parametrize("name", FORMS)
def test_torch_computes_what_onnx_says(name):
    assert_torch_computes_it(FORMS[name], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("valid", ["Conv"]),
        ("same", ["Conv"]),
        ("same by name", ["Conv"]),
        ("odd one in front", ["Pad", "Conv"]),
        ("symmetric, stride 2", ["Pad", "Conv"]),
        ("lopsided", ["Pad", "Conv"]),
        ("wide", ["Pad", "Conv"]),
        ("grouped", ["Conv"]),
        ("one axis", ["Unsqueeze", "Conv", "Squeeze"]),
        ("one axis, lopsided", ["Unsqueeze", "Pad", "Conv", "Squeeze"]),
    ],
)
def test_legalized_for_tflite(name, becomes):
    assert assert_legalized(FORMS[name], atol=1e-5) == becomes
    assert assert_legalized(FORMS[name], "onnx", atol=1e-5) == ["Conv"]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 3)] * 4),
)
def test_any_window_is_simulated_and_legalized_exactly(size, kernel, strides, dilations, pads):
    for axis in range(2):
        assume(size[axis] + pads[axis] + pads[axis + 2] >= (kernel[axis] - 1) * dilations[axis] + 1)
    model = conv((1, 2, *size), 3, kernel, strides=strides, dilations=dilations, pads=pads)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert unsupported(model, "lower") == []


@pytest.mark.parametrize("name", FORMS)
def test_tflite_computes_it(name):
    assert max(lowered(FORMS[name]).errors.values()) < 1e-5
    with_bias = conv((1, 3, 11), kernel=(3,), pads=[1, 1]) if name == "pointwise" else FORMS[name]
    # Rounding of the input is worth up to a few steps of the output, rounding of the weights about as much.
    assert max(lowered(with_bias, "int8").steps.values()) < 5


def test_versions_are_the_lowest_that_do():
    def versions(name):
        return [entry for precision in ("float32", "int8") for entry in builtins(lowered(FORMS[name], precision))]

    assert versions("same") == [("CONV_2D", 1), ("CONV_2D", 3)]
    assert versions("dilated") == [("CONV_2D", 1), ("CONV_2D", 3)]
    assert versions("grouped") == [("CONV_2D", 6), ("CONV_2D", 6)]
    assert versions("depthwise") == [("DEPTHWISE_CONV_2D", 1), ("DEPTHWISE_CONV_2D", 3)]
    dilated = conv(filters=3, group=3, dilations=[2, 2])
    assert builtins(lowered(dilated)) == [("DEPTHWISE_CONV_2D", 2)]


def test_a_relu_behind_is_the_kernels_own():
    model = graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"], name="relu")],
        {"x": (1, 3, 6, 6)},
        ["y"],
        w=weights(4, 3, 3, 3),
    )
    found = lowered(model)
    assert builtins(found) == [("CONV_2D", 1)]
    assert found.errors["y"] < 1e-5


def test_encodings_layout_and_cost():
    node = node_of(FORMS["same"])
    rule = operator_of(node).quantize(node)
    assert [entry.role for entry in rule.inputs] == [Role.ACTIVATION, Role.WEIGHT, Role.BIAS]
    assert rule.inputs[1].axis == 0
    assert not rule.shared
    assert operator_of(node).layout(node).outputs == (Port.LAST,)
    assert operator_of(node).cost(node) == Cost(macs=4 * 9 * 8 * 3 * 3 * 3)
    depthwise = node_of(FORMS["depthwise"])
    assert operator_of(depthwise).cost(depthwise) == Cost(macs=3 * 9 * 8 * 3 * 3)


def test_filters_are_free_and_input_channels_follow_their_producer():
    coupling = operator_of(node := node_of(FORMS["same"])).couple(node)
    assert coupling.ties == (
        (Channels("in", 0, 1, 3), Channels("in", 1, 1, 3)),
        (Channels("in", 1, 0, 4), Channels("in", 2, 0, 4), Channels("out", 0, 1, 4)),
    )
    assert coupling.free_outputs == (1,)


def test_a_depthwise_convolution_follows_its_input_and_mends_its_groups():
    coupling = operator_of(node := node_of(FORMS["depthwise, multiplied"])).couple(node)
    assert coupling.ties == (
        (
            Channels("in", 0, 1, 3),
            Channels("in", 1, 0, 3, repeat=2),
            Channels("in", 2, 0, 3, repeat=2),
            Channels("out", 0, 1, 3, repeat=2),
        ),
    )
    assert coupling.free_outputs == ()
    assert coupling.update is not None
    node = node_of(conv(filters=6, group=3))
    coupling.update(node, ((0, 2),))
    assert node.attributes["group"].as_int() == 2


def test_cutting_a_grouped_convolution_as_coupled_leaves_the_other_channels_equal():
    """The coupling says: filter f of each of the two groups goes together. Zeroing nothing, the kept outputs must not change."""
    whole = FORMS["grouped"]
    node = node_of(whole)
    run = operator_of(node).couple(node).ties[1][0]
    assert (run.count, run.outer) == (2, 2)
    kept = [outer * run.count + 1 for outer in range(run.outer)]
    arrays = [value.const_value.numpy()[kept] for value in node.inputs[1:]]
    cut = single("Conv", (1, 6, 9, 8), *arrays, group=2, pads=[1, 1, 1, 1])
    import torch

    x = torch.from_numpy(weights(1, 6, 9, 8))
    full = operator_of(node).torch(node, [x, *(torch.from_numpy(v.const_value.numpy().copy()) for v in node.inputs[1:])])[0]
    part = operator_of(node).torch(node_of(cut), [x, *(torch.from_numpy(array) for array in arrays)])[0]
    torch.testing.assert_close(part, full[:, kept])


COMPUTED = {
    "plain": (single("Conv", (1, 3, 6, 7), (4, 3, 3, 3)), ("CONV_2D", 1)),
    "bias": (single("Conv", (1, 3, 6, 7), (4, 3, 3, 3), (4,), pads=[1, 0, 1, 2]), ("CONV_2D", 1)),
    "grouped": (single("Conv", (1, 4, 6, 7), (6, 2, 3, 3), group=2, strides=[2, 2]), ("CONV_2D", 6)),
    "depthwise": (single("Conv", (1, 4, 6, 7), (4, 1, 3, 3), group=4), ("CONV_2D", 6)),
    "one axis": (single("Conv", (1, 3, 9), (4, 3, 3), pads=[1, 1]), ("CONV_2D", 1)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_may_be_computed(name):
    model, builtin = COMPUTED[name]
    assert_legalized(model, atol=1e-5)
    found = lowered(model)
    assert builtin in found.operators
    assert max(found.errors.values()) < 3e-5  # of sums up to 27 * 4 * 4
    with pytest.raises(Refused, match="computed weight"):
        operator_of(node_of(model)).quantize(node_of(model))


VOLUMES = {
    "volume": conv((1, 2, 5, 6, 7), kernel=(2, 3, 2)),
    "strided": conv((2, 3, 6, 6, 7), kernel=(3, 3, 3), strides=[2, 1, 2], pads=[1, 0, 1, 1, 2, 0]),
    "same": conv((1, 2, 5, 6, 7), kernel=(3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2, 2]),
    "dilated": conv((1, 2, 5, 6, 7), kernel=(2, 2, 2), dilations=[2, 1, 3], bias=False),
    "grouped": conv((1, 4, 5, 6, 7), filters=6, kernel=(2, 2, 2), group=2),
    "depthwise": conv((1, 4, 5, 6, 7), kernel=(2, 2, 2), group=4, pads=[1, 1, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(name):
    model = VOLUMES[name]
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    found = lowered(model)
    assert [entry for entry in found.operators if entry[0] not in ("PAD", "TRANSPOSE")] == [("CONV_3D", 1)]
    assert max(found.errors.values()) < 1e-5
    assert max(lowered(model, "int8").errors.values()) < 1e-5  # it stays in float


def test_what_no_kernel_takes_is_refused_with_a_sentence():
    computed = single("Conv", (1, 2, 4, 4, 4), (2, 2, 2, 2, 2))
    assert [r.reason for r in unsupported(computed, "lower")] == ["Conv: A convolution over three axes has a constant weight."]
    time = conv((1, 1, 3, 3, 3, 3), kernel=(2, 2, 2, 2))
    assert [r.reason for r in unsupported(time, "lower")] == ["Conv: The convolution has one, two or three spatial axes."]
