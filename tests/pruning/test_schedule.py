"""The goal is met with as few cuts as it takes, in whole tiles, the same way every time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_graphs import Net

from diagnostics import EdgewrightError, ModelError, UsageError
from exporter.graph.values import static_shape
from exporter.pruning import count_macs, find_groups, parse_goal, prune
from exporter.pruning.groups import Group, Groups
from exporter.pruning.importance import importance
from exporter.pruning.schedule import schedule


def network(first: int = 24, second: int = 40) -> Net:
    net = Net(size=6, seed=1)
    x = net.op("Relu", net.conv("x", first, name="first"))
    x = net.op("Relu", net.conv(net.squeeze_excite(net.depthwise(x)), second, name="second"))
    net.conv(x, 10, name="last")
    return net


def convolution_macs(model: object) -> int:
    """Counted from the weights and output shapes alone, apart from the operators' own cost rule."""
    total = 0
    for node in model.graph:
        if node.op_type == "Conv":
            _, filters, height, width = static_shape(node.outputs[0])
            total += filters * height * width * int(np.prod(static_shape(node.inputs[1])[1:]))
    return total


@settings(max_examples=25, deadline=None)
@given(macs=st.floats(0.2, 1.0), tile=st.sampled_from((1, 2, 4, 8)), first=st.integers(9, 30), second=st.integers(9, 30))
def test_the_goal_holds_in_whole_tiles(macs: float, tile: int, first: int, second: int) -> None:
    net = network(first, second)
    model = net.model(f"v{len(net.nodes) - 1}")
    try:
        pruned = prune(model, macs=macs, tile=tile)
    except ModelError as error:
        unreachable, macs = macs, float(error.fix.rpartition("=")[2])
        pruned = prune(model, macs=macs, tile=tile)  # what the message promises holds
        assert macs > unreachable
    assert pruned.macs_after <= macs * pruned.macs_before
    assert (pruned.macs_before, pruned.macs_after) == (convolution_macs(model), convolution_macs(pruned.model))
    for key, indices in pruned.kept.items():
        assert len(indices) % tile == 0
        assert len(indices) >= tile
        assert list(indices) == sorted(set(indices)), key


def test_a_goal_of_one_cuts_nothing() -> None:
    net = network()
    pruned = prune(net.model(f"v{len(net.nodes) - 1}"), macs=1.0)
    assert pruned.kept == {}
    assert pruned.macs_after == pruned.macs_before


def two_layers() -> Groups:
    """A cheap group (classes 0 to 3) and a dear one (4 to 7)."""
    groups = (Group("cheap:0", (0, 1, 2, 3), {}, (1,)), Group("dear:0", (4, 5, 6, 7), {}, (1,)))
    return Groups(groups, labels={}, blocked={}, couplings=(), count=8, produced=8)


def two_layers_macs(removed: np.ndarray) -> int:
    return int((~removed[:4]).sum()) + 20 * int((~removed[4:]).sum())


@pytest.mark.parametrize(
    ("goal", "gone"),
    [
        (84, []),
        (83, [0]),
        (82, [0, 1]),
        (64, [4]),  # the cheap channels went first, but the dear one alone reaches the goal: they come back
        (62, [0, 1, 4]),  # of the cheap ones the most important comes back, then less than 1 % of room is left
        (21, [0, 1, 2, 4, 5, 6]),  # one of each stays
    ],
)
def test_the_least_important_go_as_far_as_the_goal_takes(goal: int, gone: list[int]) -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert np.flatnonzero(schedule(two_layers(), scores, goal, two_layers_macs)).tolist() == gone


def test_tiles_leave_a_multiple_or_all() -> None:
    scores = np.arange(8.0)
    removed = schedule(two_layers(), scores, 50, two_layers_macs, tile=2)
    assert np.flatnonzero(removed).tolist() == [4, 5]
    with pytest.raises(ModelError, match="EW-P001"):
        schedule(two_layers(), scores, 50, two_layers_macs, tile=4)


def test_the_weakest_channels_go_first() -> None:
    net = Net(size=4, seed=2)
    model = net.model(net.conv(net.op("Relu", net.conv("x", 8, name="first")), 4, name="last"))
    for name in ("first.weight", "last.weight"):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        (array if name == "first.weight" else array.swapaxes(0, 1))[[2, 5]] *= 0.01
        value.const_value = ir.tensor(array, name=name)
    assert prune(model, macs=0.75).kept["first.weight:0"] == (0, 1, 3, 4, 6, 7)


def test_equal_channels_go_by_their_order() -> None:
    net = Net(channels=1, size=4)
    first = net.op("Conv", "x", net.const(np.ones((8, 1, 3, 3), np.float32), "first"), pads=[1] * 4)
    last = net.op("Conv", first, net.const(np.ones((2, 8, 3, 3), np.float32), "last"), pads=[1] * 4)
    assert prune(net.model(last), macs=0.75).kept["first:0"] == (2, 3, 4, 5, 6, 7)


def test_the_same_call_gives_the_same_decision() -> None:
    net = network()
    model = net.model(f"v{len(net.nodes) - 1}")
    assert prune(model, macs=0.6, tile=4).kept == prune(model.clone(), macs=0.6, tile=4).kept


def test_a_goal_out_of_reach_says_what_is_within() -> None:
    net = network()
    with pytest.raises(ModelError, match=r"the least within reach is macs=0\.\d{3}") as caught:
        prune(net.model(f"v{len(net.nodes) - 1}"), macs=0.001)
    assert caught.value.code == "EW-P001"


def test_a_network_without_prunable_channels_says_why() -> None:
    net = Net(size=4)
    with pytest.raises(ModelError, match="keeps its shape"):
        prune(net.model(net.conv("x", 4)), macs=0.9)


@pytest.mark.parametrize("text", ["", "macs", "macs=", "macs=x", "macs=0", "macs=1.5", "macs=nan", "macs=-1", "flops=0.5", "0.5"])
def test_a_bad_specification_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_goal(text)
    assert caught.value.code == "EW-P002"


def test_a_good_specification_is_read() -> None:
    assert parse_goal(" macs = 0.8 ").macs == 0.8


@pytest.mark.parametrize("options", [{"tile": 0}, {"importance": "taste"}, {"macs": 2.0}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    net = network()
    with pytest.raises(EdgewrightError, match="EW-P002"):
        prune(net.model(f"v{len(net.nodes) - 1}"), **{"macs": 0.8, **options})


def test_importance_is_the_norm_of_all_that_goes_with_a_channel() -> None:
    net = Net(size=4)
    model = net.model(net.conv(net.op("Relu", net.conv("x", 5, name="first")), 3, name="last"))
    groups = find_groups(model)
    first = model.graph.initializers["first.weight"].const_value.numpy().astype(np.float64)
    last = model.graph.initializers["last.weight"].const_value.numpy().astype(np.float64)
    squares = np.square(first).sum((1, 2, 3)) + np.square(last).sum((0, 2, 3))
    scores = importance(model, groups)[list(groups.groups[0].classes)]
    np.testing.assert_allclose(scores, np.sqrt(squares) / np.sqrt(squares).mean(), atol=1e-9)
    absolute = np.abs(first).sum((1, 2, 3)) + np.abs(last).sum((0, 2, 3))
    scores = importance(model, groups, "l1")[list(groups.groups[0].classes)]
    np.testing.assert_allclose(scores, absolute / absolute.mean(), atol=1e-9)


def test_macs_of_a_convolution_are_counted_right() -> None:
    net = Net(channels=3, size=8)
    assert count_macs(net.model(net.conv("x", 6))) == 6 * 8 * 8 * 3 * 9
