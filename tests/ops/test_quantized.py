"""Operators of quantized source models give the integers that onnxruntime gives."""

import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, shape_inference
from op_bench import TARGET, node_of, op_types, torch_outputs

from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.graph.passes import canonicalize
from exporter.graph.run import FloatRunner
from exporter.quantization.planner import float_plan


def node(op_type, *operands, **attributes):
    """One node and a sample: operands named ``x...`` are inputs, other arrays constants, None is absent. ``(name, array)`` each."""
    names = ["" if operand is None else operand[0] for operand in operands]
    feed = {name: array for name, array in filter(None, operands) if name.startswith("x")}
    feed = {name: np.asarray(array) for name, array in feed.items()}
    constants = {name: array for name, array in filter(None, operands) if name not in feed}
    proto = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], name="node", **attributes)],
        "bench",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return canonicalize(ir.from_proto(shape_inference.infer_shapes(model, strict_mode=True))), feed


def by_litert(model, feed):
    legal = legalize(model, "tflite")
    content = write_tflite(legal, assign(legal, float_plan(legal, TARGET), "keep")).content
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner()(**feed)["y"]


def check(model, feed):
    wanted, found = FloatRunner(model)(feed)["y"], by_litert(model, feed)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    return wanted


def integers(shape, dtype=np.uint8, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- QuantizeLinear and DequantizeLinear ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 10), st.sampled_from([np.int8, np.uint8, np.int16, np.uint16]), st.integers(0, 99))
def test_quantized_values_are_the_nearest_ties_to_even(scale, dtype, seed):
    """Any scale divides exactly as onnxruntime does: half steps lie on borders."""
    point = integers((), dtype, seed)
    x = np.concatenate([floats(200, seed=seed) * 300, np.arange(-20, 20) * np.float32(scale) / 2]).astype(np.float32)
    model, feed = node("QuantizeLinear", ("x", x), ("s", np.float32(scale)), ("z", np.asarray(point, dtype)))
    check(model, feed)


@pytest.mark.parametrize("point", [True, False], ids=["point", "no point"])
@pytest.mark.parametrize(("axis", "block"), [(None, 0), (0, 0), (1, 0), (-1, 0), (1, 2), (2, 3)])
def test_scales_lie_along_an_axis_or_in_blocks(axis, block, point):
    shape = (4, 6, 5)
    places = () if axis is None else (shape[axis],)
    if block:
        places = tuple(-(-length // block) if place == axis else length for place, length in enumerate(shape))
    attributes = {} if axis is None else {"axis": axis}
    attributes |= {"block_size": block} if block else {}
    scale = np.abs(floats(*places)) + np.float32(0.1)
    zero = ("z", integers(places, np.int8)) if point else None
    parameters = [("s", scale), *([zero] if zero else [])]
    check(*node("DequantizeLinear", ("x", integers(shape, np.int8)), *parameters, **attributes))
    given = attributes if point else {**attributes, "output_dtype": 3}  # INT8
    check(*node("QuantizeLinear", ("x", floats(*shape) * 50), *parameters, **given))


def test_large_integers_are_rounded_once():
    check(*node("DequantizeLinear", ("x", integers((50,), np.int32)), ("s", np.float32(0.3))))


def test_computed_scales_of_one_place_are_taken():
    x = np.float32([0.2])
    model, feed = node("QuantizeLinear", ("x", floats(20)), ("xs", x.reshape(())), ("z", np.uint8(3)))
    check(model, feed)


def test_computed_scales_of_several_places_are_refused():
    model, _ = node("QuantizeLinear", ("x", floats(3, 4)), ("xs", np.float32([1, 2, 3])), axis=0)
    (refused,) = unsupported(legalize(model, "tflite"), "lower")
    assert "computed scales" in refused.reason


def test_quantized_weights_are_constants_after_canonicalizing():
    model, _ = node("DequantizeLinear", ("w", integers((4, 3), np.int8)), ("s", np.float32(0.1)))
    assert op_types(model) == []


# --- products ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [False, True], ids=["one scale", "a scale a column"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("depth", [4, 700])
def test_a_quantized_product(depth, dtype, columns):
    """700 products of 8 bits need more than the 24 bits that float32 has."""
    places = (5,) if columns else ()
    model, feed = node(
        "QLinearMatMul",
        *(("x", integers((2, 3, depth), np.uint8)), ("as", np.float32(0.02)), ("az", np.uint8(130))),
        *(
            ("b", integers((depth, 5), dtype, 1)),
            ("bs", np.abs(floats(*places)) + np.float32(0.01)),
            ("bz", integers(places, dtype, 2)),
        ),
        *(("ys", np.float32(0.9)), ("yz", np.uint8(120))),
    )
    assert len(np.unique(check(model, feed))) > 3


WINDOWS = [{}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"dilations": [2, 2]}]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [3, 120])
def test_a_convolution_of_integers(channels, window):
    """Padding is by the zero point; 120 channels of 9 products are summed in three parts."""
    model, feed = node(
        "ConvInteger",
        ("x", integers((1, channels, 6, 7))),
        ("w", integers((4, channels, 3, 3), seed=1)),
        ("z", np.uint8(7)),
        **window,
    )
    check(model, feed)
    legal = legalize(model, "tflite")
    assert op_types(legal).count("Conv") == (1 if channels == 3 else 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("places", [(), (8,)], ids=["one scale", "a scale a filter"])
def test_a_quantized_convolution(places, group, bias):
    model, feed = node(
        "QLinearConv",
        *(("x", integers((1, 4, 6, 7))), ("s", np.float32(0.05)), ("z", np.uint8(120))),
        *(
            ("w", integers((8, 4 // group, 3, 3), np.int8, 1)),
            ("ws", np.abs(floats(*places)) * np.float32(0.01) + np.float32(0.001)),
        ),
        *(("wz", np.zeros(places, np.int8)), ("ys", np.float32(0.5)), ("yz", np.uint8(128))),
        *([("b", integers((8,), np.int16).astype(np.int32))] if bias else []),
        group=group,
        pads=[1, 1, 1, 1],
    )
    assert len(np.unique(check(model, feed))) > 3


def test_torch_computes_what_they_are_made_of():
    model, feed = node("QuantizeLinear", ("x", floats(3, 4)), ("s", np.float32(0.1)), ("z", np.uint8(100)))
    np.testing.assert_array_equal(torch_outputs(model, feed)[0], FloatRunner(model)(feed)["y"])


def test_onnx_keeps_the_operators():
    model, _ = node("QuantizeLinear", ("x", floats(3, 4)), ("s", np.float32(0.1)), ("z", np.uint8(100)))
    assert node_of(legalize(model, "onnx")).op_type == "QuantizeLinear"
