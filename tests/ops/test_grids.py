import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, sample, single, torch_outputs

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import Channels, operator_of


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grid_sample(image=(2, 3, 5, 4), grid=(2, 3, 6, 2), **attributes):
    return single("GridSample", image, grid, **attributes)


def places(model, reach=1.6):
    """A feed whose grid reaches beyond the image on all sides."""
    feed = sample(model)
    feed["x1"] = (feed["x1"] / 4 * reach).astype(np.float32)
    return feed


PADDINGS = ["zeros", "border", "reflection"]
ALIGNED = pytest.mark.parametrize("aligned", [0, 1], ids=["edges", "corners"])


@ALIGNED
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_an_image_is_sampled_as_onnxruntime_samples_it(mode, padding, aligned):
    model = grid_sample(mode=mode, padding_mode=padding, align_corners=aligned)
    if (mode, padding) == ("cubic", "border"):
        (refused,) = unsupported(legalize(model, "tflite"), "lower")
        assert refused.reason.startswith("GridSample in mode cubic with padding border clamps places")
        return
    feed = places(model)
    assert_torch_computes_it(model, feed, atol=2e-5)
    assert "Gather" in assert_legalized(model, feed=feed, atol=2e-5)
    assert lowered(model, feed=feed).errors["y0"] < 2e-5


@ALIGNED
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_volume_is_sampled(mode, aligned):
    model = grid_sample((2, 2, 3, 5, 4), (2, 2, 3, 4, 3), mode=mode, padding_mode="border", align_corners=aligned)
    feed = places(model)
    assert_torch_computes_it(model, feed, atol=2e-5)
    assert_legalized(model, feed=feed, atol=2e-5)
    assert lowered(model, feed=feed).errors["y0"] < 2e-5


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 2), min_size=1, max_size=5),
    st.sampled_from(PADDINGS),
    st.booleans(),
)
def test_any_place_of_any_image(size, points, padding, aligned):
    model = grid_sample((1, 1, *size), (1, 1, len(points), 2), padding_mode=padding, align_corners=int(aligned))
    if padding == "reflection" and aligned and min(size) == 1:
        return  # onnxruntime divides by the length between the corners
    feed = {**sample(model), "x1": np.asarray(points, np.float32)[None, None]}
    assert_torch_computes_it(model, feed, atol=1e-4)
    assert_legalized(model, feed=feed, atol=1e-4)


def test_places_stay_in_float_beside_integers():
    model = grid_sample()
    found = lowered(model, "int8", feed=places(model))
    assert found.errors["y0"] < 2e-5
    node = node_of(model)
    assert operator_of(node).couple(node).ties == ((Channels("in", 0, 1, 3), Channels("out", 0, 1, 3)),)


@ALIGNED
@pytest.mark.parametrize("size", [(2, 3, 5, 6), (2, 3, 4, 5, 6)], ids=["image", "volume"])
def test_an_affine_grid_is_a_product(size, aligned):
    axes = len(size) - 2
    model = single("AffineGrid", (2, axes, axes + 1), np.array(size, np.int64), align_corners=aligned)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    assert lowered(model).errors["y0"] < 1e-5


FORMS = {
    "plain": ((4, 3, 3, 2), 1, {}),
    "strided": ((4, 3, 3, 2), 1, {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}),
    "groups": ((4, 2, 2, 2), 1, {"group": 2}),
    "offset groups": ((4, 4, 2, 2), 2, {"offset_group": 2}),
}


@pytest.mark.parametrize("extra", ["", "bias", "bias and mask"])
@pytest.mark.parametrize("name", FORMS)
def test_a_deformed_convolution_is_a_product_of_samples(name, extra):
    shape, groups, attributes = FORMS[name]
    channels, image = shape[1] * attributes.get("group", 1), (6, 7)
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    pads = attributes.get("pads", (0, 0, 0, 0))
    count = [
        (image[axis] + pads[axis] + pads[axis + 2] - (shape[axis + 2] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis in (0, 1)
    ]
    taps = groups * shape[2] * shape[3]
    inputs = [(2, channels, *image), weights(*shape), (2, 2 * taps, *count)]
    inputs += [weights(shape[0], seed=1)] if extra else []
    inputs += [(2, taps, *count)] if "mask" in extra else []
    model = single("DeformConv", *inputs, kernel_shape=shape[2:], **attributes)
    assert_torch_computes_it(model, atol=2e-4)
    assert_legalized(model, atol=2e-4)
    assert lowered(model).errors["y0"] < 2e-4


def test_zero_offsets_deform_nothing():
    kernel, model = weights(4, 3, 3, 3), single("Conv", (1, 3, 6, 7), weights(4, 3, 3, 3), pads=[1, 1, 1, 1])
    deformed = single("DeformConv", (1, 3, 6, 7), kernel, (1, 18, 6, 7), pads=[1, 1, 1, 1])
    x = sample(model)["x0"]
    feed = {"x0": x, "x2": np.zeros((1, 18, 6, 7), np.float32)}
    np.testing.assert_allclose(torch_outputs(deformed, feed)[0], torch_outputs(model, {"x0": x})[0], atol=1e-5)
