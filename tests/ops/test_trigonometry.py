import numpy as np
import pytest
from exact_bench import computes, left
from onnx import helper
from op_bench import graph, lowered, node_of, single

from exporter.ops.base import Cost, Refused, operator_of

EDGES = [0.0, -0.0, 1e-30, 1e-7, -1e-7, 1e-3, -0.3, 0.5, 0.75, -0.999, 1.0, -1.0, np.nan]
BEYOND = [1.0001, 1.5, -2.0, 3.0, 10.0, -40.0, 88.0, 89.0, -89.0, 1e4, -1e10, 1e20, 3e38]
INFINITE = [np.inf, -np.inf]
ANGLES = [0.0, 1e-4, 0.1, -0.5, 1.0, 1.5, -2.0, 3.0, 3.2, -6.2, 7.0]
FUNCTIONS = {
    "Sin": (np.sin, ANGLES),
    "Cos": (np.cos, ANGLES),
    "Tan": (np.tan, ANGLES),
    "Atan": (np.arctan, EDGES + BEYOND + INFINITE),
    "Asin": (np.arcsin, EDGES + BEYOND + INFINITE),
    "Acos": (np.arccos, EDGES + BEYOND + INFINITE),
    "Sinh": (np.sinh, EDGES + BEYOND),
    "Cosh": (np.cosh, EDGES + BEYOND),
    "Asinh": (np.arcsinh, EDGES + BEYOND),
    "Acosh": (np.arccosh, EDGES + BEYOND),
    "Atanh": (np.arctanh, EDGES + BEYOND + INFINITE),
}


@pytest.mark.parametrize("op_type", FUNCTIONS)
def test_the_last_digits_are_right_over_the_whole_range(op_type):
    """Within 6 units in the last place of the exact value; what is undefined lies where it belongs, what is too large saturates."""
    compute, points = FUNCTIONS[op_type]
    spread = np.random.default_rng(0).uniform(-3, 3, 200)
    x = np.concatenate([points, spread]).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = compute(x.astype(np.float64))
    if op_type in ("Sinh", "Cosh"):
        exact = exact.clip(*np.finfo(np.float32).max * np.array([-1.0, 1.0]))
    computes(
        op_type,
        x,
        wanted=exact.astype(np.float32),
        rtol=7e-7,
        atol=1.2e-7 if op_type in ("Sin", "Cos", "Tan") else 1e-37,
        torch=False,
    )


@pytest.mark.parametrize("op_type", FUNCTIONS)
def test_torch_computes_what_numpy_does(op_type):
    compute, _ = FUNCTIONS[op_type]
    x = np.linspace(1.1, 3, 20) if op_type == "Acosh" else np.linspace(-0.9, 0.9, 20)
    x = x.astype(np.float32)
    computes(op_type, x, wanted=compute(x.astype(np.float64)).astype(np.float32), rtol=2e-6)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_any_layout_and_a_single_element(last):
    assert lowered(single("Atan", (1, 3, 4, 5)), last=last).errors["y0"] < 1e-6
    assert lowered(single("Atan", (1, 1))).operators == [("ATAN2", 1)]
    assert lowered(single("Atan", (1, 3))).operators == [("FILL", 1), ("ATAN2", 1)]


def test_formulas_stay_in_float_where_the_rest_runs_in_integers():
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["l"], name="leaky"),
        helper.make_node("Asinh", ["l"], ["a"], name="asinh"),
        helper.make_node("Mul", ["a", "a"], ["y"], name="mul"),
    ]
    found = lowered(graph(nodes, {"x": [1, 3, 4]}, ["y"]), "int8")
    assert found.steps["y"] < 5
    assert [name for name, _ in found.operators].count("DEQUANTIZE") <= 2
    with pytest.raises(Refused, match="run in float"):
        operator_of(node_of(single("Asinh", (1, 3)))).quantize(node_of(single("Asinh", (1, 3))))


def test_other_runtimes_keep_the_operator_and_cost_counts_the_formula():
    from exporter.graph.legalize import legalize

    model = single("Cosh", (1, 3))
    assert [node.op_type for node in legalize(model, "onnx").graph] == ["Cosh"]
    assert operator_of(node_of(model)).cost(node_of(model)) == Cost(elementwise=21)
    assert left("Cosh", np.zeros(3, np.float32)) == ["Mul", "Exp", "Mul", "Mul", "Div", "Div", "Add"]
