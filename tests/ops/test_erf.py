from math import erf, sqrt

import numpy as np
import onnx_ir as ir
import pytest
from exact_bench import computes
from onnx import helper
from op_bench import graph, lowered

from exporter.graph.legalize import legalize

ROOT = np.float32(1 / sqrt(2))


def test_the_error_function_is_right_to_the_last_digits():
    x = np.concatenate([np.linspace(-5, 5, 2001), [0, 1e-30, 1e-7, -3.92, 3.92, 50, np.inf, -np.inf, np.nan]]).astype(np.float32)
    exact = np.array([erf(value) for value in x], np.float32)
    names = computes("Erf", x, wanted=exact, rtol=5e-7)
    assert names.count("DIV") == 1


def node(op_type, *arguments):
    *inputs, output = arguments
    return helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}")


HEAD = [node("Mul", "x", "root", "s"), node("Erf", "s", "e"), node("Add", "e", "one", "g")]
SPELLINGS = {
    "half last": [*HEAD, node("Mul", "x", "g", "p"), node("Mul", "p", "half", "y")],
    "half of x": [*HEAD, node("Mul", "half", "x", "h"), node("Mul", "h", "g", "y")],
    "half of the gate": [*HEAD, node("Mul", "g", "half", "h"), node("Mul", "x", "h", "y")],
    "quotients": [
        node("Div", "x", "two_root", "s"),
        node("Erf", "s", "e"),
        node("Add", "one", "e", "g"),
        node("Mul", "g", "x", "p"),
        node("Div", "p", "two", "y"),
    ],
}
CONSTANTS = {"root": ROOT, "one": np.float32(1), "half": np.float32(0.5), "two": np.float32(2), "two_root": np.float32(sqrt(2))}


def spelled(nodes):
    used = {name for entry in nodes for name in entry.input}
    return graph(nodes, {"x": [1, 3, 4]}, ["y"], **{name: value for name, value in CONSTANTS.items() if name in used})


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_gelu_is_one_kernel_however_it_is_spelled(spelling):
    model = spelled(SPELLINGS[spelling])
    found = lowered(model)
    assert found.operators == [("GELU", 1)]
    assert found.errors["y"] < 1e-6
    assert ("GELU", 2) in lowered(model, "int8").operators


@pytest.mark.parametrize("constant", ["root", "one", "half"])
def test_other_numbers_make_no_gelu(constant):
    model = spelled(SPELLINGS["half last"])
    value = model.graph.initializers[constant]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=constant)
    assert "Gelu" not in [entry.op_type for entry in legalize(model, "tflite").graph]
    assert lowered(model).errors["y"] < 2e-6
