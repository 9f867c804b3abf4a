"""The layout solver: what it moves, and that nothing cheaper exists."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.backends.tflite.layout import same_memory_order, solve, to_channels_first, to_channels_last
from exporter.graph.values import name_of, static_shape
from exporter.ops.base import Port, operator_of

SHAPE = (1, 4, 3, 5)


class Network:
    """A graph built node by node, every value of one shape where no other is given."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.shape = shape
        self.input = ir.val("x", ir.DataType.FLOAT, list(shape))
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def add(self, op: str, *inputs: ir.Value, shape: tuple[int, ...] | None = None, **attributes: object) -> ir.Value:
        number, shape = len(self.nodes), shape or self.shape
        if op == "Conv":
            attributes = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "group": 1}
            inputs = (*inputs, self.constant(f"w{number}", np.ones((SHAPE[1], SHAPE[1], 1, 1), np.float32)))
        if op == "Reshape":
            inputs = (*inputs, self.constant(f"s{number}", np.asarray(shape, np.int64)))
        node = ir.node(op, inputs=list(inputs), attributes=attributes or None, name=f"n{number}")
        (output,) = node.outputs
        output.name, output.shape, output.type = f"v{number}", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        return output

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.constants.append(value)
        return value

    def model(self, *outputs: ir.Value) -> ir.Model:
        graph = ir.Graph(
            [self.input], list(outputs), nodes=self.nodes, initializers=self.constants, opset_imports={"": 21}, name="g"
        )
        return ir.Model(graph, ir_version=10)


def test_the_permutations_are_inverse() -> None:
    for rank in (3, 4, 5):
        first, last = to_channels_first(rank), to_channels_last(rank)
        assert [last[axis] for axis in first] == list(range(rank))


def test_a_chain_of_convolutions_is_channels_last_and_moves_nothing() -> None:
    net = Network()
    y = net.add("Conv", net.add("Relu", net.add("Conv", net.input)))
    solved = solve(net.model(y), "channels_last")
    assert not solved.moved
    assert {"x", "v0", "v1", "v2"} == solved.values


def test_kept_inputs_and_outputs_are_moved_once_each() -> None:
    net = Network()
    a = net.add("Conv", net.input)
    b = net.add("Conv", net.input)
    solved = solve(net.model(net.add("Add", a, b)), "keep")
    assert dict(solved.moved) == {"x": prod(SHAPE), "v2": prod(SHAPE)}  # x is read twice and moved once


def test_elementwise_nodes_follow_whichever_neighbour_is_dearer() -> None:
    """conv -> relu -> relu -> reshape: the transpose sits anywhere between, once."""
    net = Network()
    y = net.add("Relu", net.add("Relu", net.add("Conv", net.input)))
    flat = net.add("Reshape", y, shape=(4, 15))
    solved = solve(net.model(flat), "channels_last")
    assert sum(solved.moved.values()) == prod(SHAPE)
    assert len(solved.moved) == 1


def test_a_transpose_of_the_model_itself_becomes_free() -> None:
    net = Network()
    y = net.add("Transpose", net.add("Conv", net.input), shape=(1, 3, 5, 4), perm=[0, 2, 3, 1])
    assert not solve(net.model(y), "channels_last").moved


def test_one_pixel_has_the_same_bytes_in_both_orders() -> None:
    assert same_memory_order((1, 8, 1, 1))
    assert same_memory_order((2, 1, 4, 4))
    assert not same_memory_order((1, 8, 1, 2))


@st.composite
def networks(draw: st.DrawFn) -> ir.Model:
    """Up to six nodes: convolutions (channels last), elementwise (either), reshapes that mix axes (channels first)."""
    net = Network()
    values = [net.input]
    for _ in range(draw(st.integers(2, 6))):
        op = draw(st.sampled_from(["Conv", "Relu", "Add", "Reshape"]))
        inputs = [draw(st.sampled_from(values)) for _ in range(2 if op == "Add" else 1)]
        if op == "Reshape":
            mixed = net.add("Reshape", inputs[0], shape=(1, 3, 4, 5))  # rank 4 again, other axes: the order matters
            values.append(net.add("Reshape", mixed))
        else:
            values.append(net.add(op, *inputs))
    return net.model(values[-1], *([values[-2]] if draw(st.booleans()) else []))


