"""What ESP-PPQ is given of an artifact: a float model and encodings, which together are the artifact; and what of it is refused, by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from exporter.backends.onnx.writer import write_onnx
from exporter.runtimes.espdl_form import Encoding, float_form, packed, refusals
from targets import load_target
from tests.quantization.planned import network, planned, residual_net, run, samples

S3, P4 = load_target("esp32-s3-espdl"), load_target("esp32-p4")


def artifact(model, target=P4) -> onnx.ModelProto:
    return onnx.load_from_string(write_onnx(model, planned(model, target), target))


def simulated(form, feed) -> dict[str, np.ndarray]:
    """The float form with every value rounded where its encodings say, by numpy."""
    from onnx.reference import ReferenceEvaluator

    def rounded(array, encoding):
        assert encoding.axis is None
        return (np.clip(np.rint(array / encoding.scales[0]), -128, 127) * encoding.scales[0]).astype(np.float32)

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in form.model.graph.initializer} | dict(feed)
    for node in form.model.graph.node:
        given = {}
        for index, name in enumerate(node.input):
            encoding = form.reads.get((node.name, index))
            constant = (node.name, index) in form.constants
            given[f"i{index}"] = values[name] if encoding is None or constant else rounded(values[name], encoding)
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        del alone.input[:]
        alone.input.extend(given)
        shapes = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in given.items()
        ]
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output]
        graph = onnx.helper.make_graph([alone], "one", shapes, outputs)
        model = onnx.helper.make_model(graph, opset_imports=form.model.opset_import, ir_version=10)
        for index, (name, array) in enumerate(zip(node.output, ReferenceEvaluator(model).run(None, given), strict=True)):
            encoding = form.writes.get((node.name, index))
            values[name] = array if encoding is None else rounded(array, encoding)
    return {value.name: values[value.name] for value in form.model.graph.output}


@pytest.mark.parametrize("target", [S3, P4])
def test_form_and_encodings_are_the_artifact_to_the_last_bit(target):
    model = residual_net()
    plan = planned(model, target)
    content = write_onnx(model, plan, target)
    form = float_form(onnx.load_from_string(content))
    onnx.checker.check_model(form.model)
    assert not {node.op_type for node in form.model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert refusals(form, "esp32s3" if target is S3 else "esp32p4") == []
    for sample in samples(model, 3, seed=5):
        np.testing.assert_array_equal(simulated(form, sample)["y"], run(content, sample)["y"])
    borders = {name: 2.0 ** encoding.exponents[0] for name, encoding in form.borders.items()}
    assert borders == {name: plan.encodings[name].scale[0] for name in ("x", "y")}


def test_what_only_a_clamp_reads_has_the_clamps_encoding():
    form = float_form(artifact(residual_net()))
    conv, clamp = form.model.graph.node[:2]
    assert (conv.op_type, clamp.op_type) == ("Conv", "Clip")
    assert form.writes[conv.name, 0] == form.reads[clamp.name, 0] == form.writes[clamp.name, 0]


def test_a_value_that_is_read_in_other_steps_keeps_its_own():
    model = network("s = Sigmoid (x)  y = Concat <axis = 1> (x, s)", inputs="float[1,3,4,4] x", outputs="float[1,6,4,4] y")
    form = float_form(artifact(model))
    sigmoid, concat = form.model.graph.node
    assert form.writes[sigmoid.name, 0] != form.reads[concat.name, 1] == form.writes[concat.name, 0]


def test_attributes_are_those_of_onnx_where_a_node_leaves_them_out():
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,4] x) => (float[1,1,4] y)
        <float step = {0.5}, int8 zero = {0}, int64[1] axes = {1}> {
          q = QuantizeLinear (x, step, zero)  d = DequantizeLinear (q, step, zero)  m = ReduceMax (d, axes)
          r = QuantizeLinear (m, step, zero)  y = DequantizeLinear (r, step, zero)
        }"""
    )
    (node,) = float_form(proto).model.graph.node
    assert {entry.name: entry.i for entry in node.attribute} == {"keepdims": 1, "noop_with_empty_axes": 0}


