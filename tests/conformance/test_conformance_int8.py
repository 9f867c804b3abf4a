"""A part of the node tests in int8: what passed still passes, and no integer is another than the reference's.

The whole is `make conformance`, which also writes expected_int8.json.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporter.ops.activations import Relu
from tools.conformance import run_cases
from tools.conformance_cases import eligible_cases
from tools.conformance_int8 import fits, judge, quantizable, run_int8_case

pytest.importorskip("torch")

EXPECTED = json.loads(Path(__file__).with_name("expected_int8.json").read_text(encoding="utf-8"))
EVERY = 29


@pytest.fixture(scope="module")
def results():
    cases = [case for case in eligible_cases() if quantizable(case)]
    chosen = [case for index, case in enumerate(cases) if index % EVERY == 0]
    return {result.name: result for result in run_cases(chosen, run=run_int8_case)}


def case_of(name):
    return next(case for case in eligible_cases() if case.name == name)


def status_of(case):
    [result] = run_cases([case], run=run_int8_case)
    return result.status, result.code


def test_what_passed_still_passes(results):
    lost = [
        f"{result.operator}/{result.name}: {result.status} {result.code} {result.reason}"
        for result in results.values()
        if result.status != "pass" and result.name in EXPECTED.get(result.operator, ())
    ]
    assert not lost, "\n".join(lost)


def test_no_integer_is_another_than_the_reference_s(results):
    assert len(results) > 40
    bad = [
        f"{result.name}: {result.status} {result.reason}"
        for result in results.values()
        if result.status in ("wrong", "crash", "unknown")
    ]
    assert not bad, "\n".join(bad)


def test_a_kernel_that_is_not_the_reference_is_wrong(monkeypatch):
    assert status_of(case_of("relu")) == ("pass", "")
    right = Relu.integers
    monkeypatch.setattr(Relu, "integers", lambda *given: [array + (array == array.max()) for array in right(*given)])
    assert status_of(case_of("relu")) == ("wrong", "reference")


def test_an_output_that_is_not_the_expected_one_is_wrong():
    case = case_of("relu")
    assert status_of(replace(case, outputs=(case.outputs[0] * 1.3,))) == ("wrong", "differs")


def test_numbers_that_8_bits_cannot_hold_are_a_limit():
    assert status_of(case_of("softmax_large_number")) == ("limit", "")


def test_an_operator_without_an_integer_kernel_stays_in_float():
    assert status_of(case_of("exp")) == ("float", "")


def test_judging():
    signal = np.array([100.0, 50.0], np.float32)
    assert fits(signal, signal * 1.09)
    assert not fits(signal, signal * 1.11)
    assert fits(signal * 0, signal * 0)
    assert not fits(signal * 0, signal)
    assert not fits(signal, np.array([np.inf, 50.0], np.float32))
    masked = np.array([100.0, -np.inf], np.float32)
    assert fits(masked, masked * 1.09)
    assert not fits(masked, masked * 1.11)
    assert not fits(masked, np.array([100.0, -1e30], np.float32))
    assert not fits(masked, np.array([-np.inf, -np.inf], np.float32))
    case = case_of("relu")
    assert "absent" in judge(case, {})
    assert "not float32" in judge(case, {"y": case.outputs[0].astype(np.float64)})
