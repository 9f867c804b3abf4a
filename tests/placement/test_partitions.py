"""Partitions: one unit each, connected, in an order in which they can run, and every byte between them counted where it goes."""

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from exporter.graph.summary import Placement
from exporter.graph.values import activation_nodes
from exporter.placement.partitions import partitions, stored_bytes

UNITS = ("npu", "cpu", "")


def placed_on(graph, units, precision="int8"):
    """A placement of each node, in graph order, on the units named."""
    return [
        Placement(node.name, node.op_type, unit, precision if unit else "", (), value.name)
        for (node, value), unit in zip(activation_nodes(graph), units, strict=True)
    ]


@st.composite
def graphs(draw):
    """A graph of sums of up to twelve nodes, each reading one or two earlier values, and a unit for each node."""
    count = draw(st.integers(1, 12))
    kind = {"shape": ir.Shape([1, 4]), "type": ir.TensorType(ir.DataType.FLOAT)}
    values, nodes = [ir.Value(name="x", **kind)], []
    for index in range(count):
        inputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
        out = ir.Value(name=f"v{index}", **kind)
        nodes.append(ir.Node("", "Sum", inputs, outputs=[out], name=f"n{index}"))
        values.append(out)
    graph = ir.Graph(values[:1], values[-1:], nodes=nodes, opset_imports={"": 21}, name="g")
    return graph, draw(st.lists(st.sampled_from(UNITS), min_size=count, max_size=count))


@given(graphs())
def test_each_part_is_one_unit_connected_and_needs_nothing_that_comes_later(drawn):
    graph, units = drawn
    found = partitions(graph, placed_on(graph, units))
    nodes = {node.name: node for node in graph}
    unit_of = dict(zip(nodes, units, strict=True))
    home = {name: index for index, part in enumerate(found) for name in part.nodes}
    assert sorted(home) == sorted(nodes)
    for index, part in enumerate(found):
        assert {unit_of[name] for name in part.nodes} == {part.unit}
        for name in part.nodes:
            for value in nodes[name].inputs:
                if value.producer() is not None:
                    assert home[value.producer().name] <= index
        reached, todo = set(), [part.nodes[0]]
        while todo:
            name = todo.pop()
            if name in reached:
                continue
            reached.add(name)
            near = [value.producer() for value in nodes[name].inputs]
            near += [user for value in nodes[name].outputs for user, _ in value.uses()]
            todo += [other.name for other in near if other is not None and home[other.name] == index]
        assert reached == set(part.nodes)


@given(graphs())
def test_bytes_are_those_of_the_values_on_the_borders(drawn):
    graph, units = drawn
    found = partitions(graph, placed_on(graph, units))
    home = {name: index for index, part in enumerate(found) for name in part.nodes}
    came, went = [0] * len(found), [0] * len(found)
    for node, unit in zip(graph, units, strict=True):
        away = {home[user.name] for user, _ in node.outputs[0].uses()} - {home[node.name]}
        size = 4 if unit else 16  # four elements, int8 or (nowhere) float32
        went[home[node.name]] += size if away else 0
        for index in away:
            came[index] += size
    assert [(part.bytes_in, part.bytes_out) for part in found] == list(zip(came, went, strict=True))


def test_a_way_out_and_back_cuts_in_two_what_would_wait_for_itself(graph_of):
    """a -> (b on the cpu) -> c, and a -> c: were a and c one partition, it could not start before b, nor b before it."""
    model = graph_of("g (float[1,4] x) => (float[1,4] c) { a = Abs(x) b = Neg(a) c = Add(a, b) }")
    found = partitions(model.graph, placed_on(model.graph, ("npu", "cpu", "npu")))
    assert [(part.unit, len(part.nodes)) for part in found] == [("npu", 1), ("cpu", 1), ("npu", 1)]
    assert [(part.bytes_in, part.bytes_out) for part in found] == [(0, 4), (4, 4), (8, 0)]


def test_independent_branches_take_turns_only_once(graph_of):
    model = graph_of(
        "g (float[1,4] x, float[1,4] z) => (float[1,4] b, float[1,4] d) { a = Abs(x) b = Neg(a) c = Abs(z) d = Neg(c) }"
    )
    found = partitions(model.graph, placed_on(model.graph, ("npu", "cpu", "npu", "cpu")))
    assert [part.unit for part in found] == ["npu", "npu", "cpu", "cpu"]


def test_integers_that_are_no_encoding_keep_their_width():
    value = ir.Value(name="i", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64))
    assert stored_bytes(value, "int8") == 3 * np.dtype("int64").itemsize
    value = ir.Value(name="f", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.FLOAT))
    assert [stored_bytes(value, precision) for precision in ("int8", "int16x8", "float16", "float32", "")] == [3, 6, 6, 12, 12]
