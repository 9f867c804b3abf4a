import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, sample, single

from exporter.ops.base import Refused, operator_of

UNARY = ["Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal"]


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4), (1, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("op_type", UNARY)
def test_torch_computes_what_onnx_says(op_type, shape):
    model = single(op_type, shape)
    low = -4.0 if op_type in ("Neg", "Abs", "Exp") else 0.25
    assert_torch_computes_it(model, sample(model, low=low))


@pytest.mark.parametrize("exponent", [2.0, 1.0, 0.5, 3.0, -1.5])
def test_pow_in_torch_and_legalized(exponent):
    model = single("Pow", (1, 3, 4), np.asarray(exponent, np.float32))
    feed = sample(model, low=0.25)
    assert_torch_computes_it(model, feed, atol=1e-5)
    expected = {3.0: ["Mul", "Mul"], 2.0: ["Mul"], 1.0: ["Identity"], 0.5: ["Sqrt"]}.get(exponent, ["Pow"])
    assert assert_legalized(model, feed=feed) == expected


def test_pow_that_broadcasts_its_base_stays():
    assert assert_legalized(single("Pow", (3, 4), np.full((1, 1, 1), 2, np.float32))) == ["Pow"]


def test_negation_is_a_factor_and_the_reciprocal_a_quotient():
    assert assert_legalized(single("Neg", (1, 3, 4)), atol=0) == ["Mul"]
    model = single("Reciprocal", (1, 3, 4))
    assert assert_legalized(model, feed=sample(model, low=0.25)) == ["Div"]
    assert assert_legalized(model, "onnx", feed=sample(model, low=0.25)) == ["Reciprocal"]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(
    ("op_type", "builtin"),
    [("Neg", "MUL"), ("Abs", "ABS"), ("Exp", "EXP"), ("Log", "LOG"), ("Sqrt", "SQRT"), ("Reciprocal", "DIV")],
)
def test_float_kernel_computes_it(op_type, builtin, last):
    model = single(op_type, (1, 3, 4, 5))
    found = lowered(model, last=last, feed=sample(model, low=0.25, high=2.0))
    assert found.operators == [(builtin, 1)]
    assert found.errors["y0"] < 2e-6


@pytest.mark.parametrize(("op_type", "builtin"), [("Neg", "MUL"), ("Abs", "ABS")])
def test_int8_kernel_computes_it(op_type, builtin):
    found = lowered(single(op_type, (1, 3, 4, 5)), "int8")
    assert builtins(found) == [(builtin, 2)]
    assert found.steps["y0"] < 2.1


@pytest.mark.parametrize("op_type", ["Exp", "Log", "Sqrt", "Reciprocal"])
def test_the_others_stay_float_and_say_why(op_type):
    node = node_of(single(op_type, (1, 3)))
    with pytest.raises(Refused, match=op_type):
        operator_of(node).quantize(node)
    model = single(op_type, (1, 3, 4))
    assert lowered(model, "int8", feed=sample(model, low=0.5, high=2.0)).errors["y0"] < 2e-6
