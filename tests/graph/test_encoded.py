"""Encodings that a source brings along give back its very integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.graph.encoded import constant_encoding, encoding_of, in_int8, inherit_encoding, pair_encoding, set_encoding
from exporter.quantization.plan import Encoding, integer_range

SCALES = st.floats(2.0**-40, 2.0**20, width=32)


def constant(array, name="w"):
    return ir.val(name, const_value=ir.tensor(array, name=name))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["int8", "uint8", "int16"]),
    st.lists(SCALES, min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_the_integers_of_a_constant_come_back(dtype, scales, seed):
    random, (low, high) = np.random.default_rng(seed), integer_range(dtype)
    points = tuple(int(point) for point in random.integers(low, high + 1, len(scales)))
    encoding = Encoding(dtype, tuple(scales), points, 1 if len(scales) > 1 else None)
    integers = random.integers(low, high + 1, (3, len(scales), 2)).astype(dtype)
    value = constant(encoding.dequantize(integers))
    set_encoding(value, encoding)
    found = constant_encoding(value, 1)
    assert found == encoding
    np.testing.assert_array_equal(found.quantize(value.const_value.numpy()), integers)


@settings(max_examples=60, deadline=None)
@given(SCALES, st.lists(st.integers(-(2**22), 2**22), min_size=1, max_size=8))
def test_the_integers_of_a_bias_come_back(scale, integers):
    """Up to 22 bits: real numbers are float32, whose 24 bits of mantissa are rounded twice on the way."""
    encoding = Encoding("int32", (scale,), (0,))
    given_integers = np.asarray(integers, np.int32)
    np.testing.assert_array_equal(encoding.quantize(encoding.dequantize(given_integers)), given_integers)


def test_a_constant_that_was_changed_has_no_encoding():
    value = constant(np.asarray([1.0, 2.0], np.float32))
    set_encoding(value, Encoding("int8", (0.5,), (0,)))
    assert constant_encoding(value, None) is not None
    value.const_value = ir.tensor(np.asarray([1.0, 2.25], np.float32), name="w")
    assert constant_encoding(value, None) is None


def test_a_transposed_constant_has_the_encoding_along_its_new_axis():
    array = np.asarray([[1, 2, 3], [4, 5, 6]], np.float32) * np.asarray([[0.5], [0.25]], np.float32)
    value, turned = constant(array), constant(array.T.copy(), "t")
    set_encoding(value, Encoding("int8", (0.5, 0.25), (0, 0), 0))
    inherit_encoding(turned, [value])
    assert encoding_of(turned) == Encoding("int8", (0.5, 0.25), (0, 0), 1)
    doubled = constant(array * 3.1, "d")
    inherit_encoding(doubled, [value])
    assert encoding_of(doubled) is None


def test_unsigned_integers_are_said_in_signed_ones():
    assert in_int8(Encoding("uint8", (0.5,), (3,))) == Encoding("int8", (0.5,), (-125,))


def dequantize(array, scale, point, **attributes):
    inputs = [constant(array), constant(scale, "s"), None if point is None else constant(point, "z")]
    return ir.node("DequantizeLinear", inputs, attributes)


def test_what_a_dequantize_says():
    one = np.float32(0.5)
    assert pair_encoding(dequantize(np.zeros((2, 3), np.int8), np.asarray(one), None)) == Encoding("int8", (0.5,), (0,))
    scales, points = np.asarray([1, 2, 3], np.float32), np.asarray([1, 2, 3], np.uint8)
    node = dequantize(np.zeros((2, 3), np.uint8), scales, points, axis=-1)
    assert pair_encoding(node) == Encoding("uint8", (1.0, 2.0, 3.0), (1, 2, 3), 1)
    blocks = np.ones((2, 1), np.float32)
    assert pair_encoding(dequantize(np.zeros((2, 4), np.int8), blocks, None, block_size=4, axis=1)) is None
