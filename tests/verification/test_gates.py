"""What a gate's expression means, what it is judged on, and what can never pass."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diagnostics import GateError, UsageError
from exporter.verification.compare import Comparison
from exporter.verification.gates import Gate, check, require
from exporter.verification.metric import TaskScore
from exporter.verification.metrics import AT_MOST_ONE, HIGHER_IS_BETTER, Metrics

GOOD = Metrics(elements=10, sqnr_db=40.0, cosine=0.9999, max_abs=0.1, mean_abs=0.01, top1_agreement=1.0)
BAD = Metrics(elements=10, sqnr_db=5.0, cosine=0.8, max_abs=3.0, mean_abs=1.0)
BOTH = Comparison(4, {"scores": GOOD, "boxes/out.0": BAD}, task={"accuracy": TaskScore(0.99, 0.97)})


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("top1_agreement>=0.98", Gate("top1_agreement", ">=", 0.98)),
        (" sqnr_db > 20 ", Gate("sqnr_db", ">", 20)),
        ("logits.sqnr_db>=2e1", Gate("sqnr_db", ">=", 20, "logits")),
        ("boxes/out.0.max_abs<=.5", Gate("max_abs", "<=", 0.5, "boxes/out.0")),
        ("cosine==1", Gate("cosine", "==", 1)),
        ("mean_abs<-1", Gate("mean_abs", "<", -1)),
    ],
)
def test_forms(text: str, gate: Gate) -> None:
    assert Gate.parse(text) == gate


@pytest.mark.parametrize(
    "text", ["", "sqnr_db", "sqnr_db=>3", "sqnr_db>=", "sqnr_db>=high", "sqnr_db>=nan", ">=3", "sqnr_db>=3 4"]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="EW-G002"):
        Gate.parse(text)


@pytest.mark.parametrize("text", ["top1_agreement>=98", "y.cosine>1", "top5_agreement>=1.01"])
def test_a_share_above_1_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(UsageError, match=r"EW-G002.*never hold") as caught:
        Gate.parse(text)
    assert "share" in caught.value.fix


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"EW-G002.*'psnr'") as caught:
        Gate.parse("psnr>=3")
    assert all(metric in caught.value.fix for metric in HIGHER_IS_BETTER)
    assert Gate.parse("accuracy>=0.9", task=True).metric == "accuracy"


@given(
    st.sampled_from(sorted(HIGHER_IS_BETTER)),
    st.sampled_from([">=", "<=", ">", "<", "=="]),
    st.floats(allow_nan=False) | st.integers(-1000, 1000).map(float),
    st.none() | st.from_regex(r"[a-z][a-z0-9_./:]{0,12}", fullmatch=True),
)
def test_text_and_gate_are_the_same_thing(metric: str, operator: str, limit: float, output: str | None) -> None:
    assume(metric not in AT_MOST_ONE or operator not in (">", ">=") or limit < 1)
    gate = Gate(metric, operator, limit, output)
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize("text", [f"sqnr_db{operator}0" for operator in (">=", "<=", ">", "<", "==")])
def test_nan_never_passes(text: str) -> None:
    broken = Metrics(10, math.nan, math.nan, math.nan, math.nan)
    (result,) = check([Gate.parse(text)], Comparison(1, {"good": GOOD, "broken": broken}))
    assert (result.output, result.passed) == ("broken", False)
    assert result.to_dict()["value"] == "nan"


def test_without_an_output_the_worst_is_judged_on_either_kind_of_metric() -> None:
    low, high = check([Gate.parse("sqnr_db>=20"), Gate.parse("max_abs<=0.5")], BOTH)
    assert (low.output, low.value, low.passed) == ("boxes/out.0", 5.0, False)
    assert (high.output, high.value, high.passed) == ("boxes/out.0", 3.0, False)


def test_an_output_of_its_own() -> None:
    results = check([Gate.parse("scores.sqnr_db>=20"), Gate.parse("boxes/out.0.sqnr_db>=20")], BOTH)
    assert [result.passed for result in results] == [True, False]


def test_the_limit_itself() -> None:
    texts = ["scores.sqnr_db>=40", "scores.sqnr_db>40", "scores.sqnr_db<=40", "scores.sqnr_db<40", "scores.sqnr_db==40"]
    assert [result.passed for result in check([Gate.parse(t) for t in texts], BOTH)] == [True, False, True, False, True]


def test_agreement_is_judged_where_there_is_a_class_vector() -> None:
    (result,) = check([Gate.parse("top1_agreement>=1")], BOTH)
    assert (result.output, result.passed) == ("scores", True)
    for gate, comparison in (("top1_agreement>=1", Comparison(1, {"boxes": BAD})), ("boxes/out.0.top1_agreement>=1", BOTH)):
        with pytest.raises(UsageError, match="EW-G002") as caught:
            check([Gate.parse(gate)], comparison)
        assert "class vector" in caught.value.why


def test_task_scores_and_what_they_lost() -> None:
    gates = [Gate.parse(text, task=True) for text in ("accuracy>=0.95", "accuracy_drop<=0.01")]
    kept, lost = check(gates, BOTH)
    assert (kept.value, kept.passed) == (0.97, True)
    assert (lost.value, lost.passed) == (pytest.approx(0.02), False)
    with pytest.raises(UsageError, match=r"EW-G002.*recall") as caught:
        check([Gate.parse("recall>=0.5", task=True)], BOTH)
    assert "accuracy_drop" in caught.value.fix


def test_an_unknown_output_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="EW-G002") as caught:
        check([Gate.parse("logits.sqnr_db>=20")], BOTH)
    assert "scores" in caught.value.fix


def test_require_names_every_gate_that_failed() -> None:
    results = check([Gate.parse("scores.sqnr_db>=20"), Gate.parse("sqnr_db>=20"), Gate.parse("cosine>=0.99")], BOTH)
    with pytest.raises(GateError, match="EW-G001: 2 of 3") as caught:
        require(results)
    assert caught.value.exit_status == 1
    assert "sqnr_db>=20: fails with 5 at boxes/out.0" in caught.value.why
    require(results[:1])
