"""The runner that asks the NPU's emulator what it takes: its verdicts, and the table by operator."""

from __future__ import annotations

from tools.conformance import Result
from tools.conformance_cases import Case, eligible_cases
from tools.conformance_htp import operators, run_htp_case


def case(name: str) -> Case:
    return next(entry for entry in eligible_cases() if entry.name == name)


def test_what_runs_wholly_on_the_npu_is_told_with_its_operators() -> None:
    assert run_htp_case(case("softmax_axis_1"), isolate=False)[:2] == ("npu", "Softmax")


def test_what_has_no_integer_form_is_refused_by_its_code() -> None:
    status, code, reason = run_htp_case(case("det_2d"), isolate=False)
    assert (status, code) == ("refused", "EW-T004")
    assert "Det" in reason


def test_what_runs_there_and_comes_to_something_else_is_far() -> None:
    """QNN 2.51 leaves out a clamp between the rounding of an input and that of an output: negative numbers pass. `within` refuses such."""
    assert run_htp_case(case("relu"), isolate=False)[:2] == ("far", "Relu")


def test_operators_are_counted_where_they_stand() -> None:
    results = [
        Result("a", "Relu", False, "npu", "Add,Relu", ""),
        Result("b", "Add", False, "cpu", "Add", "add (Add)"),
        Result("c", "Add", False, "refused", "EW-T004", "no"),
    ]
    found = {name: {status: len(own) for status, own in by.items()} for name, by in operators(results).items()}
    assert found == {"Add": {"npu": 1, "cpu": 1}, "Relu": {"npu": 1}}
