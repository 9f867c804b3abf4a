"""What belongs together, and what must stay."""

from __future__ import annotations

import numpy as np
import pytest
from pruning_graphs import Net

from exporter.pruning.groups import Groups, find_groups


def together(groups: Groups, site: tuple[str, int]) -> list[dict[tuple[str, int], list[int]]]:
    """For each index of a site: all indices of initializers that go with it."""
    found = []
    for label in groups.labels[site].tolist():
        found.append({key: np.flatnonzero(labels == label).tolist() for key, labels in groups.labels.items() if label in labels})
    return found


def test_plain_chain_ties_filters_to_the_next_layers_inputs() -> None:
    net = Net()
    hidden = net.op("Relu", net.conv("x", 6, name="first"))
    groups = find_groups(net.model(net.conv(hidden, 4, name="last")))
    (group,) = groups.groups
    assert group.name == "first.weight:0"
    assert len(group.classes) == 6
    assert together(groups, ("first.weight", 0))[2] == {
        ("first.weight", 0): [2],
        ("first.bias", 0): [2],
        ("last.weight", 1): [2],
        ("v0", 1): [2],
        ("v1", 1): [2],
    }


def test_inputs_and_outputs_of_the_model_are_blocked_with_the_reason() -> None:
    net = Net()
    hidden = net.op("Relu", net.conv("x", 6, name="first"))
    output = net.conv(hidden, 4, name="last")
    groups = find_groups(net.model(output))
    assert groups.blocked == {"last.weight:0": f"the model's output {output} keeps its shape"}
    assert (groups.produced, groups.prunable) == (10, 6)


def test_residual_addition_makes_one_group_of_both_branches() -> None:
    net = Net()
    left = net.conv("x", 6, name="left")
    right = net.conv(net.op("Relu", left), 6, name="right")
    groups = find_groups(net.model(net.conv(net.op("Add", left, right), 2, name="last")))
    assert [group.name for group in groups.groups] == ["left.weight:0"]
    channel = together(groups, ("left.weight", 0))[1]
    assert channel[("right.weight", 0)] == channel[("right.weight", 1)] == channel[("last.weight", 1)] == [1]


def test_depthwise_follows_its_producer_multiplier_included() -> None:
    net = Net()
    hidden = net.depthwise(net.conv("x", 4, name="first"), multiplier=2)
    groups = find_groups(net.model(net.conv(hidden, 2, name="last")))
    (group,) = groups.groups
    assert len(group.classes) == 4
    assert together(groups, ("first.weight", 0))[3][("last.weight", 1)] == [6, 7]


def test_concat_keeps_its_inputs_apart_and_offsets_their_consumer() -> None:
    net = Net()
    left, right = net.conv("x", 3, name="left"), net.conv("x", 5, name="right")
    groups = find_groups(net.model(net.conv(net.op("Concat", left, right, axis=1), 2, name="last")))
    assert [(group.name, len(group.classes)) for group in groups.groups] == [("left.weight:0", 3), ("right.weight:0", 5)]
    assert together(groups, ("right.weight", 0))[1][("last.weight", 1)] == [4]


def test_concat_of_a_value_with_itself_ties_both_copies() -> None:
    net = Net()
    hidden = net.conv("x", 3, name="first")
    groups = find_groups(net.model(net.conv(net.op("Concat", hidden, hidden, axis=1), 2, name="last")))
    assert together(groups, ("first.weight", 0))[1][("last.weight", 1)] == [1, 4]


def test_flatten_gives_a_channel_its_run_of_pixels() -> None:
    net = Net(size=2)
    flat = net.op("Flatten", net.conv("x", 3, name="first"))
    groups = find_groups(net.model(net.gemm(flat, 5)))
    (gemm,) = {name for name, _ in groups.labels if name.startswith("gemm")}
    assert together(groups, ("first.weight", 0))[1][(gemm, 1)] == [4, 5, 6, 7]


def test_flatten_behind_a_transpose_gives_a_channel_every_nth_element() -> None:
    net = Net(size=2)
    last = net.op("Transpose", net.conv("x", 3, name="first"), perm=[0, 3, 2, 1])
    flat = net.op("Reshape", last, net.const(np.array([1, -1])))
    groups = find_groups(net.model(net.gemm(flat, 5)))
    (gemm,) = {name for name, _ in groups.labels if name.startswith("gemm")}
    assert together(groups, ("first.weight", 0))[1][(gemm, 1)] == [1, 4, 7, 10]


def test_softmax_over_channels_blocks_them() -> None:
    net = Net()
    hidden = net.op("Softmax", net.conv("x", 6, name="first"), axis=1)
    groups = find_groups(net.model(net.conv(hidden, 2, name="last")))
    assert groups.groups == ()
    assert "Softmax" in groups.blocked["first.weight:0"]


def test_mean_over_channels_blocks_them() -> None:
    net = Net()
    hidden = net.op("ReduceMean", net.conv("x", 6, name="first"), net.const(np.array([1])), keepdims=1)
    groups = find_groups(net.model(net.conv(hidden, 2, name="last")))
    assert "first.weight:0" in groups.blocked
    assert groups.groups == ()


def test_an_operator_without_a_rule_blocks_what_it_touches() -> None:
    net = Net()
    hidden = net.op("LpNormalization", net.conv("x", 6, name="first"), axis=1)
    groups = find_groups(net.model(net.conv(hidden, 2, name="last")))
    assert groups.groups == ()
    assert "LpNormalization" in groups.blocked["first.weight:0"]


def test_a_weight_that_two_layers_share_is_cut_for_both() -> None:
    net = Net()
    shared = net.weight(4, 4, 3, 3, name="shared")
    first = net.conv("x", 4, name="first")
    second = net.op("Relu", net.op("Conv", first, shared, pads=[1] * 4))
    third = net.op("Relu", net.op("Conv", second, shared, pads=[1] * 4))
    groups = find_groups(net.model(net.conv(third, 2, name="last")))
    assert [group.name for group in groups.groups] == ["first.weight:0"]
    channel = together(groups, ("first.weight", 0))[2]
    assert channel[("shared", 0)] == channel[("shared", 1)] == channel[("last.weight", 1)] == [2]


@pytest.mark.parametrize("gate", ["HardSigmoid", "Sigmoid"])
def test_squeeze_and_excite_follows_the_channels_it_scales(gate: str) -> None:
    net = Net()
    hidden = net.conv("x", 6, name="first")
    pooled = net.op("GlobalAveragePool", hidden)
    squeezed = net.op("Relu", net.conv(pooled, 2, 1, name="squeeze"))
    scaled = net.op("Mul", hidden, net.op(gate, net.conv(squeezed, 6, 1, name="excite")))
    groups = find_groups(net.model(net.conv(scaled, 2, name="last")))
    assert [(group.name, len(group.classes)) for group in groups.groups] == [("first.weight:0", 6), ("squeeze.weight:0", 2)]
    channel = together(groups, ("first.weight", 0))[4]
    assert channel[("squeeze.weight", 1)] == channel[("excite.weight", 0)] == channel[("last.weight", 1)] == [4]
