"""The ONNX writer: names, forms and bytes, and what onnxruntime makes of them."""

import collections

import numpy as np
import onnx
import pytest

from diagnostics import ModelError
from exporter.backends.onnx.qdq import shifted
from exporter.backends.onnx.writer import write_onnx
from exporter.graph.run import FloatRunner
from exporter.quantization.plan import Encoding
from exporter.quantization.planner import float_plan
from tests.quantization.planned import network, planned, residual_net, run, samples, session, sqnr, target

SCHEMES = {
    "uint8": {"activations": "uint8"},
    "int8": {"activations": "int8"},
    "int8-symmetric": {"activations": "int8", "activations_symmetric": True},
    "per-tensor": {"activations": "uint8", "per_channel": False},
    "float-biases": {"activations": "int8", "activations_symmetric": True, "biases": "float32"},
    "power-of-two": {"activations": "int8", "scales": "power_of_two"},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_loads_and_is_close_to_float(scheme):
    model = residual_net()
    for_target = target(**SCHEMES[scheme])
    content = write_onnx(model, planned(model, for_target), for_target)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    wanted, found = [], []
    for sample in samples(model, 8, seed=3):
        wanted.append(FloatRunner(model)(sample)["y"])
        found.append(run(content, sample)["y"])
    assert sqnr(np.asarray(wanted), np.asarray(found)) > 25


def test_uint8_and_int8_are_the_same_integer_model():
    model = residual_net()
    signed, unsigned = target(activations="int8"), target(activations="uint8")
    plan = planned(model, signed)
    assert plan == planned(model, unsigned)
    step = plan.encodings["y"].scale[0]
    for sample in samples(model, 4, seed=4):
        first, second = (run(write_onnx(model, plan, t), sample)["y"] for t in (signed, unsigned))
        assert np.abs(first - second).max() <= step * 1.001


def test_symmetric_with_float_biases_has_neither_zero_points_nor_int32():
    """What TensorRT's parser reads: int8 at zero point 0 behind every pair; a DequantizeLinear of int32 it refuses."""
    model = residual_net()
    for_target = target(activations="int8", activations_symmetric=True, biases="float32")
    plan = planned(model, for_target)
    graph = onnx.load_from_string(write_onnx(model, plan, for_target)).graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = constants[node.input[2]]
        assert (zero_point.dtype, zero_point.any()) == (np.int8, False)
        assert constants.get(node.input[0], zero_point).dtype == np.int8
    biases = [node.input[2] for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert biases
    assert all(constants[name].dtype == np.float32 for name in biases)


def test_float_biases_are_the_numbers_that_the_integers_stand_for():
    model = residual_net()
    whole, floats = target(activations="int8"), target(activations="int8", biases="float32")
    plan = planned(model, whole)
    step = plan.encodings["y"].scale[0]
    for sample in samples(model, 4, seed=4):
        first, second = (run(write_onnx(model, plan, t), sample)["y"] for t in (whole, floats))
        assert np.abs(first - second).max() <= step * 1.001


def test_onnxruntime_runs_it_in_integers(tmp_path):
    """Each kernel is fused with what stands around it; only the graph's own ends are rounded and widened.

    So for uint8. Of int8 activations onnxruntime (1.31, x86) turns some pairs into uint8 and others not, and leaves kernels between the
    two in float: they compute the same (see above), but slower. That is why the profile of x86 says uint8.
    """
    model = residual_net()
    for_target = target(activations="uint8")
    optimized = tmp_path / "optimized.onnx"
    session(write_onnx(model, planned(model, for_target), for_target), str(optimized))
    kinds = collections.Counter(node.op_type for node in onnx.load(optimized).graph.node)
    assert kinds["QLinearConv"] == 3
    assert kinds["QLinearAdd"] == kinds["QLinearGlobalAveragePool"] == kinds["QGemm"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "Clip"} & set(kinds)
    assert kinds["QuantizeLinear"] + kinds["DequantizeLinear"] <= 2


def test_values_are_named_after_what_they_round():
    model = residual_net()
    graph = onnx.load_from_string(write_onnx(model, planned(model), target())).graph
    names = {name for node in graph.node for name in node.output}
    assert {"x_quantized", "x_dequantized", "y_quantized", "y_float", "y"} <= names
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [name for name, kind in stored.items() if kind == onnx.TensorProto.INT8 and name.endswith("_quantized")]
    assert len(weights) == 4
    by_output = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Clip", "Relu"):
            assert by_output[node.input[0]].op_type == "Conv"


@pytest.mark.parametrize("io_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_integers_in_and_out(io_dtype, activations):
    model = residual_net()
    for_target = target(io_dtype=io_dtype, activations=activations)
    plan = planned(model, for_target)
    content = write_onnx(model, plan, for_target)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    floating = target(activations=activations)
    inputs, outputs = (shifted(plan.encodings[name], io_dtype) for name in ("x", "y"))
    for sample in samples(model, 4, seed=6):
        found = run(content, {"x": inputs.quantize(sample["x"])})["y"]
        assert found.dtype == io_dtype
        wanted = run(write_onnx(model, planned(model, floating), floating), sample)["y"]
        np.testing.assert_allclose(outputs.dequantize(found), wanted, rtol=0, atol=1e-6)


def test_a_requantized_input_goes_through_its_own_pair():
    model = network(
        "a = Conv (x, w, b)  s = Sigmoid (x)  c = Concat <axis = 1> (a, s)  y = MaxPool <kernel_shape = [2, 2]> (c)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,5,3,3] y",
        w=(2, 3, 1, 1),
        b=(2,),
    )
    content = write_onnx(model, planned(model), target())
    concat = next(node for node in onnx.load_from_string(content).graph.node if node.op_type == "Concat")
    assert concat.input[0] == "a_dequantized"
    assert concat.input[1].startswith("s_for_")
    sample = next(iter(samples(model)))
    assert sqnr(FloatRunner(model)(sample)["y"], run(content, sample)["y"]) > 30


@pytest.mark.parametrize("precision", ["int8", "float32", "float16"])
def test_the_bytes_are_the_same_each_time_and_name_no_machine(precision):
    model = residual_net()
    node = model.graph[0]
    node.metadata_props["pkg.torch.onnx.stack_trace"] = 'File "/home/someone/secret.py", line 1'
    node.doc_string = "secret"
    for_target = target(precision=precision)
    plan = planned(model) if precision == "int8" else float_plan(model, for_target)
    contents = {write_onnx(model, plan, for_target) for _ in range(3)}
    assert len(contents) == 1
    assert b"secret" not in contents.pop()
    assert node.doc_string == "secret"  # the model itself is left as it was
    del node.metadata_props["pkg.torch.onnx.stack_trace"]
    node.doc_string = None


def test_float32_is_exact_and_float16_close():
    model = residual_net()
    sample = next(iter(samples(model)))
    wanted = FloatRunner(model)(sample)["y"]
    np.testing.assert_allclose(
        run(write_onnx(model, float_plan(model, target(precision="float32")), target()), sample)["y"],
        wanted,
        rtol=1e-6,
        atol=1e-6,
    )
    half = target(precision="float16")
    content = write_onnx(model, float_plan(model, half), half)
    assert sqnr(wanted, run(content, sample)["y"]) > 50
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_a_float_only_input_stays_float_in_a_float16_graph():
    model = network(
        "y = Resize <mode = 'linear'> (x, , r)".replace("'", '"'),
        inputs="float[1,2,4,4] x",
        outputs="float[1,2,8,8] y",
        r=np.array([1, 1, 2, 2], np.float32),
    )
    half = target(precision="float16")
    content = write_onnx(model, float_plan(model, half), half)
    sample = next(iter(samples(model)))
    assert sqnr(FloatRunner(model)(sample)["y"], run(content, sample)["y"]) > 50


@pytest.mark.parametrize(("value", "fits"), [(7e4, False), (-3.4e38, True), (6e4, True)])
def test_float16_refuses_what_it_cannot_hold_and_clamps_what_stands_for_infinity(value, fits):
    model = network("y = Mul (x, k)", inputs="float[1,2] x", outputs="float[1,2] y", k=np.array([[value, 1]], np.float32))
    half = target(precision="float16")
    if fits:
        run(write_onnx(model, float_plan(model, half), half), {"x": np.ones((1, 2), np.float32)})
        return
    with pytest.raises(ModelError, match=r"k \(up to 70000\)") as error:
        write_onnx(model, float_plan(model, half), half)
    assert error.value.code == "EW-Q004"


def test_uint8_means_the_same_numbers():
    encoding = Encoding("int8", (0.5,), (-3,))
    array = np.linspace(-70, 70, 57, dtype=np.float32)
    other = shifted(encoding, "uint8")
    assert (other.dtype, other.zero_point) == ("uint8", (125,))
    np.testing.assert_array_equal(encoding.dequantize(encoding.quantize(array)), other.dequantize(other.quantize(array)))
    assert shifted(other, "int8") == encoding


def test_a_constant_that_is_called_as_an_encodings_scale_is_not_taken_for_it():
    """``y_scale`` is a weight of the model, and what we call the scale of ``y``."""
    net = network(
        "y = Mul (x, y_scale)", inputs="float[1,3,4,4] x", outputs="float[1,3,4,4] y", y_scale=np.float32([[[2]], [[3]], [[5]]])
    )
    content = write_onnx(net, planned(net), target())
    (sample,) = samples(net, 1)
    assert sqnr(FloatRunner(net)(sample)["y"], run(content, sample)["y"]) > 30
