"""The float graph in this process: intermediate values, inputs handed through, and refusals in our own words."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from diagnostics import RuntimeFailure
from exporter.graph.run import FloatRunner, observed_values


def model(op_type: str = "Relu") -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, [1, 3])
    inner = ir.node(op_type, inputs=[x], name="inner")
    outer = ir.node("Neg", inputs=[inner.outputs[0]], name="outer")
    for value, name in ((inner.outputs[0], "a"), (outer.outputs[0], "y")):
        value.name, value.shape, value.type = name, ir.Shape([1, 3]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [outer.outputs[0]], nodes=[inner, outer], opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def test_any_value_can_be_asked_for_inputs_too():
    sample = {"x": np.array([[-1, 0, 2]], np.float32)}
    found = FloatRunner(model(), ["x", "a", "y"])(sample)
    np.testing.assert_array_equal(found["x"], sample["x"])
    np.testing.assert_array_equal(found["a"], [[0, 0, 2]])
    np.testing.assert_array_equal(found["y"], [[0, 0, -2]])
    assert observed_values(model()) == ("x", "a", "y")


def test_inputs_alone_need_no_session():
    sample = {"x": np.ones((1, 3), np.float32)}
    assert FloatRunner(model("NoSuchOperator"), ["x"])(sample).keys() == {"x"}


def test_what_onnxruntime_lacks_is_an_error_of_ours():
    with pytest.raises(RuntimeFailure) as caught:
        FloatRunner(model("NoSuchOperator"))
    assert caught.value.code == "EW-R002"
    assert "NoSuchOperator" in caught.value.why


def test_padding_in_front_of_a_smaller_window_runs():
    """onnxruntime's optimizer would move it into the pool, and then refuse the pool."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[1,2,5,5] x) => (float[1,2,3,3] y) {
        p = Pad (x, pads)
        y = AveragePool <kernel_shape = [1, 1], strides = [2, 2]> (p)
        }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, -1, -1, 0, 0, 1, 1]), "pads"))
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 5)).astype(np.float32)
    shifted = np.pad(x[:, :, 1:, 1:], ((0, 0), (0, 0), (0, 1), (0, 1)))
    np.testing.assert_array_equal(FloatRunner(ir.from_proto(proto))({"x": x})["y"], shifted[:, :, ::2, ::2])


def test_int8_encodings_in_front_of_what_only_moves_entries_run():
    """onnxruntime's optimizer would write int8 encodings behind it as well, make both uint8, and then refuse its own type of the second."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x) => (float[3,2] y)
        <float s = {0.5}, int8 z = {3}> {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        t = Transpose (d)
        y = Exp (t)
        }"""
    )
    x = np.array([[0.5, 1.0, 1.5], [2.0, 2.5, 3.0]], np.float32)
    np.testing.assert_allclose(FloatRunner(ir.from_proto(proto))({"x": x})["y"], np.exp(x.T), rtol=1e-6)
