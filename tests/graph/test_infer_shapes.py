import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.graph.infer_shapes import infer_shapes


def inferred(op_type, shape, *constants, opset=21, **attributes):
    names = [f"c{index}" for index in range(len(constants))]
    proto = helper.make_graph(
        [helper.make_node(op_type, ["x", *names], ["y"], name="node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(array), name) for array, name in zip(constants, names, strict=True)],
    )
    model = ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))
    infer_shapes(model)
    assert model.opset_imports[""] == opset
    assert set(model.graph.node("node").attributes) == set(attributes)  # what inference was shown is not what the model says
    return list(model.graph.outputs[0].shape)


def test_a_transform_is_one_sided_unless_it_says_otherwise():
    assert inferred("STFT", (1, 128), np.int64(8), np.ones(16, np.float32)) == [1, 15, 9, 2]
    assert inferred("STFT", (1, 128), np.int64(8), np.ones(16, np.float32), onesided=0) == [1, 15, 16, 2]


def test_the_default_axes_of_a_definition_are_known():
    assert inferred("MeanVarianceNormalization", (2, 3, 4, 5)) == [2, 3, 4, 5]


@pytest.mark.parametrize("opset", [19, 21, 22])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_windows_behind_the_input_do_not_count(op_type, opset):
    """As onnxruntime has it at every opset."""
    form = {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1]}
    assert inferred(op_type, (1, 1, 2, 2), opset=opset, ceil_mode=1, **form) == [1, 1, 1, 1]
    assert inferred(op_type, (1, 1, 6, 9), opset=opset, ceil_mode=1, **form) == [1, 1, 3, 4]


def test_a_matrix_of_indices_plus_a_vector_keeps_its_shape():
    """What onnx carries along of small integer tensors it takes for vectors, and refuses to add one of 7 to one of 10."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[7] x) => (int64[7, 10] y) {
        column = Unsqueeze (seven, last)
        y = Add (column, row)
        }"""
    )
    for name, array in (("seven", np.arange(7)), ("last", np.array([-1])), ("row", np.arange(10))):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    infer_shapes(model)
    assert list(model.graph.outputs[0].shape) == [7, 10]
