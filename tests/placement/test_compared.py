"""A compiler's answer beside the rules: every node on which they differ, none besides."""

import pytest

from exporter.compilers.base import Compiled, OperatorPlacement
from exporter.graph.summary import Placement
from exporter.placement.compared import disagreements
from targets.loader import load_target
from targets.schema import Unit

CHIP = load_target("cortex-m7")
TARGET = CHIP.model_copy(update={"units": (Unit(name="array", kind="npu", dtypes=("int8",)), *CHIP.units)})


def answer(*told):
    return Compiled(
        "vela", "5", "some-npu", {}, {}, "", tuple(OperatorPlacement(output, "CONV_2D", *rest) for output, *rest in told)
    )


@pytest.mark.parametrize(
    ("unit", "kind", "found"),
    [
        ("array", "npu", []),
        ("cpu", "cpu", []),
        ("array", "cpu", [("npu", "cpu", ("too wide",))]),
        ("cpu", "npu", [("cpu", "npu", ("we refused",))]),
        ("", "npu", [("", "npu", ("we refused",))]),
    ],
)
def test_kinds_of_units_are_compared_and_who_refused_says_why(unit, kind, found):
    place = Placement("conv", "Conv", unit, "int8", ("we refused",), "y")
    differing = disagreements([place], TARGET, answer(("y", kind, ("too wide",) if kind == "cpu" else ())))
    assert [(entry.ours, entry.theirs, entry.reasons) for entry in differing] == found


def test_operators_of_no_node_are_not_compared():
    place = Placement("conv", "Conv", "array", "int8", (), "y")
    assert disagreements([place], TARGET, answer(("y_dequantized", "cpu", ("float",)))) == ()
