import numpy as np
import pytest
from exact_bench import computes
from op_bench import builtins, lowered, node_of, single
from typed_bench import refusals

from exporter.ops.base import FACETS, Refused, operator_of

X = np.concatenate([[0, -1e-7, 1e-7, 0.5, -0.5, 1, -1, 1.5, -1.5, 20, -20, 60, -60, 100, -100], np.linspace(-6, 6, 101)])


def softplus(x):
    return np.logaddexp(x, 0)


def elu(x, alpha):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def shrink(x, lambd, bias):
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))


CASES = {
    "Softplus": ({}, softplus),
    "Softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "Mish": ({}, lambda x: x * np.tanh(softplus(x))),
    "Selu": ({"alpha": 2.0, "gamma": 3.0}, lambda x: 3 * elu(x, 2)),
    "Celu": ({"alpha": 2.0}, lambda x: np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(np.minimum(x, 0) / 2))),
    "Elu": ({"alpha": 1.5}, lambda x: elu(x, 1.5)),
    "ThresholdedRelu": ({"alpha": 0.5}, lambda x: np.where(x > 0.5, x, 0)),
    "Shrink": ({"lambd": 1.5, "bias": 0.25}, lambda x: shrink(x, 1.5, 0.25)),
}
DEFAULTS = {
    "Selu": lambda x: 1.05070102214813232421875 * elu(x, 1.67326319217681884765625),
    "Celu": lambda x: elu(x, 1),
    "ThresholdedRelu": lambda x: np.where(x > 1, x, 0),
    "Shrink": lambda x: shrink(x, 0.5, 0),
}


@pytest.mark.parametrize("op_type", CASES)
def test_formulas_are_right_to_the_last_digits(op_type):
    attributes, compute = CASES[op_type]
    x = X.astype(np.float32)
    computes(op_type, x, wanted=compute(x.astype(np.float64)).astype(np.float32), rtol=1e-6, atol=3e-7, **attributes)


@pytest.mark.parametrize("op_type", DEFAULTS)
def test_defaults_are_the_standards(op_type):
    x = X.astype(np.float32)
    computes(op_type, x, wanted=DEFAULTS[op_type](x.astype(np.float64)).astype(np.float32), rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("op_type", ["Softplus", "Mish"])
def test_small_results_keep_their_digits(op_type):
    x = np.array([-80, -40, -20, -10], np.float32)
    exact = CASES[op_type][1](x.astype(np.float64)).astype(np.float32)
    computes(op_type, x, wanted=exact, rtol=2e-6, torch=op_type == "Softplus")


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("op_type", CASES)
def test_any_layout(op_type, last):
    assert lowered(single(op_type, (1, 3, 4, 5), **CASES[op_type][0]), last=last).errors["y0"] < 2e-6


@pytest.mark.parametrize("op_type", ["Selu", "Celu", "Elu"])
def test_scaled_elus_run_in_integers(op_type):
    found = lowered(single(op_type, (1, 3, 4, 5), **CASES[op_type][0]), "int8")
    assert ("ELU", 1) in builtins(found)
    assert found.steps["y0"] < 4


@pytest.mark.parametrize("op_type", ["Softplus", "Softsign", "Mish", "ThresholdedRelu", "Shrink", "Hardmax"])
def test_the_others_stay_float_and_say_why(op_type):
    node = node_of(single(op_type, (1, 3)))
    with pytest.raises(Refused) as refused:
        operator_of(node).quantize(node)
    assert op_type in refused.value.reason
    assert lowered(single(op_type, (1, 3, 4)), "int8").errors["y0"] < 2e-6


def test_celu_needs_a_positive_alpha():
    assert refusals("Celu", np.ones(3, np.float32), alpha=-1.0) == [
        "the alpha of Celu is greater than 0: otherwise it is no scaled ELU"
    ]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_hardmax_marks_the_first_of_the_greatest(axis):
    x = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.float32)
    first = np.expand_dims(x.argmax(axis), axis)
    wanted = np.zeros_like(x)
    np.put_along_axis(wanted, first, 1, axis)
    computes("Hardmax", x, wanted=wanted, axis=axis)


def test_hardmax_ties_no_channels():
    assert "couple" in FACETS
    node = node_of(single("Hardmax", (1, 3)))
    with pytest.raises(Refused, match="compares the channels"):
        operator_of(node).couple(node)


def test_the_mean_of_any_number_of_tensors():
    x, y, z = (np.array(values, np.float32) for values in ([1, 2], [3, 5], [8, 9.5]))
    computes("Mean", x, wanted=x)
    computes("Mean", x, y, z, wanted=(x + y + z) / np.float32(3), rtol=2e-7)