def qdq(step: float, zero: int, dtype: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[4] x) => (float[4] y)
        <float step = {{{step}}}, {dtype} zero = {{{zero}}}> {{
          q = QuantizeLinear (x, step, zero)  d = DequantizeLinear (q, step, zero)  a = Relu (d)
          r = QuantizeLinear (a, step, zero)  y = DequantizeLinear (r, step, zero)
        }}"""
    )


def test_encodings_that_esp_dl_has_are_taken():
    assert set(float_form(qdq(0.125, 0, "int8")).reads.values()) == {Encoding("int8", (-3,))}


@pytest.mark.parametrize(("step", "zero", "dtype"), [(0.1, 0, "int8"), (0.5, 3, "int8"), (0.5, 128, "uint8")])
def test_others_are_refused_with_what_they_are(step, zero, dtype):
    with pytest.raises(ValueError, match=rf"^x is {dtype} at zero point {zero} in steps of {step:g}"):
        float_form(qdq(step, zero, dtype))


def test_integers_at_the_border_are_refused():
    whole = P4.model_copy(update={"artifact": P4.artifact.model_copy(update={"io_dtype": "int8"})})
    with pytest.raises(ValueError, match=r"^x is int8: "):
        float_form(artifact(residual_net(), whole))


def test_another_chip_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="no target esp32c3; there are esp32s3, esp32p4"):
        refusals(float_form(artifact(residual_net())), "esp32c3")


def test_a_bias_beyond_float32_is_refused():
    model = artifact(residual_net())
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1_quantized")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, 2**25 + 1, np.int32), bias.name))
    with pytest.raises(ValueError, match=r"^b1_quantized holds integers of more than 24 bits"):
        float_form(model)


def changed(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(factor * numpy_helper.to_array(tensor)), name))
    return model


def test_a_bias_beyond_the_accumulators_is_refused_where_they_are_narrow():
    model = artifact(residual_net(), S3)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b4_quantized")
    bias.CopyFrom(numpy_helper.from_array(np.full(5, -(2**19), np.int32), bias.name))
    form = float_form(model)
    (refused,) = refusals(form, "esp32s3")
    assert "(Gemm): its bias does not fit the 20 bits" in refused
    assert refusals(form, "esp32p4") == []


def test_an_output_finer_than_its_products_is_refused():
    (refused,) = refusals(float_form(changed(artifact(residual_net(), S3), "y_scale", 2.0**-12)), "esp32s3")
    assert "(Gemm): its output has steps of 1/" in refused


def test_steps_that_esp_ppq_takes_for_one_are_refused():
    model = network("s = Sigmoid (x)  y = Concat <axis = 1> (x, s)", inputs="float[1,3,4,4] x", outputs="float[1,6,4,4] y")
    proto = artifact(model)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(np.float32(2.0**-14 * numpy_helper.to_array(tensor)), tensor.name))
    (refused,) = refusals(float_form(proto), "esp32p4")
    assert "(Concat): it reads s in other steps than it has" in refused


def test_a_node_that_runs_in_float_is_refused():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) { [the_node] y = Relu (x) }'
    )
    assert refusals(float_form(proto), "esp32p4") == ["the_node (Relu): it writes no integers, and this target has no float"]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_weights_lie_in_blocks_of_sixteen_channels(channels, inputs, height, width, depthwise):
    """Element by element, as ESP-DL's kernels count them."""
    inputs = 1 if depthwise else inputs
    weights = np.arange(channels * inputs * height * width).reshape(channels, inputs, height, width)
    found = iter(packed(weights, depthwise))
    whole = channels // 16 * 16
    for block in range(0, whole, 16):
        for y, x, c in np.ndindex(height, width, inputs):
            assert [next(found) for _ in range(16)] == weights[block : block + 16, c, y, x].tolist()
    if depthwise:
        rest = [weights[n, c, y, x] for c, y, x in np.ndindex(inputs, height, width) for n in range(whole, channels)]
    else:
        rest = [weights[n, c, y, x] for n in range(whole, channels) for y, x, c in np.ndindex(height, width, inputs)]
    assert list(found) == rest
