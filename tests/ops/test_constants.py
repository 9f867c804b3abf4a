import numpy as np
import onnx
import pytest
from typed_bench import Fixed, everywhere, refusals, values


@pytest.mark.parametrize("attributes", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 2}])
def test_shape(attributes):
    everywhere("Shape", values("float32", 2, 3, 4), **attributes)


def test_size():
    everywhere("Size", values("float32", 2, 3, 4))


@pytest.mark.parametrize("value", [None, np.asarray([3], np.int64), np.asarray([-0.5], np.float32)])
def test_constant_of_shape(value):
    attributes = {} if value is None else {"value": onnx.numpy_helper.from_array(value)}
    everywhere("ConstantOfShape", Fixed([2, 3]), **attributes)


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_eye_like(k):
    everywhere("EyeLike", values("float32", 3, 4), k=k)
    everywhere("EyeLike", values("int32", 3, 4), k=k, dtype=int(onnx.TensorProto.FLOAT))


@pytest.mark.parametrize("bounds", [(0, 5, 1), (10, 3, -2), (0.5, 2.0, 0.25)])
def test_range(bounds):
    dtype = np.float32 if any(isinstance(bound, float) for bound in bounds) else np.int64
    everywhere("Range", *(Fixed(bound, dtype) for bound in bounds))


@pytest.mark.parametrize(
    ("op_type", "reason"), [("Det", "no TFLite kernel"), ("NonZero", "depends on data"), ("Unique", "depends on data")]
)
def test_what_no_static_graph_holds_is_refused_with_a_reason(op_type, reason):
    assert reason in refusals(op_type, values("float32", 3, 3))[0]
