import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, single

from exporter.ops.activations import clip_bounds
from exporter.ops.base import Cost, Port, Refused, Role, operator_of

SHAPES = [(2, 3), (1, 4, 5), (1, 3, 4, 5), (1, 2, 3, 2, 2)]


def number(value):
    return np.asarray(value, np.float32)


CASES = {
    "Relu": single("Relu", (1, 3, 4, 5)),
    "Relu6": single("Clip", (1, 3, 4, 5), number(0), number(6)),
    "Relu1": single("Clip", (1, 3, 4, 5), number(-1), number(1)),
    "LeakyRelu": single("LeakyRelu", (1, 3, 4, 5), alpha=0.2),
    "PRelu": single("PRelu", (1, 3, 4, 5), np.array([0.1, -0.5, 0.9], np.float32).reshape(3, 1, 1)),
    "Sigmoid": single("Sigmoid", (1, 3, 4, 5)),
    "Tanh": single("Tanh", (1, 3, 4, 5)),
    "HardSwish": single("HardSwish", (1, 3, 4, 5)),
    "Elu": single("Elu", (1, 3, 4, 5)),
    "Gelu": single("Gelu", (1, 3, 4, 5)),
    "GeluTanh": single("Gelu", (1, 3, 4, 5), approximate="tanh"),
}

# (version in float, version in int8, steps of the output's scale that int8 may be off: one rounding of the input and one of the output)
VERSIONS = {
    "Relu": ("RELU", 1, 2),
    "Relu6": ("RELU6", 1, 2),
    "Relu1": ("RELU_N1_TO_1", 1, 1),
    "LeakyRelu": ("LEAKY_RELU", 1, 1),
    "PRelu": ("PRELU", 1, 1),
    "Sigmoid": ("LOGISTIC", 1, 2),
    "Tanh": ("TANH", 1, 2),
    "HardSwish": ("HARD_SWISH", 1, 1),
    "Elu": ("ELU", 1, 1),
    "Gelu": ("GELU", 1, 2),
    "GeluTanh": ("GELU", 1, 2),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 0.1666667, "beta": 0.5}),
        ("HardSwish", {}),
        ("Elu", {"alpha": 0.5}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
    ],
    ids=str,
)
def test_torch_computes_what_onnx_says(op_type, attributes, shape):
    assert_torch_computes_it(single(op_type, shape, **attributes))


@pytest.mark.parametrize("slope", [(3, 1, 1), (1, 3, 1, 1), (1,), (5,), (1, 3, 4, 5)], ids=str)
def test_prelu_broadcasts_its_slope(slope):
    slope = np.random.default_rng(0).uniform(-1, 1, slope).astype(np.float32)
    assert_torch_computes_it(single("PRelu", (2, 3, 4, 5), slope))


@settings(max_examples=25, deadline=None)
@given(st.one_of(st.none(), st.floats(-3, 3, width=32)), st.one_of(st.none(), st.floats(-3, 3, width=32)))
def test_clip_with_any_bounds_is_exact_in_torch_and_legalized(low, high):
    bounds = [None if bound is None else number(bound) for bound in (low, high)]
    model = single("Clip", (1, 3, 4), *bounds)
    assert_torch_computes_it(model, atol=0)
    assert "Clip" not in assert_legalized(model, atol=0) or operator_of(node_of(model)).activation(node_of(model)) != "NONE"


def test_clip_names_the_clamps_that_kernels_have():
    def name(*bounds):
        node = node_of(single("Clip", (1, 3), *bounds))
        return operator_of(node).activation(node)

    assert name(number(0), number(6)) == "RELU6"
    assert name(number(-1), number(1)) == "RELU_N1_TO_1"
    assert name(number(0)) == name(number(0), number(np.finfo(np.float32).max)) == "RELU"
    assert name(number(0), number(5)) == "NONE"
    assert name() == "NONE"


def test_computed_bounds_are_no_numbers_but_clamp_as_well():
    model = single("Clip", (1, 3), None, ())
    with pytest.raises(Refused, match="bound x2 of Clip is computed"):
        clip_bounds(node_of(model))
    assert assert_legalized(model) == ["Min"]
    assert lowered(model).errors["y0"] == 0


