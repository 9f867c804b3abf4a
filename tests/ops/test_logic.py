import numpy as np
import pytest
from exact_bench import computes, left
from onnx import helper
from op_bench import builtins, graph, lowered, node_of, single
from typed_bench import Fixed

from exporter.ops.base import Refused, operator_of

COMPARISONS = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
NUMBERS = ["float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def ends(dtype):
    """Every pair of the numbers where an order could turn: the ends of the range, its middle, and what lies beside them."""
    if np.dtype(dtype).kind == "f":
        numbers = np.array([-np.inf, -1.5, -0.0, 0.0, 1.5, np.inf, np.nan], dtype)
    else:
        info = np.iinfo(dtype)
        middle = (int(info.max) + 1) // 2
        numbers = np.array([info.min, info.min + 1, 0, 1, middle - 1, middle, info.max - 1, info.max], dtype)
    return numbers[:, None].repeat(len(numbers), 1), numbers[None].repeat(len(numbers), 0)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("op_type", COMPARISONS)
def test_comparisons_hold_at_the_ends_of_every_dtype(op_type, dtype):
    x, y = ends(dtype)
    computes(op_type, x, y, wanted=COMPARISONS[op_type](x, y))


def test_comparisons_broadcast_and_small_dtypes_are_cast():
    x, y = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), np.full((3, 1), 9, np.float32)
    assert computes("Less", x, y, wanted=x < y) == ["LESS"]
    assert left("Less", x.astype(np.int8), y.astype(np.int8)) == ["Cast", "Cast", "Less"]
    assert computes("Equal", x > 3, y > 3, wanted=np.equal(x > 3, y > 3)) == ["EQUAL"]


@pytest.mark.parametrize(
    ("op_type", "builtin", "compute"),
    [("And", "LOGICAL_AND", np.logical_and), ("Or", "LOGICAL_OR", np.logical_or), ("Xor", "NOT_EQUAL", np.logical_xor)],
)
def test_logic_of_two_booleans_broadcasts(op_type, builtin, compute):
    x, y = np.array([[False, True], [True, True]]), np.array([False, True])
    assert computes(op_type, x, y, wanted=compute(x, y)) == [builtin]


def test_not_is_the_opposite():
    x = np.array([True, False])
    assert computes("Not", x, wanted=~x) == ["LOGICAL_NOT"]


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0, -1.5, 3e38], np.float32)


def test_what_is_no_number():
    assert computes("IsNaN", SPECIAL, wanted=np.isnan(SPECIAL)) == ["EQUAL", "LOGICAL_NOT"]


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_infinities_of_the_signs_that_are_asked_for(negative, positive):
    wanted = (np.isposinf(SPECIAL) & bool(positive)) | (np.isneginf(SPECIAL) & bool(negative))
    computes("IsInf", SPECIAL, wanted=wanted, detect_negative=negative, detect_positive=positive)


# --- Where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
def test_where_takes_every_dtype(dtype):
    condition = np.array([[True], [False]])
    x, y = np.array([[1, 0, 1]], dtype), np.array([[0, 1, 1], [1, 1, 0]], dtype)
    assert computes("Where", condition, x, y, wanted=np.where(condition, x, y)) == ["SELECT_V2"]


def chosen(constant):
    """Where(LeakyRelu(x) > 0, LeakyRelu(x), constant)."""
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["l"], name="leaky"),
        helper.make_node("Greater", ["l", "zero"], ["p"], name="greater"),
        helper.make_node("Where", ["p", "l", "other"], ["y"], name="where"),
    ]
    return graph(nodes, {"x": [1, 3, 4, 5]}, ["y"], zero=np.float32(0), other=np.float32(constant))


def test_where_runs_in_integers_with_one_encoding_for_both_branches():
    found = lowered(chosen(2.0), "int8")
    assert ("SELECT_V2", 1) in builtins(found)
    assert found.steps["y"] < 2


def test_where_that_masks_stays_float():
    node = chosen(-np.inf).graph[-1]
    with pytest.raises(Refused, match="only marks places"):
        operator_of(node).quantize(node)
    with pytest.raises(Refused, match="stays in float"):
        operator_of(node_of(single("Less", (1, 3), (1, 3)))).quantize(node)


def test_constants_are_chosen_as_well():
    x = np.array([1.5, -2.0], np.float32)
    assert computes("Where", x > 0, x, Fixed(np.float32(0)), wanted=np.array([1.5, 0], np.float32)) == ["SELECT_V2"]
