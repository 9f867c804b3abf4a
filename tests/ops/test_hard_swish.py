"""Every spelling of x * relu6(x + 3) / 6 becomes one HardSwish; what only looks like it does not."""

import numpy as np
import pytest
from onnx import helper
from op_bench import assert_legalized, builtins, graph, lowered, op_types

from exporter.graph.legalize import legalize
from exporter.ops.hard_swish import hard_swish_of

CONSTANTS = {
    "three": np.asarray(3, np.float32),
    "zero": np.asarray(0, np.float32),
    "six": np.asarray(6, np.float32),
    "sixth": np.asarray(1 / 6, np.float32),
    "seventh": np.asarray(1 / 7, np.float32),
    "two": np.asarray(2, np.float32),
}
ADD, CLIP = ("Add", "x", "three", "s"), ("Clip", "s", "zero", "six", "r")
SPELLINGS = {
    "quotient behind": [ADD, CLIP, ("Mul", "x", "r", "p"), ("Div", "p", "six", "y")],
    "factor behind": [ADD, CLIP, ("Mul", "x", "r", "p"), ("Mul", "p", "sixth", "y")],
    "factor first": [ADD, CLIP, ("Mul", "r", "x", "p"), ("Mul", "sixth", "p", "y")],
    "gate divided": [ADD, CLIP, ("Div", "r", "six", "g"), ("Mul", "x", "g", "y")],
    "gate multiplied": [("Add", "three", "x", "s"), CLIP, ("Mul", "sixth", "r", "g"), ("Mul", "g", "x", "y")],
    "x divided": [ADD, CLIP, ("Div", "x", "six", "g"), ("Mul", "g", "r", "y")],
    "hard sigmoid": [("HardSigmoid", "x", "g", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "x", "g", "y")],
}
MULTIPLES = {
    "another factor": ([ADD, CLIP, ("Mul", "x", "r", "p"), ("Mul", "p", "seventh", "y")], 6 / 7),
    "no factor": ([ADD, CLIP, ("Mul", "x", "r", "y")], 6.0),
    "twice a hard sigmoid": (
        [("HardSigmoid", "x", "g", {"alpha": 1 / 6}), ("Mul", "g", "two", "h"), ("Mul", "x", "h", "y")],
        2.0,
    ),
}
OTHERS = {
    "another offset": [("Add", "x", "two", "s"), CLIP, ("Mul", "x", "r", "p"), ("Div", "p", "six", "y")],
    "another clamp": [ADD, ("Clip", "s", "zero", "three", "r"), ("Mul", "x", "r", "p"), ("Div", "p", "six", "y")],
    "another x": [("Abs", "x", "a"), ADD, CLIP, ("Mul", "a", "r", "p"), ("Div", "p", "six", "y")],
    "another slope": [("HardSigmoid", "x", "g", {"alpha": 0.2, "beta": 0.5}), ("Mul", "x", "g", "y")],
}


def spelled(steps):
    nodes = []
    for number, (op_type, *names) in enumerate(steps):
        attributes = names.pop() if isinstance(names[-1], dict) else {}
        nodes.append(helper.make_node(op_type, names[:-1], names[-1:], name=f"n{number}", **attributes))
    used = {name: CONSTANTS[name] for node in nodes for name in node.input if name in CONSTANTS}
    return graph(nodes, {"x": [1, 3, 4, 5]}, ["y"], **used)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_becomes_one_operator(spelling):
    model = spelled(SPELLINGS[spelling])
    assert hard_swish_of(model.graph.outputs[0]) == (model.graph.inputs[0], 1.0)
    assert assert_legalized(model) == ["HardSwish"]
    assert builtins(lowered(model, "int8")) == [("HARD_SWISH", 1)]


@pytest.mark.parametrize("multiple", MULTIPLES)
def test_a_multiple_is_one_operator_and_a_factor(multiple):
    steps, factor = MULTIPLES[multiple]
    model = spelled(steps)
    assert hard_swish_of(model.graph.outputs[0]) == (model.graph.inputs[0], pytest.approx(factor))
    assert assert_legalized(model) == ["HardSwish", "Mul"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_stays_as_spelled_for_onnx(spelling):
    assert "HardSwish" not in op_types(legalize(spelled(SPELLINGS[spelling]), "onnx"))


@pytest.mark.parametrize("other", OTHERS)
def test_what_only_looks_like_it_stays(other):
    assert "HardSwish" not in assert_legalized(spelled(OTHERS[other]))


def test_x_may_itself_be_a_product():
    steps = [("Mul", "w", "sixth", "x"), *SPELLINGS["quotient behind"]]
    nodes = [helper.make_node(step[0], step[1:-1], step[-1:], name=f"n{number}") for number, step in enumerate(steps)]
    used = {name: CONSTANTS[name] for node in nodes for name in node.input if name in CONSTANTS}
    assert assert_legalized(graph(nodes, {"w": [1, 3, 4, 5]}, ["y"], **used)) == ["Mul", "HardSwish"]


def test_a_constant_that_adds_axes_is_no_mere_factor():
    nodes = [
        helper.make_node(step[0], step[1:-1], step[-1:], name=f"n{n}") for n, step in enumerate(SPELLINGS["quotient behind"])
    ]
    used = {name: CONSTANTS[name] for node in nodes for name in node.input if name in CONSTANTS}
    used["six"] = np.full((1, 1, 1, 1), 6, np.float32)
    nodes[1].input[2] = "top"
    model = graph(nodes, {"x": [4, 5]}, ["y"], top=CONSTANTS["six"], **used)
    assert hard_swish_of(model.graph.outputs[0]) is None
    assert assert_legalized(model)[0] == "HardSwish"
