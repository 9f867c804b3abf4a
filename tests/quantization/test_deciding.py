"""The search for the aim: the lowest that, refined, still reaches what is wanted."""

from math import inf

import pytest

from exporter.progress import SILENT
from exporter.quantization import deciding
from exporter.quantization.deciding import _search, integer_plan
from exporter.quantization.mixing.aiming import Goal
from exporter.quantization.plan import Plan
from tests.quantization.planned import Told, residual_net, statistics, target


def searched(gain: float, wanted: float, rounds: int = 8, least: float = -100.0) -> tuple[float, list[float]]:
    """What the found plan reaches, and the aims tried, where refining gains `gain` dB over every aim from `least` on."""
    aims: list[float] = []

    def mixed(aim: float) -> Plan:
        aims.append(aim)
        return Plan(target=str(aim))

    def reached(plan: Plan) -> float:
        return float(plan.target) + gain if float(plan.target) >= least else -10.0

    return reached(_search(mixed, lambda plan: reached(plan) - wanted, wanted, rounds)), aims


@pytest.mark.parametrize("gain", [-5.0, 0.0, 1.0, 6.0, 20.0])
def test_what_is_found_reaches_the_goal_and_little_more(gain):
    found, _ = searched(gain, 21.0)
    assert 21.0 <= found <= 21.5


@pytest.mark.parametrize("jump", [21.1, 22.0, 23.5])
def test_what_is_short_by_little_is_approached_from_there(jump):
    """Nodes leave the integers in groups: where the next aim that holds overshoots, one nearer to what failed costs fewer of them."""
    aims: list[float] = []

    def mixed(aim: float) -> Plan:
        aims.append(aim)
        return Plan(target=str(aim))

    def left(plan: Plan) -> float:
        return (float(plan.target) - 22.95) * 0.87 + (2.0 if float(plan.target) > jump + 2 else 0.0)

    found = _search(mixed, left, 26.0, 5)
    assert 0 <= left(found) <= 1.0
    assert float(found.target) == min(aim for aim in aims if left(Plan(target=str(aim))) >= 0)


def test_a_cliff_is_approached_from_the_safe_side():
    found, aims = searched(30.0, 21.0, rounds=6, least=5.0)  # below an aim of 5 all is lost
    assert 35.0 <= found < 51.0
    assert len(aims) == 6


def test_without_rounds_to_spare_the_first_answer_stays():
    found, aims = searched(10.0, 21.0, rounds=1)
    assert aims == [21.0]
    assert found == 31.0


def counted(least: float, start: float, rounds: int = 6) -> tuple[float, list[float]]:
    """The aim that is found where a gate says no more than whether it holds: from an aim of `least` on. And the aims tried."""
    aims: list[float] = []

    def mixed(aim: float) -> Plan:
        aims.append(aim)
        return Plan(target=str(aim))

    found = _search(mixed, lambda plan: inf if float(plan.target) >= least else -9.0, start, rounds)
    return float(found.target), aims


@pytest.mark.parametrize(("least", "start"), [(16.0, 12.0), (30.5, 12.0), (13.0, 40.0), (-2.0, 11.0)])
def test_a_gate_that_says_little_is_enclosed_from_both_sides(least, start):
    found, aims = counted(least, start, rounds=10)
    assert least <= found < least + 1.5
    assert len(aims) < 9


def test_where_no_aim_holds_the_nearest_is_taken():
    found, aims = counted(200.0, 10.0)
    assert found == max(aims) == 10 + 5 * 8 + 5
    reached, _ = searched(-10.0, 90.0, rounds=2, least=1000.0)
    assert reached == -10.0


@pytest.mark.parametrize(("left", "kept"), [(29.8, False), (29.2, True)])
def test_speed_costs_half_a_decibel_at_most(monkeypatch, left, kept):
    """A node that is faster in float stays in integers where its leaving them costs more than it may."""
    model = residual_net()
    name = next(node.name for node in model.graph if node.op_type == "Add")
    monkeypatch.setattr(deciding, "faster_in_float", lambda *_: {name: "faster"})
    monkeypatch.setattr(deciding, "affordable", lambda *_: 0)  # or it might leave them for its accuracy
    monkeypatch.setattr(deciding, "planned_db", lambda _, plan, *__: left if plan.precision[name] == "float32" else 30.0)
    plan = integer_plan(model, statistics(model), target(), "minmax", "fast", Goal(), SILENT)
    assert (plan.precision[name] == "int8") is kept


@pytest.mark.parametrize(("samples", "measured"), [(1, True), (0, False)])
def test_the_effort_fast_measures_what_rounding_costs_where_that_takes_little(monkeypatch, samples, measured):
    """Else a spectrum is squared and rooted in 8 bits, and quiet sounds are gone, for half a second saved."""
    model, asked = residual_net(), []
    bargain = deciding.Mixer.bargain
    monkeypatch.setattr(deciding, "affordable", lambda *_: samples)
    monkeypatch.setattr(deciding.Mixer, "bargain", lambda self: asked.append(True) or bargain(self))
    integer_plan(model, statistics(model), target(), "minmax", "fast", Goal(), SILENT)
    assert bool(asked) is measured


def test_gates_out_of_reach_are_named_with_what_is_reached():
    """A device without float and without 16 bits has nothing to choose from."""

    model, told = residual_net(), Told()
    only = target(precision="auto", float_fallback=False)
    plan = integer_plan(model, statistics(model), only, "minmax", None, Goal.parse(["sqnr_db>=200", "cosine>=0.5"]), told)
    assert set(plan.precision.values()) == {"int8"}
    [said] = told.warnings
    assert "on calibration samples the gate sqnr_db>=200: fails with" in said
    assert list(plan.aims) == ["sqnr_db>=200", "cosine>=0.5"]
    assert 10 < plan.aims["sqnr_db>=200"] < 60


class Judged:
    """An aim of 20 dB: plans reach what their target says, with a standard error of 0.5."""

    def __init__(self) -> None:
        self.margin = 1.0

    def decibels(self, plan: Plan) -> float:
        return float(plan.target)

    def error_db(self, plan: Plan) -> float:
        return 0.5

    def allow(self, decibels: float) -> None:
        self.margin = decibels

    def spare(self, plan: Plan) -> float:
        return float(plan.target) - 20 - self.margin


@pytest.mark.parametrize(
    ("start", "reached", "told", "fits", "margin"),
    [
        ("14", "24", 3.0, 1, 3.5),  # 10 dB gained, of which 3 are of these samples alone
        ("36", "40", 3.0, 0, 4.5),  # holds even where all that refining gained is lost
        ("14", "16", 5.0, 1, 2.5),  # no more can be lost than was gained
    ],
)
def test_room_is_left_for_what_refining_promises_too_much(start: str, reached: str, told: float, fits: int, margin: float):
    aim, asked = Judged(), []
    deciding._allow(aim, Plan(start), Plan(reached), lambda: asked.append(1) or told, SILENT)
    assert (len(asked), aim.margin) == (fits, margin)
