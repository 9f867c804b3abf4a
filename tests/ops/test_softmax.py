import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, single

from exporter.ops.base import Cost, Port, operator_of

FORMS = [((2, 5), 1), ((1, 4, 5), 1), ((1, 4, 5), 2), ((1, 3, 4, 5), 1), ((1, 3, 4, 5), 2), ((1, 3, 4, 5), -1), ((6,), 0)]


@pytest.mark.parametrize(("shape", "axis"), FORMS, ids=str)
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_torch_computes_what_onnx_says(op_type, shape, axis):
    assert_torch_computes_it(single(op_type, shape, axis=axis))


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_the_default_axis_is_the_last(op_type):
    assert_torch_computes_it(single(op_type, (2, 3, 4)))


@pytest.mark.parametrize(("shape", "axis"), FORMS, ids=str)
@pytest.mark.parametrize(("op_type", "builtin"), [("Softmax", "SOFTMAX"), ("LogSoftmax", "LOG_SOFTMAX")])
def test_float_kernel_computes_it_along_each_axis(op_type, builtin, shape, axis):
    found = lowered(single(op_type, shape, axis=axis))
    between = axis == 2 and len(shape) == 4
    assert [name for name, _ in found.operators] == (["TRANSPOSE", builtin, "TRANSPOSE"] if between else [builtin])
    assert found.errors["y0"] < 5e-6


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize(("op_type", "builtin"), [("Softmax", "SOFTMAX"), ("LogSoftmax", "LOG_SOFTMAX")])
def test_int8_kernel_computes_it(op_type, builtin, axis):
    found = lowered(single(op_type, (1, 3, 4, 5), axis=axis), "int8")
    assert (builtin, 2) in builtins(found)
    # Inputs are rounded to steps of 8/255: probabilities move by at most a quarter of that twice, 4 of 256; logarithms by twice half.
    assert found.steps["y0"] < (5 if op_type == "Softmax" else 1.6)


def test_a_middle_axis_is_brought_to_the_end_and_back():
    model = single("Softmax", (1, 3, 4, 5), axis=2)
    assert assert_legalized(model) == ["Transpose", "Softmax", "Transpose"]
    assert assert_legalized(model, "onnx") == ["Softmax"]


def test_the_channel_axis_is_last_when_channels_are():
    layouts = {
        axis: operator_of(node).layout(node) for axis in (1, 3) for node in [node_of(single("Softmax", (1, 3, 4, 5), axis=axis))]
    }
    assert (layouts[1].inputs, layouts[1].outputs) == ((Port.LAST,), (Port.LAST,))
    assert (layouts[3].inputs, layouts[3].outputs) == ((Port.FIRST,), (Port.FIRST,))


def test_output_encodings_are_those_that_tflite_fixes():
    rules = [
        operator_of(node).quantize(node).outputs[0] for node in (node_of(single(op, (2, 5))) for op in ("Softmax", "LogSoftmax"))
    ]
    assert [(rule.kind, rule.scale, rule.zero_point) for rule in rules] == [("fixed", 1 / 256, -128), ("fixed", 16 / 256, 127)]


def test_the_axis_that_it_sums_over_stays_whole():
    node = node_of(single("Softmax", (1, 3, 4, 5), axis=1))
    coupling = operator_of(node).couple(node)
    assert [(run.side, run.axis, run.count) for run in coupling.blocked] == [("in", 1, 3), ("out", 1, 3)]
    assert sorted({run.axis for tie in coupling.ties for run in tie}) == [2, 3]
    assert operator_of(node).cost(node) == Cost(elementwise=5 * 60)


def test_probabilities_sum_to_one():
    from op_bench import sample, torch_outputs

    model = single("Softmax", (2, 3, 4), axis=1)
    np.testing.assert_allclose(torch_outputs(model, sample(model))[0].sum(1), 1, rtol=1e-6)
