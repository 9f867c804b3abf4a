"""A part of the ONNX project's node tests through `convert`: what passed still passes, and nothing is silently wrong.

The whole is `make conformance`, which also writes expected.json.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.conformance import judge, run_cases
from tools.conformance_cases import FROZEN, all_cases, eligible_cases

EXPECTED = json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))
WHOLE = ("Add", "BatchNormalization", "Clip", "Constant", "Conv", "Gemm", "MatMul", "Relu", "Shape", "Softmax")
EVERY = 11  # of the other cases every eleventh is run: 1,600 take a minute, the sample seconds


def _sample():
    cases = eligible_cases()
    return [case for index, case in enumerate(cases) if case.operator in WHOLE or index % EVERY == 0]


@pytest.fixture(scope="module")
def results():
    return {result.name: result for result in run_cases(_sample())}


def test_what_passed_still_passes(results):
    lost = [
        f"{result.operator}/{result.name}: {result.status} {result.code} {result.reason}"
        for result in results.values()
        if result.status != "pass" and result.name in EXPECTED.get(result.operator, ())
    ]
    assert not lost, "\n".join(lost)


def test_nothing_is_silently_wrong_and_nothing_crashes(results):
    assert len(results) > 100
    bad = [
        f"{result.name}: {result.status} {result.reason}" for result in results.values() if result.status in ("wrong", "crash")
    ]
    assert not bad, "\n".join(bad)


def test_the_expectations_name_cases_that_exist():
    names = {case.name for case in eligible_cases()}
    assert {name for passed in EXPECTED.values() for name in passed} <= names


def test_a_weight_is_frozen_and_data_is_not():
    cases = {case.name: case for case in eligible_cases()}
    conv = cases["basic_conv_with_padding"]
    assert list(conv.inputs) == ["x"]
    assert [tensor.name for tensor in conv.model.graph.initializer] == ["W"]
    assert [value.name for value in conv.model.graph.input] == ["x"]
    assert set(cases["add"].inputs) == {"x", "y"}
    assert FROZEN["Conv"] == {1, 2}


def test_an_expanded_case_freezes_what_its_operator_does():
    cases = {case.name: case for case in eligible_cases()}
    plain, expanded = cases["layer_normalization_2d_axis1"], cases["layer_normalization_2d_axis1_expanded"]
    assert list(plain.inputs) == list(expanded.inputs) == ["X"]
    assert expanded.multi
    assert not plain.multi


def test_training_random_strings_and_sequences_are_not_eligible():
    reasons = {case.name: case.why_not for case in all_cases()}
    assert reasons["adam"]
    assert reasons["bernoulli"] == "random"
    assert reasons["training_dropout_default"] == "training"
    assert reasons["strnormalizer_export_monday_empty_output"] == "dtype string"
    assert reasons["sequence_insert_at_back"] == "sequences and optionals"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (np.array([1.0, 2.0], np.float32), ""),
        (np.array([1.0005, 2.0], np.float32), ""),
        (np.array([1.1, 2.0], np.float32), "1 of 2 differ"),
        (np.array([1.0, 2.0], np.float64), "is float64"),
        (np.array([[1.0, 2.0]], np.float32), "has shape"),
    ],
)
def test_judging_floats(found, why):
    assert why in judge(["y"], [np.array([1.0, 2.0], np.float32)], {"y": found})
    assert bool(why) == bool(judge(["y"], [np.array([1.0, 2.0], np.float32)], {"y": found}))


def test_judging_integers_is_exact_and_nan_is_itself():
    assert judge(["y"], [np.array([1000])], {"y": np.array([1001])})
    assert not judge(["y"], [np.array([np.nan])], {"y": np.array([np.nan])})
    assert "no output" in judge(["y"], [np.array([1])], {"z": np.array([1])})


def test_a_wrong_expectation_is_found_wrong():
    case = next(case for case in eligible_cases() if case.name == "relu")
    [result] = run_cases([replace(case, outputs=(case.outputs[0] + 1,))])
    assert (result.status, result.code) == ("wrong", "differs")


def test_a_case_past_its_time_limit_is_a_crash_and_the_others_go_on():
    cases = [case for case in eligible_cases() if case.name in ("relu", "sigmoid")]
    results = list(run_cases(cases, time_limit_s=0.0))
    assert {result.status for result in results} <= {"crash", "pass"}
    assert len(results) == 2
