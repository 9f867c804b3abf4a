"""The arithmetic of encodings, as properties: these hold for every range and every weight."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exporter.quantization.plan import Encoding, integer_range
from exporter.quantization.ranges import (
    MAX_BIAS,
    MIN_SCALE,
    activation_encoding,
    bias_encoding,
    weight_encoding,
)

finite = st.floats(-1e6, 1e6, width=32)
ranges = st.tuples(finite, finite).map(sorted)


@given(ranges, st.sampled_from(["int8", "uint8"]), st.booleans())
def test_zero_is_exact_and_no_value_of_the_range_is_further_than_half_a_step(span, dtype, symmetric):
    low, high = span
    encoding = activation_encoding(low, high, dtype=dtype, symmetric=symmetric)
    values = np.linspace(low, high, 101, dtype=np.float32)
    decoded = encoding.dequantize(encoding.quantize(np.append(values, np.float32(0))))
    assert decoded[-1] == 0.0
    scale = encoding.scale[0]
    rounding = 4 * np.spacing(np.float32(max(abs(low), abs(high), scale)))
    assert np.abs(decoded[:-1] - values).max() <= scale / 2 + rounding


@given(ranges)
def test_scales_are_normal_float32_values(span):
    (scale,) = activation_encoding(*span).scale
    assert scale == float(np.float32(scale))
    assert np.float32(scale) * np.float32(MIN_SCALE) >= np.finfo(np.float32).tiny


@given(st.floats(2.0**-10, 1e6, width=32))
def test_a_range_that_begins_at_zero_does_not_reach_beyond_its_end(high):
    """A clamp at `high` is then redundant behind the encoding, and runtimes drop it."""
    encoding = activation_encoding(0.0, high)
    assert encoding.zero_point == (-128,)
    assert encoding.dequantize(np.array(127, np.int8)) <= np.float32(high)


def test_a_constant_zero_has_scale_one_and_any_other_constant_is_exact():
    assert activation_encoding(0.0, 0.0) == Encoding("int8", (1.0,), (0,))
    assert activation_encoding(0.0, 0.0, dtype="uint8") == Encoding("uint8", (1.0,), (128,))
    for constant in (3.25, -0.7):
        encoding = activation_encoding(constant, constant)
        decoded = encoding.dequantize(encoding.quantize(np.float32(constant)))
        assert abs(decoded - np.float32(constant)) <= np.spacing(np.float32(abs(constant)))


@pytest.mark.parametrize("span", [(np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_what_is_no_range_is_refused(span):
    with pytest.raises(ValueError, match="is not a range"):
        activation_encoding(*span)


weights = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(-100, 100, width=32))


@given(weights, st.sampled_from([None, 0, 1, -1]), st.booleans())
def test_weights_are_symmetric_and_use_the_allowed_integers(weight, axis, reduced):
    encoding = weight_encoding(weight, axis, reduced=reduced)
    integers = encoding.quantize(weight)
    assert set(encoding.zero_point) == {0}
    assert np.abs(integers.astype(int)).max() <= (63 if reduced else 127)
    assert len(encoding.scale) == (1 if axis is None else weight.shape[axis])
    scale = np.asarray(encoding.scale, np.float32)
    steps = scale if axis is None else scale.reshape([-1 if a == axis % 2 else 1 for a in range(2)])
    assert (np.abs(encoding.dequantize(integers) - weight) <= steps * (0.5 + 1e-5)).all()


def test_a_channel_of_zeros_takes_the_median_scale_of_the_others():
    encoding = weight_encoding(np.array([[1.27, 0], [0, 0], [2.54, 0], [3.81, 1]], np.float32), 0)
    assert encoding.scale[1] == pytest.approx(0.02)
    assert (encoding.quantize(np.zeros((4, 2), np.float32)) == 0).all()
    assert weight_encoding(np.zeros((2, 2), np.float32), None).scale[0] >= MIN_SCALE


@given(st.floats(1e-20, 1e3), st.floats(1e-20, 1.0), st.floats(-1e5, 1e5))
@settings(max_examples=200)
def test_a_bias_never_wraps(scale_in, peak, bias):
    """Where scale_in * scale_w is too small for the bias to fit int32, the weight's scale is widened."""
    inputs = Encoding("int8", (float(np.float32(scale_in)),), (0,))
    least = abs(bias) / (inputs.scale[0] * MAX_BIAS["int32"])
    weight = weight_encoding(np.array([[peak]], np.float32), 0, least_scale=least)
    encoding = bias_encoding(inputs, weight, 0)
    (integer,) = encoding.quantize(np.array([bias], np.float32))
    assert abs(int(integer)) <= MAX_BIAS["int32"] * (1 + 1e-6)
    assert abs(float(integer) * encoding.scale[0] - np.float32(bias)) <= max(encoding.scale[0], abs(bias) * 1e-6)


def test_int32_keeps_more_digits_than_float32_has():
    encoding = Encoding("int32", (2.0**-20,), (0,))
    assert encoding.quantize(np.array([1000.000061035], np.float64)).tolist() == [1000 * 2**20 + 64]
    assert encoding.quantize(np.array([1e9, -1e9])).tolist() == list(integer_range("int32"))[::-1]


@given(ranges, st.sampled_from(["int8", "uint8", "int16"]), st.booleans())
def test_scales_of_powers_of_two_are_the_least_that_span_the_range(span, dtype, symmetric):
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    encoding = activation_encoding(low, high, dtype=dtype, symmetric=symmetric, power_of_two=True)
    scale, (least, greatest) = encoding.scale[0], integer_range(dtype)
    assert np.frexp(scale)[0] == 0.5
    values = np.linspace(low, high, 101)
    decoded = encoding.dequantize(encoding.quantize(np.append(values, 0).astype(np.float32)))
    assert decoded[-1] == 0.0
    assert np.abs(decoded[:-1] - values).max() <= 1.51 * scale
    reached = (greatest - least + 1) // 2 if symmetric else greatest - least + 1
    if scale > MIN_SCALE and low < high:
        assert reached * scale / 2 < (max(-low, high) if symmetric else high - low)


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale"), [(0, 1, False, 2**-8), (-1, 1, True, 2**-7), (0, 6, False, 2**-5)]
)
def test_ranges_that_are_powers_of_two_take_the_scale_that_fits_them(low, high, symmetric, scale):
    assert activation_encoding(low, high, symmetric=symmetric, power_of_two=True).scale == (scale,)


@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)))
def test_weights_in_steps_of_powers_of_two_saturate_by_half_a_step_at_most(weight):
    encoding = weight_encoding(weight, 0, power_of_two=True, least_scale=1e-6)
    scale = np.asarray(encoding.scale)
    assert (np.frexp(scale)[0] == 0.5).all()
    decoded = encoding.dequantize(encoding.quantize(weight))
    assert (np.abs(decoded - weight) <= scale[:, None] / 2 * 1.01).all()
