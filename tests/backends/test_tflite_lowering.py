"""What a node is given of its constants: in the axis order that its port wants."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter import convert


@pytest.mark.parametrize("perm", [(0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_a_constant_that_legalizing_transposes_is_not_mistaken_for_one_in_another_order(tmp_path, perm):
    """An einsum with a constant table becomes a product with a transposed constant: relative positions of an attention."""
    table = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)  # h, k, c
    graph = helper.make_graph(
        [
            helper.make_node("Einsum", ["x", "t"], ["y"], equation="bhwc,hkc->bhwk"),
            helper.make_node("Transpose", ["t"], ["moved"], perm=perm),
            helper.make_node("Mul", ["moved", "s"], ["z"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 5]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 6, 3]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [table.shape[axis] for axis in perm]),
        ],
        [numpy_helper.from_array(table, "t")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    done = convert(tmp_path / "m.onnx", tmp_path / "m.tflite")
    assert done.sqnr_db is None or done.sqnr_db > 100