def test_clip_becomes_max_then_min():
    assert assert_legalized(single("Clip", (1, 3), number(-2), number(3))) == ["Max", "Min"]
    assert assert_legalized(single("Clip", (1, 3), None, number(3))) == ["Min"]
    assert assert_legalized(single("Clip", (1, 3), number(-2), number(3)), "onnx") == ["Clip"]


@pytest.mark.parametrize(
    ("alpha", "beta", "becomes"),
    [(1 / 6, 0.5, ["Add", "Clip", "Mul"]), (0.2, 0.5, ["Mul", "Add", "Clip", "Mul"]), (-0.4, 0.1, ["Mul", "Add", "Clip", "Mul"])],
)
def test_hard_sigmoid_becomes_a_clamp_to_6(alpha, beta, becomes):
    model = single("HardSigmoid", (1, 3, 5, 7), alpha=alpha, beta=beta)
    assert assert_legalized(model) == becomes
    assert assert_legalized(model, "onnx") == ["HardSigmoid"]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", CASES)
def test_float_kernel_computes_it(name, last):
    found = lowered(CASES[name], last=last)
    builtin, version, _ = VERSIONS[name]
    assert found.operators == [(builtin, version)]
    assert found.errors["y0"] < 1e-5


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", CASES)
def test_int8_kernel_computes_it(name, last):
    found = lowered(CASES[name], "int8", last=last)
    builtin, _, version = VERSIONS[name]
    kernels = [entry for entry in found.operators if entry[0] not in ("QUANTIZE", "DEQUANTIZE")]
    if name in ("Relu", "Relu6"):  # the output's encoding clamps by itself: requantizing is all that is left
        assert not kernels
        assert len(found.operators) == 3
    else:
        assert kernels == [(builtin, version)]
    # Rounding of the input (half a step, times a slope of at most 1.13 and the ratio of the scales, below 2), of the output (half a step),
    # and of the kernel's own arithmetic (one step).
    assert found.steps["y0"] < 2.7


def test_outputs_of_saturating_kernels_have_the_encodings_that_tflite_fixes():
    rule = operator_of(node_of(CASES["Sigmoid"])).quantize(node_of(CASES["Sigmoid"]))
    assert (rule.outputs[0].kind, rule.outputs[0].scale, rule.outputs[0].zero_point) == ("fixed", 1 / 256, -128)
    rule = operator_of(node_of(CASES["Tanh"])).quantize(node_of(CASES["Tanh"]))
    assert (rule.outputs[0].kind, rule.outputs[0].scale, rule.outputs[0].zero_point) == ("fixed", 1 / 128, 0)


def test_bounds_of_clip_are_never_encoded():
    node = node_of(CASES["Relu6"])
    assert [rule.role for rule in operator_of(node).quantize(node).inputs] == [Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER]


def test_activations_take_either_layout_and_tie_channels():
    node = node_of(CASES["PRelu"])
    operator = operator_of(node)
    assert operator.layout(node).inputs[0] is operator.layout(node).outputs[0] is Port.NODE
    channels = operator.couple(node).ties[0]
    assert [(run.side, run.index, run.axis, run.count) for run in channels] == [
        ("in", 0, 1, 3),
        ("in", 1, 0, 3),
        ("out", 0, 1, 3),
    ]
    assert operator.cost(node) == Cost(elementwise=60)


def test_elu_of_another_alpha_is_rejected_for_tflite():
    node = node_of(single("Elu", (1, 3), alpha=0.5))
    assert [rule.sentence for rule in operator_of(node).constraints if not rule.holds(node)] == ["The alpha of Elu is 1."]


@pytest.mark.parametrize("slope", [np.array([0.25]), np.array([[-1.5]]), np.array(2.0)])
def test_prelu_of_one_slope_is_a_leaky_relu(slope):
    """XNNPACK of TFLite 2.14 reads as many slopes as there are channels, whatever the tensor holds."""
    model = single("PRelu", (1, 3, 4), slope.astype(np.float32))
    assert assert_legalized(model) == ["LeakyRelu"]
    assert assert_legalized(model, "onnx") == ["PRelu"]
