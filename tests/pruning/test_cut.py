"""Channels that nothing reads are cut: the outputs stay. That is the definition of a right cut, on networks of every kind of coupling."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_graphs import Net, difference, exact_difference, silence, some_of_each

from diagnostics import ModelError
from exporter.graph.values import name_of, static_shape
from exporter.ops.base import Channels, Coupling, Operator, operator_of
from exporter.pruning import find_groups, prune, replay
from exporter.pruning.cut import cut, kept_indices, removed_classes

ROUNDING = 1e-5  # float32 sums in another order, over a few layers
EXACT = 1e-11  # the same in float64

# Sigmoid, HardSigmoid and a Clip above 0 do not map 0 to 0: a channel of zero weights would still be read as a constant.
ACTIVATIONS = ("Relu", "Sigmoid", "HardSigmoid", "LeakyRelu")
BLOCKS = (
    "plain",
    "residual",
    "depthwise",
    "concat",
    "squeeze",
    "grouped",
    "pool",
    "scale",
    "clip",
    "prelu",
    "twice",
    "split",
    "slice",
    "pad",
    "resize",
    "shuffle",
)
HEADS = ("conv", "flatten", "transposed", "mean", "pooled", "matmul")


def block(net: Net, kind: str, x: str, filters: int, activation: str) -> str:
    channels = net.shapes[x][1]
    if kind == "plain":
        return net.op(activation, net.conv(x, filters))
    if kind == "residual":
        return net.op("Add", x, net.op(activation, net.conv(net.op("Relu", net.conv(x, filters, 1)), channels)))
    if kind == "depthwise":
        return net.op(activation, net.depthwise(x, 1 + filters % 2))
    if kind == "concat":
        return net.op("Concat", net.conv(x, filters), x, net.op(activation, net.conv(x, 2, 1)), axis=1)
    if kind == "squeeze":
        return net.squeeze_excite(x)
    if kind == "grouped":
        return net.op(activation, net.conv(net.conv(x, 2 * filters), 4, group=2))
    if kind == "pool":
        return net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    if kind == "scale":
        return net.op("Add", net.op("Mul", x, net.weight(channels, 1, 1)), net.weight(1, channels, 1, 1))
    if kind == "clip":
        return net.op("Clip", x, net.const(np.array(0.25, np.float32)), net.const(np.array(3, np.float32)))
    if kind == "prelu":
        return net.op("PRelu", x, net.weight(channels, 1, 1))
    if kind == "split":
        sizes = np.array([channels - channels // 2, channels // 2])
        left, right = net.op("Split", x, net.const(sizes), axis=1, outputs=2).split()
        return net.op("Concat", net.op(activation, right), left, net.conv(left, filters), axis=1)
    if kind == "slice":
        bounds = (net.const(np.array([bound])) for bound in (1, max(2, channels - 1), 1))
        return net.op("Concat", net.op("Slice", x, *bounds), net.conv(x, filters), axis=1)
    if kind == "pad":
        return net.op("AveragePool", net.op("Pad", x, net.const(np.array([0, 0, 1, 1, 0, 0, 1, 1]))), kernel_shape=[3, 3])
    if kind == "resize":
        wide = net.op("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
        return net.op("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2])
    if kind == "shuffle":
        size = net.shapes[x][2]
        wide = net.op("Reshape", net.conv(x, 2 * filters), net.const(np.array([1, 2, filters, size, size])))
        turned = net.op("Transpose", wide, perm=[0, 2, 1, 3, 4])
        return net.op(activation, net.op("Reshape", turned, net.const(np.array([1, 2 * filters, size, size]))))
    assert kind == "twice"
    return net.op("Concat", x, net.op(activation, x), axis=1)


def head(net: Net, kind: str, x: str) -> str:
    if kind == "conv":
        return net.conv(x, 3)
    if kind == "flatten":
        return net.gemm(net.op("Flatten", x), 3)
    if kind == "transposed":
        return net.gemm(net.op("Reshape", net.op("Transpose", x, perm=[0, 3, 2, 1]), net.const(np.array([1, -1]))), 3)
    if kind == "mean":
        return net.gemm(net.op("ReduceMean", x, net.const(np.array([2, 3])), keepdims=0), 3)
    if kind == "matmul":
        flat = net.op("Flatten", x)
        return net.op("Add", net.op("MatMul", flat, net.weight(net.shapes[flat][1], 3)), net.weight(3))
    elements = int(np.prod(net.shapes[net.op("GlobalAveragePool", x)]))
    return net.gemm(net.op("Reshape", f"v{len(net.nodes) - 1}", net.const(np.array([1, elements]))), 3)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 6), st.sampled_from(ACTIVATIONS)), min_size=1, max_size=5),
    end=st.sampled_from(HEADS),
    seed=st.integers(0, 2**16),
)
def test_cutting_what_nothing_reads_leaves_the_outputs(kinds: list[tuple[str, int, str]], end: str, seed: int) -> None:
    net = Net(size=4, seed=seed)
    x = net.conv("x", 5)
    for kind, filters, activation in kinds:
        x = block(net, kind, x, filters, activation)
    model = net.model(head(net, end, x))
    groups = find_groups(model)
    assert groups.groups, "the first convolution is always prunable"
    removed = some_of_each(groups, seed)
    silenced, smaller = silence(model, groups, removed), cut(model, groups, removed)
    assert exact_difference(silenced, smaller) <= EXACT
    assert difference(silenced, smaller) <= ROUNDING


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_kind_of_block_stops_pruning(kind: str) -> None:
    net = Net(size=4)
    model = net.model(net.conv(block(net, kind, net.conv("x", 6), 4, "Relu"), 3))
    groups = find_groups(model)
    assert groups.prunable == groups.produced - 3, groups.blocked


def test_a_cut_at_other_channels_is_noticed() -> None:
    """The check of the check: silencing one channel and cutting another changes the outputs."""
    net = Net(size=4)
    model = net.model(net.conv(net.op("Relu", net.conv("x", 6)), 3))
    groups = find_groups(model)
    first, second = np.zeros(groups.count, bool), np.zeros(groups.count, bool)
    first[groups.groups[0].classes[0]] = second[groups.groups[0].classes[1]] = True
    assert difference(silence(model, groups, first), cut(model, groups, second)) > 100 * ROUNDING


def test_shapes_follow_and_the_original_is_untouched() -> None:
    net = Net(size=4)
    model = net.model(net.conv(net.op("Relu", net.conv("x", 6, name="first")), 3, name="last"))
    groups = find_groups(model)
    removed = np.zeros(groups.count, bool)
    removed[list(groups.groups[0].classes[1:3])] = True
    smaller = cut(model, groups, removed)
    shapes = {name_of(value): static_shape(value) for node in smaller.graph for value in node.outputs}
    assert shapes == {"v0": (1, 4, 4, 4), "v1": (1, 4, 4, 4), "v2": (1, 3, 4, 4)}
    assert smaller.graph.initializers["last.weight"].const_value.shape == (3, 4, 3, 3)
    assert static_shape(model.graph.initializers["last.weight"]) == (3, 6, 3, 3)
    kept = smaller.graph.initializers["first.weight"].const_value.numpy()
    np.testing.assert_array_equal(kept, model.graph.initializers["first.weight"].const_value.numpy()[[0, 3, 4, 5]])


def test_the_group_of_a_depthwise_convolution_shrinks_with_it() -> None:
    net = Net(size=4)
    model = net.model(net.conv(net.depthwise(net.conv("x", 6), 2), 3))
    pruned = prune(model, macs=0.6)
    depthwise = [node for node in pruned.model.graph if node.op_type == "Conv"][1]
    assert depthwise.attributes["group"].as_int() == static_shape(depthwise.inputs[0])[1] < 6
    assert static_shape(depthwise.inputs[1])[0] == 2 * static_shape(depthwise.inputs[0])[1]


def test_a_shape_constant_that_holds_a_channel_count_is_mended() -> None:
    net = Net(size=4)
    flat = net.op("Reshape", net.conv("x", 6), net.const(np.array([1, 96])))
    model = net.model(net.gemm(flat, 3))
    pruned = prune(model, macs=0.6)
    (reshape,) = (node for node in pruned.model.graph if node.op_type == "Reshape")
    assert static_shape(reshape.outputs[0])[1] == 16 * static_shape(reshape.inputs[0])[1] < 96
    assert set(pruned.model.graph.initializers) >= {name_of(value) for node in pruned.model.graph for value in node.inputs[1:]}


def test_replay_repeats_the_recorded_cut() -> None:
    net = Net(size=4)
    model = net.model(head(net, "flatten", net.squeeze_excite(net.conv("x", 8))))
    pruned = prune(model, macs=0.5)
    again = replay(model, pruned.kept)
    assert difference(pruned.model, again) == 0.0
    assert {key: len(indices) for key, indices in pruned.kept.items()} == {
        f"{name}:{axis}": length
        for name, value in again.graph.initializers.items()
        for axis, length in enumerate(static_shape(value))
        if name in model.graph.initializers and length != static_shape(model.graph.initializers[name])[axis]
    }


def test_replay_of_nothing_cuts_nothing() -> None:
    model = (net := Net(size=4)).model(net.conv(net.conv("x", 4), 2))
    assert difference(model, replay(model, {})) == 0.0


@pytest.mark.parametrize(
    "kept",
    [
        {"absent:0": (0, 1)},
        {"first.weight:0": (0, 9), "first.bias:0": (0, 9), "last.weight:1": (0, 9)},
        {"first.weight:0": (0, 1)},  # its bias and consumer would keep all
        {"first.weight:1": (0,)},  # the model's input
        {"first.weight:0": (), "first.bias:0": (), "last.weight:1": ()},
        {"first.weight": (0, 1)},
    ],
)
def test_a_decision_for_another_model_is_refused(kept: dict[str, tuple[int, ...]]) -> None:
    net = Net(size=4)
    model = net.model(net.conv(net.conv("x", 4, name="first"), 2, name="last"))
    with pytest.raises(ModelError, match="EW-Q002"):
        replay(model, kept)


def test_kept_indices_and_removed_classes_are_inverse() -> None:
    net = Net(size=4, seed=5)
    model = net.model(head(net, "transposed", block(net, "concat", net.conv("x", 6), 4, "Relu")))
    groups = find_groups(model)
    removed = some_of_each(groups, 1)
    np.testing.assert_array_equal(removed_classes(model, groups, kept_indices(model, groups, removed)), removed)


def test_marking_a_class_that_must_stay_is_an_error() -> None:
    net = Net(size=4)
    model = net.model(net.conv("x", 4))
    groups = find_groups(model)
    with pytest.raises(ValueError, match="must stay"):
        cut(model, groups, np.ones(groups.count, bool))


def test_a_coupling_that_lies_does_not_leave_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transpose that claims to keep its axes in place would leave wrong shapes behind: inference notices."""

    def lie(operator: Operator, node: ir.Node) -> Coupling:
        return Coupling(((Channels("in", 0, 1, 4), Channels("out", 0, 1, 4)),))

    net = Net(size=4)
    model = net.model(net.conv(net.op("Transpose", net.conv("x", 4), perm=[0, 2, 1, 3]), 2))
    transpose = type(operator_of(next(node for node in model.graph if node.op_type == "Transpose")))
    assert find_groups(model).groups == ()
    monkeypatch.setattr(transpose, "couple", lie)
    with pytest.raises(ModelError, match="EW-M007"):
        prune(model, macs=0.8)
