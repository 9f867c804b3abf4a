import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, op_types, single

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import Channels, Cost, Port, Refused, operator_of
from exporter.ops.resampling import refusal

COORDINATES = ["asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


def resize(sizes=(8, 10), image=(1, 2, 4, 5), scales=None, **attributes):
    if scales is not None:
        return single("Resize", image, None, np.array([1, 1, *scales], np.float32), **attributes)
    return single("Resize", image, None, None, np.array([*image[:2], *sizes], np.int64), **attributes)


def supported(model):
    return unsupported(model, "lower") == []


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATES),
    st.sampled_from(ROUNDINGS),
)
def test_any_resize_is_simulated_and_lowered(size, sizes, mode, coordinates, rounding):
    model = resize(sizes, (1, 2, *size), mode=mode, coordinate_transformation_mode=coordinates, nearest_mode=rounding)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert supported(legalize(model, "tflite"))
    assert lowered(model).errors["y0"] < 1e-5


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_near_half_way_the_element_is_the_one_onnxruntime_takes(coordinates, rounding):
    """Lengths with which single precision lands beside the middle of two elements: 3.4999998 is half way, too."""
    for size, count in ((3, 1), (3, 11), (7, 2), (7, 16), (14, 1), (14, 19)):
        model = resize(
            (1, count), (1, 1, 1, size), mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding
        )
        assert_torch_computes_it(model, {"x0": np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)})


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(COORDINATES),
)
def test_scales_decide_where_they_do_not_divide(size, scales, mode, coordinates):
    made = [length * scale for length, scale in zip(size, scales, strict=True)]
    assume(min(made) >= 1)
    # A hair from a whole number, onnx's shape inference (in double precision) and onnxruntime (in single) disagree about the size.
    assume(all(scale == 1 or abs(length - round(length)) > 1e-4 for length, scale in zip(made, scales, strict=True)))
    model = resize(image=(1, 2, *size), scales=scales, mode=mode, coordinate_transformation_mode=coordinates)
    assume(not refusal(node_of(model)))
    assert_torch_computes_it(model, atol=1e-4)
    assert_legalized(model, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "builtin"),
    [
        ({"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, ("RESIZE_NEAREST_NEIGHBOR", 1)),
        # Doubling never meets a tie, so the default rounding picks what the plainest kernel picks.
        ({}, ("RESIZE_NEAREST_NEIGHBOR", 1)),
        (
            {"sizes": (6, 7), "coordinate_transformation_mode": "align_corners", "nearest_mode": "round_prefer_ceil"},
            ("RESIZE_NEAREST_NEIGHBOR", 3),
        ),
        (
            {"sizes": (6, 7), "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
            ("RESIZE_NEAREST_NEIGHBOR", 3),
        ),
        ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, ("RESIZE_BILINEAR", 1)),
        ({"mode": "linear"}, ("RESIZE_BILINEAR", 3)),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, ("RESIZE_BILINEAR", 1)),
    ],
    ids=str,
)
def test_tflite_runs_it_at_the_lowest_version(attributes, builtin):
    model = resize(**attributes)
    found = lowered(model)
    assert builtins(found) == [builtin]
    assert found.errors["y0"] < 1e-5
    found = lowered(resize(leaky=True, **attributes), "int8", last=True)
    assert builtins(found) == [(builtin[0], max(builtin[1], 2))]
    assert found.steps["y0"] < 1.6


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
        {"mode": "linear", "antialias": 1, "sizes": (2, 3)},
        {"mode": "cubic", "antialias": 1, "sizes": (3, 2)},
        {"mode": "cubic", "antialias": 1, "sizes": (3, 2), "exclude_outside": 1},
        {"mode": "linear", "antialias": 1, "coordinate_transformation_mode": "align_corners", "sizes": (2, 9)},
    ],
    ids=str,
)
def test_kernels_of_interpolation(attributes):
    model = resize(**attributes)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert lowered(model).errors["y0"] < 1e-5


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2]])
def test_a_crop_extrapolates_outside_of_the_image(mode, axes):
    region = np.array([0.25, -0.2, 0.9, 1.1], np.float32)
    sizes = np.array([5, 7], np.int64)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0, "axes": axes}
    model = single("Resize", (1, 2, 6, 8), region, None, sizes, mode=mode, **crop)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert lowered(model).errors["y0"] < 1e-5


@pytest.mark.parametrize(("shape", "sizes"), [((1, 2, 9), (1, 2, 4)), ((2, 3), (3, 5)), ((1, 2, 3, 4, 5), (1, 2, 5, 4, 3))])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_any_axes_of_any_rank(shape, sizes, mode):
    model = single("Resize", shape, None, None, np.array(sizes, np.int64), mode=mode)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert lowered(model).errors["y0"] < 1e-5


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_policy_keeps_the_aspect_ratio(policy, mode):
    sizes = np.array([7, 8], np.int64)
    model = single("Resize", (1, 1, 4, 5), None, None, sizes, mode=mode, axes=[2, 3], keep_aspect_ratio_policy=policy)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)


def test_a_length_that_stays_may_still_move():
    model = resize(scales=(1.1, 1.2), mode="linear")
    assert_torch_computes_it(model, atol=1e-5)
    assert op_types(legalize(model, "tflite")) != ["Identity"]
    assert lowered(model).errors["y0"] < 1e-5


def test_other_scales_than_1_to_the_same_lengths_are_refused():
    (refused,) = unsupported(legalize(resize(scales=(1.1, 1.1), mode="linear"), "tflite"), "lower")
    assert refused.reason.endswith("a resize to the same lengths has scales of 1.")
    assert refusal(node_of(resize(scales=(1.0, 1.0), mode="linear"))) == ""


def test_corners_of_a_fractional_length_are_refused():
    model = resize(scales=(0.6, 0.6), mode="linear", coordinate_transformation_mode="align_corners")
    assert [r.reason.partition(" are constant")[0] for r in unsupported(legalize(model, "tflite"), "lower")] == [
        "Resize: The region of interest, scales and sizes"
    ]
    with pytest.raises(Refused, match="fractional"):
        operator_of(node_of(model)).torch(node_of(model), [None])


def test_the_same_size_is_no_resize():
    assert assert_legalized(resize((4, 5))) == ["Identity"]


def test_facets():
    node = node_of(resize(mode="linear"))
    operator = operator_of(node)
    assert operator.quantize(node).shared
    assert operator.layout(node).outputs == (Port.LAST,)
    assert operator.cost(node) == Cost(elementwise=4 * 2 * 8 * 10)
    assert (Channels("in", 0, 1, 2), Channels("out", 0, 1, 2)) in operator.couple(node).ties
