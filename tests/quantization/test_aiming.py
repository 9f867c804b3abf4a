"""What the precision auto aims at: gates of every kind, told in decibels, of the outputs that they are about."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics import UsageError
from exporter.progress import SILENT
from exporter.quantization.mixing import aiming, sensitivity
from exporter.quantization.mixing.aiming import Aim, Goal, shortfall_db
from exporter.quantization.mixing.sensitivity import planned_db, planned_error_db
from exporter.quantization.mixing.switches import Switchboard
from exporter.verification.compare import compare
from exporter.verification.gates import Gate
from tests.quantization.planned import Told, network, planned, residual_net, samples

METRIC = """
def labelled(run, samples):
    return 1.0

def agreement(run, samples, original=None):
    kept = [int(run(s)["y"].argmax()) == (0 if original is None else int(original(s)["y"].argmax())) for s in samples]
    return {"agreement": sum(kept) / len(kept), "seen": len(kept)}
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "aim_metric.py").write_text(METRIC)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "aim_metric", raising=False)


def two_outputs():
    """The second output is the first behind what magnifies its noise."""
    return network(
        "a = Conv (x, w) y = GlobalAveragePool (a) b = Sub (a, mean) z = Mul (b, ten)",
        inputs="float[1,3,8,8] x",
        outputs="float[1,4,1,1] y, float[1,4,8,8] z",
        w=(4, 3, 1, 1),
        mean=np.float32(3),
        ten=np.float32(10),
    )


def aim(goal, model=None, told=SILENT, data=None):
    model = model or residual_net()
    return Aim(goal, model, data or list(samples(model)), told)


def test_without_gates_every_output_shall_have_20_decibels():
    found = aim(Goal())
    assert [str(gate) for gate in found.gates] == ["sqnr_db>=20"]
    assert found.handicaps is None


@pytest.mark.parametrize("limit", [10.0, 60.0])
def test_a_gate_on_decibels_is_as_far_as_the_simulator_says_and_one_more(limit):
    model, plan = residual_net(), planned(residual_net())
    expected = planned_db(model, plan, list(samples(model))) - limit - 1
    assert aim(Goal.parse([f"sqnr_db>={limit}"])).spare(plan) == pytest.approx(expected)


def test_the_margin_is_what_others_may_be_worse_by_and_never_less_than_one():
    model, plan = residual_net(), planned(residual_net())
    found = aim(Goal.parse(["sqnr_db>=10"]))
    least = found.spare(plan)
    found.allow(0.0)
    assert (found.margin, found.spare(plan)) == (1.0, least)
    found.allow(3.0)
    assert (found.margin, found.spare(plan)) == (3.0, pytest.approx(least - 2))
    assert found.error_db(plan) == planned_error_db(model, plan, list(samples(model)))


def test_what_is_reached_is_told_of_each_gate():
    found = aim(Goal.parse(["top1_agreement>=0.5", "y.sqnr_db>=10"])).reached(planned(residual_net()))
    assert [str(result.gate) for result in found] == ["top1_agreement>=0.5", "y.sqnr_db>=10"]
    assert all(result.passed and math.isfinite(result.value) for result in found)


def test_a_plan_is_run_once(monkeypatch):
    found, plan, boards = aim(Goal.parse(["cosine>=0.5"])), planned(residual_net()), []
    monkeypatch.setattr(aiming, "Switchboard", lambda *given: boards.append(given) or Switchboard(*given))
    assert found.spare(plan) > 0
    assert found.reached(plan) is found.reached(plan)
    assert len(boards) == 1


@pytest.mark.parametrize(("gates", "seen"), [(["sqnr_db>=20", "cosine>=0.5"], 16), (["sqnr_db>=20", "max_abs<=9"], 24)])
def test_means_of_large_models_are_told_by_few_samples(monkeypatch, gates, seen):
    monkeypatch.setattr(sensitivity, "affordable", lambda *_: 0)
    compared = []
    found = aim(Goal.parse(gates), data=list(samples(residual_net(), 24)))
    monkeypatch.setattr(aiming, "compare", lambda *given, **more: compared.append(len(given[2])) or compare(*given, **more))
    found.reached(planned(residual_net()))
    assert compared == [seen]


def test_gates_of_single_outputs_count_by_their_own_limits():
    model = two_outputs()
    assert aim(Goal.parse(["z.sqnr_db>=25"]), model).handicaps == {"z": 0.0}
    assert aim(Goal.parse(["z.sqnr_db>=25", "y.sqnr_db>=31"]), model).handicaps == {"y": 0.0, "z": 6.0}
    assert aim(Goal.parse(["sqnr_db>=25", "y.sqnr_db>=31"]), model).handicaps == {"y": 0.0, "z": 6.0}
    assert aim(Goal.parse(["z.cosine>=0.9", "y.sqnr_db>=31"]), model).handicaps == {"y": 0.0, "z": 0.0}
    assert aim(Goal.parse(["cosine>=0.9", "sqnr_db>=31"]), model).handicaps is None