TURNED = (1, 4, 15)
BACK = (1, 15, 4)


def test_a_cycle_with_an_odd_number_of_opposites_is_solved_all_the_same() -> None:
    """``x + transpose(x)``: one of the two has to move, whichever layout the other has."""
    net = Network((1, 4, 4))
    both = net.add("Add", net.add("Relu", net.input), net.add("Transpose", net.add("Relu", net.input), perm=[0, 2, 1]))
    assert len(solve(net.model(both)).moved) == 1


def test_transposes_that_meet_are_turned_together() -> None:
    """Two matrices of channels-first images, turned and joined, and the join turned back: nothing has to move."""
    net = Network()
    parts = [
        net.add("Transpose", net.add("Reshape", net.add(op, net.input), shape=TURNED), perm=[0, 2, 1], shape=BACK)
        for op in ("Relu", "Abs")
    ]
    joined = net.add("Add", *parts, shape=BACK)
    assert not solve(net.model(net.add("Reshape", net.add("Transpose", joined, perm=[0, 2, 1], shape=TURNED)))).moved


@st.composite
def trees(draw: st.DrawFn) -> ir.Model:
    """Operators of one input each, among them transposes whose two sides have opposite layouts ([1, 4, 1, 4] turned is of that shape)."""
    net = Network((1, 4, 1, 4))
    values = [net.input]
    for _ in range(draw(st.integers(2, 7))):
        op = draw(st.sampled_from(["Conv", "Relu", "Transpose"]))
        values.append(net.add(op, draw(st.sampled_from(values)), **({"perm": [0, 3, 2, 1]} if op == "Transpose" else {})))
    return net.model(values[-1], *([values[-2]] if draw(st.booleans()) else []))


@settings(max_examples=120, deadline=None)
@given(networks() | trees(), st.sampled_from(["keep", "channels_last"]))
def test_no_assignment_moves_less(model: ir.Model, io_layout: str) -> None:
    """The cut is compared with every assignment of labels to the nodes and inputs that are free to choose."""
    solved = solve(model, io_layout)
    rules = {node: operator_of(node).layout(node) for node in model.graph}
    free: list[object] = [node for node in model.graph if Port.NODE in (*rules[node].inputs, *rules[node].outputs)]
    if io_layout == "channels_last":
        free += list(model.graph.inputs)

    def moved(labels: dict[object, bool]) -> int:
        def label(port: Port, node: ir.Node) -> bool:
            return port is Port.LAST or (port in (Port.NODE, Port.OTHER) and labels[node] is (port is Port.NODE))

        produced = {value: labels.get(value, False) for value in model.graph.inputs}
        for node in model.graph:
            produced[node.outputs[0]] = label(rules[node].outputs[0], node)
        wanted: dict[ir.Value, set[bool]] = {}
        for node in model.graph:
            for port, value in zip(rules[node].inputs, node.inputs, strict=True):
                if value in produced and port is not Port.ANY:
                    wanted.setdefault(value, set()).add(label(port, node))
        if io_layout == "keep":
            for value in model.graph.outputs:
                wanted.setdefault(value, set()).add(False)
        return sum(prod(static_shape(value)) for value, labels in wanted.items() if labels - {produced[value]})

    best = min(moved(dict(zip(free, choice, strict=True))) for choice in itertools.product((False, True), repeat=len(free)))
    assert sum(solved.moved.values()) == best
    chosen = {item: (item.name in solved.nodes if isinstance(item, ir.Node) else name_of(item) in solved.values) for item in free}
    assert moved(chosen) == best
