"""The search for the aim: the lowest that, refined, still reaches what is wanted."""

import pytest

from exporter.progress import SILENT
from exporter.quantization import deciding
from exporter.quantization.deciding import _search, integer_plan
from exporter.quantization.plan import Plan
from tests.quantization.planned import residual_net, statistics, target


def searched(gain: float, wanted: float, rounds: int = 8, least: float = -100.0) -> tuple[float, list[float]]:
    """What the found plan reaches, and the aims tried, where refining gains `gain` dB over every aim from `least` on."""
    aims: list[float] = []

    def mixed(aim: float) -> Plan:
        aims.append(aim)
        return Plan(target=str(aim))

    def reached(plan: Plan) -> float:
        return float(plan.target) + gain if float(plan.target) >= least else -10.0

    return reached(_search(mixed, reached, wanted, rounds)), aims


@pytest.mark.parametrize("gain", [-5.0, 0.0, 1.0, 6.0, 20.0])
def test_what_is_found_reaches_the_goal_and_little_more(gain):
    found, _ = searched(gain, 21.0)
    assert 21.0 <= found <= 22.5


def test_a_cliff_is_approached_from_the_safe_side():
    found, aims = searched(30.0, 21.0, rounds=6, least=5.0)  # below an aim of 5 all is lost
    assert 35.0 <= found < 51.0
    assert len(aims) == 6


def test_without_rounds_to_spare_the_first_answer_stays():
    found, aims = searched(10.0, 21.0, rounds=1)
    assert aims == [21.0]
    assert found == 31.0


@pytest.mark.parametrize(("left", "kept"), [(29.8, False), (29.2, True)])
def test_speed_costs_half_a_decibel_at_most(monkeypatch, left, kept):
    """A node that is faster in float stays in integers where its leaving them costs more than it may."""
    model = residual_net()
    name = next(node.name for node in model.graph if node.op_type == "Add")
    monkeypatch.setattr(deciding, "faster_in_float", lambda *_: {name: "faster"})
    monkeypatch.setattr(deciding, "_QUICK_MACS", -1)  # or it might leave them for its accuracy
    monkeypatch.setattr(deciding, "planned_db", lambda _, plan, __: left if plan.precision[name] == "float32" else 30.0)
    plan = integer_plan(model, statistics(model), target(), "minmax", "fast", 20.0, SILENT)
    assert (plan.precision[name] == "int8") is kept


@pytest.mark.parametrize(("quick", "measured"), [(1 << 31, True), (-1, False)])
def test_the_effort_fast_measures_what_rounding_costs_where_that_takes_little(monkeypatch, quick, measured):
    """Else a spectrum is squared and rooted in 8 bits, and quiet sounds are gone, for half a second saved."""
    model, asked = residual_net(), []
    bargain = deciding.Mixer.bargain
    monkeypatch.setattr(deciding, "_QUICK_MACS", quick)
    monkeypatch.setattr(deciding.Mixer, "bargain", lambda self: asked.append(True) or bargain(self))
    integer_plan(model, statistics(model), target(), "minmax", "fast", 20.0, SILENT)
    assert bool(asked) is measured
