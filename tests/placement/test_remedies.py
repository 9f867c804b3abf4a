"""Remedies: what is proposed holds when the rules are asked again, and nothing is proposed where nothing is to be mended."""

from typing import get_args

import numpy as np
import pytest

from diagnostics import TargetError
from exporter.graph.summary import placements
from exporter.ops.base import all_operators
from exporter.pipeline import legal, legalized
from exporter.placement.remedies import ADVICE, mending, remedies
from exporter.placement.substitutes import SUBSTITUTES
from targets.loader import load_target
from targets.schema import Limit, Measure, Unit

CHIP = load_target("cortex-m7")


def with_units(*units, **changed):
    return CHIP.model_copy(update={"units": units, **changed})


def npu(*operators, limits=()):
    return Unit(name="npu", kind="npu", operators=operators, dtypes=("int8",), limits=limits)


def int8_alone(*units):
    return with_units(*units, artifact=CHIP.artifact.model_copy(update={"precisions": ()}))


def mended(model, target):
    legal = legalized(model, target)
    placed = placements(legal, target)
    return remedies(model, legal, placed, target, legalized)


def conv(graph_of, outputs=30):
    weight = np.random.default_rng(0).standard_normal((outputs, 4, 3, 3)).astype(np.float32)
    return graph_of(f"g (float[1,4,8,8] x) => (float[1,{outputs},8,8] y) {{ y = Conv<pads = [1,1,1,1]>(x, w) }}", w=weight)


def test_nothing_to_mend(graph_of):
    assert mended(conv(graph_of), CHIP) == ()


def test_channels_are_padded_to_the_multiple_that_a_limit_asks_for(graph_of):
    limit = Limit(measure="output_channels", multiple_of=16, why="tiles of 16")
    found = mended(conv(graph_of), with_units(npu("Conv", limits=(limit,)), *CHIP.units))
    assert [(remedy.change, remedy.exact) for remedy in found] == [("pad Conv's output channels from 30 to 32", True)]
    assert mended(conv(graph_of, 32), with_units(npu("Conv", limits=(limit,)), *CHIP.units)) == ()


@pytest.mark.parametrize(
    ("limit", "change"),
    [
        (Limit(measure="kernel", most=2, why="small"), "Conv: bring the window from 3 to 2"),
        (Limit(measure="kernel", least=5, why="large"), "Conv: bring the window from 3 to 5"),
        (Limit(measure="kernel", among=(2, 4, 8), why="powers of two"), "Conv: bring the window from 3 to 2"),
        (Limit(measure="output_channels", most=24, multiple_of=16, why="tiles"), "Conv: bring the output channels from 30 to 16"),
    ],
)
def test_a_limit_names_the_number_that_is_within(graph_of, limit, change):
    found = mended(conv(graph_of), with_units(npu("Conv", limits=(limit,)), *CHIP.units))
    assert [remedy.change for remedy in found] == [change]
    assert limit.why in found[0].gain


def test_an_operator_is_replaced_by_the_nearest_that_the_unit_runs(graph_of):
    model = graph_of("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = HardSwish(x) }")
    relu6 = mended(model, with_units(npu("Conv", "Clip", "Relu"), *CHIP.units))
    relu = mended(model, with_units(npu("Conv", "Relu"), *CHIP.units))
    assert [(remedy.change, remedy.gain, remedy.exact) for remedy in relu6] == [
        ("replace HardSwish by Relu6", "runs on npu", False)
    ]
    assert [remedy.change for remedy in relu] == ["replace HardSwish by Relu"]
    assert mended(model, with_units(npu("Conv"), *CHIP.units)) == ()


def test_what_legalizing_recognized_is_replaced_as_well(graph_of):
    """x * Clip(x + 3, 0, 6) / 6 is one HardSwish on TFLite."""
    model = graph_of(
        """g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }""",
        three=np.float32(3),
        zero=np.float32(0),
        six=np.float32(6),
    )
    found = mended(model, with_units(npu("Conv", "Clip"), *CHIP.units))
    assert [(remedy.change, len(remedy.nodes)) for remedy in found] == [("replace HardSwish by Relu6", 1)]


def test_a_setting_comes_before_another_operator(graph_of):
    """Cubic becomes products with matrices on TFLite, linear stays a Resize."""
    model = graph_of(
        'g (float[1,4,8,8] x) => (float[1,4,16,16] y) { y = Resize<mode = "cubic">(x, , s) }', s=np.float32([1, 1, 2, 2])
    )
    found = mended(model, with_units(npu("Resize"), *CHIP.units))
    assert [remedy.change for remedy in found] == ["replace Resize by Resize with mode linear"]


def test_another_precision_is_proposed_where_more_runs_on_the_first_unit(graph_of):
    wide = Unit(name="npu", kind="npu", operators=("Conv",), dtypes=("int16",))
    narrow = Unit(name="cpu", kind="cpu", dtypes=("int8", "int16"))
    target = with_units(wide, narrow, artifact=CHIP.artifact.model_copy(update={"precisions": ("int8", "int16x8")}))
    (found,) = mended(conv(graph_of), target)
    assert (found.change, found.gain) == ("choose precision int16x8", "1 of 1 nodes run on npu")


def test_substitutes_are_operators_that_are_known():
    known = {op_type for domain, op_type in all_operators() if not domain}
    assert {substitute.op_type for entries in SUBSTITUTES.values() for substitute in entries} <= known


def test_there_is_advice_for_every_measure():
    assert set(ADVICE) == set(get_args(Measure))


def test_a_refusal_names_each_operator_once_and_what_would_mend_it(graph_of):
    model = graph_of(
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = HardSwish(x) b = Relu(a) c = HardSwish(b) d = Relu(c) y = HardSwish(d) }"
    )
    with pytest.raises(TargetError) as error:
        legal(model, int8_alone(npu("Conv", "Relu")))
    nodes = [node.name for node in model.graph if node.op_type == "HardSwish"]
    assert error.value.code == "EW-T004"
    assert error.value.why == f"3 HardSwish ({', '.join(nodes)}): no unit of cortex-m7 runs HardSwish"
    assert error.value.fix.splitlines()[0] == f"replace HardSwish by Relu ({', '.join(nodes)})"


def test_only_what_runs_nowhere_is_mended_in_a_refusal(graph_of):
    """The convolution is on the second unit: of interest to `inspect`, not to who is refused."""
    weight = np.ones((4, 4, 3, 3), np.float32)
    model = graph_of("g (float[1,4,8,8] x) => (float[1,4,6,6] y) { a = Conv(x, w) y = HardSwish(a) }", w=weight)
    narrow = Limit(measure="kernel", operators=("Conv",), most=2, why="small")
    target = int8_alone(
        npu("Conv", "Relu", limits=(narrow,)), Unit(name="cpu", kind="cpu", operators=("Conv",), dtypes=("int8",))
    )
    graph = legalized(model, target)
    placed = placements(graph, target)
    found = remedies(model, graph, placed, target, legalized)
    assert [remedy.change for remedy in found] == ["replace HardSwish by Relu", "Conv: bring the window from 3 to 2"]
    (line,) = mending(model, graph, placed, target, legalized)
    assert line.startswith("replace HardSwish by Relu (")
