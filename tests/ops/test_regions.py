import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, sample, single

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import Channels, operator_of


def roi_align(regions=3, image=(2, 3, 8, 9), **attributes):
    form = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.5, **attributes}
    return single("RoiAlign", image, (regions, 4), np.arange(regions) % image[0], **form)


def with_regions(model, *regions):
    return {**sample(model), "x1": np.asarray(regions, np.float32)}


REGIONS = ((0, 0, 15, 12), (3.5, 2.25, 9, 18), (-6, -8, 30, 24))


@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("samples", [1, 3])
def test_regions_are_two_products(mode, samples):
    model = roi_align(coordinate_transformation_mode=mode, sampling_ratio=samples)
    feed = with_regions(model, *REGIONS)
    assert_torch_computes_it(model, feed, atol=1e-5)
    assert assert_legalized(model, feed=feed, atol=1e-5).count("MatMul") == 2
    assert lowered(model, feed=feed).errors["y0"] < 1e-5


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(-9, 30, width=32)] * 4), st.sampled_from(["half_pixel", "output_half_pixel"]))
def test_any_region(region, mode):
    model = roi_align(1, (1, 1, 5, 6), coordinate_transformation_mode=mode)
    left, right = sorted((region[0], region[2]))
    low, high = sorted((region[1], region[3]))
    assert_legalized(model, feed=with_regions(model, (left, low, right, high)), atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [({"mode": "max"}, "only avg is supported"), ({"sampling_ratio": 0}, "a number of samples that depends on the regions")],
)
def test_what_depends_on_data_is_refused(attributes, reason):
    (refused,) = unsupported(legalize(roi_align(**attributes), "tflite"), "lower")
    assert reason in refused.reason


def test_channels_stay_apart():
    node = node_of(roi_align())
    assert operator_of(node).couple(node).ties == ((Channels("in", 0, 1, 3), Channels("out", 0, 1, 3)),)


def test_suppression_gives_as_many_boxes_as_there_are():
    model = single("NonMaxSuppression", (1, 6, 4), (1, 1, 6), np.array([3]), np.array([0.5], np.float32))
    (refused,) = unsupported(model, "lower")
    assert "depends on data" in refused.reason