def test_only_the_outputs_that_a_gate_is_about_are_judged():
    model, data = two_outputs(), list(samples(two_outputs()))
    plan = planned(model)
    board = Switchboard(model, plan)
    reached = {}
    for name in "yz":
        error = signal = 0.0
        for sample in data:
            exact, rounded = (board(sample, lambda switch, on=on: on)[name].astype(np.float64) for on in (False, True))
            error += np.square(exact - rounded).sum()
            signal += np.square(exact).sum()
        reached[name] = 10 * np.log10(signal / error)
    assert abs(reached["y"] - reached["z"]) > 1  # or nothing could be told apart
    assert planned_db(model, plan, data) == pytest.approx(min(reached.values()))
    for name, decibels in reached.items():
        assert planned_db(model, plan, data, {name: 0.0}) == pytest.approx(decibels)
        assert planned_db(model, plan, data, {name: 7.0}) == pytest.approx(decibels + 7)


def test_a_task_score_is_judged_by_what_the_original_decides():
    told = Told()
    goal = Goal.parse(["agreement>=0.5", "agreement_drop<=0.5", "sqnr_db>=5", "seen>=20"], "aim_metric:agreement")
    found = aim(goal, told=told, data=list(samples(residual_net(), 20)))
    assert found.gates == goal.gates
    assert {str(result.gate): result.value for result in found.reached(planned(residual_net()))}["seen>=20"] == 20
    assert not told.warnings


@pytest.mark.parametrize(
    ("gate", "metric", "said"),
    [
        ("labelled>=0.5", "aim_metric:labelled", "no parameter `original`"),
        ("agreement>=1.1", "aim_metric:agreement", "the original itself has 1"),
        ("max_abs>=1", None, "the original itself has 0"),
        ("sqnr_db>=20", "aim_metric:labelled", ""),
        ("mean_abs>=0", None, "it asks for a distance"),
    ],
)
def test_what_cannot_be_aimed_at_is_said_and_left_to_verification(gate, metric, said):
    told = Told()
    found = aim(Goal.parse([gate], metric), told=told)
    assert [str(entry) for entry in found.gates] == ["sqnr_db>=20"]
    assert [said in warning and gate in warning for warning in told.warnings] == ([True] if said else [])


@pytest.mark.parametrize(
    ("gate", "metric"), [("q.sqnr_db>=20", None), ("agreemend>=0.5", "aim_metric:agreement"), ("top5_agreement>=1", None)]
)
def test_a_gate_on_what_there_is_not_is_refused_before_anything_is_decided(gate, metric):
    with pytest.raises(UsageError, match="EW-G002"):
        aim(Goal.parse([gate], metric))


def test_an_output_of_integers_is_judged_but_no_noise_is_weighed_by_it():
    model = network(
        "a = Gemm (x, w) y = ArgMax <axis = 1> (a)", inputs="float[1,8] x", outputs="float[1,5] a, int64[1,1] y", w=(8, 5)
    )
    found = aim(Goal.parse(["y.max_abs<=0"]), model)
    assert found.handicaps is None
    assert found.spare(planned(model)) in (math.inf, -9)


@pytest.mark.parametrize(
    ("gate", "ideal", "value", "short"),
    [
        ("sqnr_db>=20", math.inf, 17.5, 2.5),
        ("sqnr_db>=20", math.inf, math.inf, -math.inf),
        ("sqnr_db>=20", math.inf, math.nan, 40),
        ("sqnr_db>=20", math.inf, -90, 40),
        ("cosine>=0.99", 1, 0.98, 3.0103),
        ("top1_agreement>=0.98", 1, 0.96, 6.0206),
        ("max_abs<=0.5", 0, 0.25, -6.0206),
        ("cer<=0.01", 0.0, 1.0, 8),
        ("cer_drop<=0", 0, 0, -math.inf),
        ("cer_drop<=0", 0, 0.1, 8),
        ("acc>=0.9", 0.95, 0.96, -math.inf),
        ("top1_agreement==1", 1, 1, -math.inf),
        ("top1_agreement>=0.9", 1, math.nan, 8),
    ],
)
def test_how_far_a_value_is_from_its_gate(gate, ideal, value, short):
    assert shortfall_db(Gate.parse(gate, task=True), ideal, value) == pytest.approx(short, abs=1e-4)


@given(
    st.sampled_from(["cosine>=0.97", "top1_agreement>0.9", "max_abs<=0.5", "cer<0.1", "acc>=0.7", "sqnr_db>=20"]),
    st.floats(-1, 2) | st.floats(-50, 50),
)
def test_what_is_not_short_holds(text, value):
    gate = Gate.parse(text, task=True)
    ideal = {"cosine": 1.0, "top1_agreement": 1.0, "max_abs": 0.0, "cer": 0.02, "acc": 0.9, "sqnr_db": math.inf}[gate.metric]
    short = shortfall_db(gate, ideal, value)
    if short < -1e-9:
        assert gate.holds(value)
    elif short > 1e-9:
        assert not gate.holds(value)


def test_a_plan_keeps_what_it_was_chosen_by():
    from exporter import Plan

    plan = Plan("phone", aims={"sqnr_db>=20": 23.5, "max_abs<=1": "inf"})
    assert Plan.from_json(plan.to_json()) == plan
