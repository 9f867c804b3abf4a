import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from op_bench import assert_legalized, assert_torch_computes_it, builtins, graph, lowered, node_of, single

from exporter.graph.coverage import unsupported
from exporter.ops.base import Channels, Cost, Port, Refused, operator_of

COORDINATES = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]
# Steps of its scale that a moved number is off behind the bench's LeakyRelu: 0.5 for its rounding, 1 for the input's, twice as coarse.
MOVED = 1.51
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


def resize(sizes=(8, 10), image=(1, 2, 4, 5), scales=None, **attributes):
    if scales is not None:
        return single("Resize", image, None, np.array([1, 1, *scales], np.float32), **attributes)
    return single("Resize", image, None, None, np.array([*image[:2], *sizes], np.int64), **attributes)


def supported(model):
    return unsupported(model, "lower") == []


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.sampled_from(["nearest", "linear"]),
    st.sampled_from(COORDINATES),
    st.sampled_from(ROUNDINGS),
)
def test_any_resize_is_simulated_and_lowered_where_a_kernel_does_the_same(size, sizes, mode, coordinates, rounding):
    model = resize(sizes, (1, 2, *size), mode=mode, coordinate_transformation_mode=coordinates, nearest_mode=rounding)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model)
    if supported(model):
        assert lowered(model).errors["y0"] < 1e-5


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


def test_scales_decide_where_they_do_not_divide():
    model = resize(scales=(1.7, 2.3), mode="linear", coordinate_transformation_mode="asymmetric")
    assert_torch_computes_it(model, atol=1e-5)
    assert not supported(model)
    assert supported(resize(scales=(2.0, 2.0), mode="linear", coordinate_transformation_mode="asymmetric"))


def test_forms_without_a_kernel_are_refused_with_a_sentence():
    (refused,) = unsupported(resize(mode="cubic"), "lower")
    assert refused.reason.startswith("Resize: Mode, coordinates and rounding are those of a TFLite kernel")
    deep = single("Resize", (1, 2, 3, 3), None, None, np.array([1, 4, 6, 6], np.int64))
    assert [r.reason for r in unsupported(deep, "lower")] == [
        "Resize: The value is an image [N, C, H, W] of which only H and W are resized."
    ]
    assert not supported(resize((2, 2), mode="linear", antialias=1))
    symmetric = resize(coordinate_transformation_mode="half_pixel_symmetric")
    assert not supported(symmetric)
    with pytest.raises(Refused, match="cannot be simulated"):
        operator_of(node_of(symmetric)).torch(node_of(symmetric), [None])


def test_the_same_size_is_no_resize():
    assert assert_legalized(resize((4, 5))) == ["Identity"]


def test_facets():
    node = node_of(resize(mode="linear"))
    operator = operator_of(node)
    assert operator.quantize(node).shared
    assert operator.layout(node).outputs == (Port.LAST,)
    assert operator.cost(node) == Cost(elementwise=4 * 2 * 8 * 10)
    assert (Channels("in", 0, 1, 2), Channels("out", 0, 1, 2)) in operator.couple(node).ties


@pytest.mark.parametrize(
    ("op_type", "shape", "builtin"),
    [("DepthToSpace", (1, 12, 3, 4), ("DEPTH_TO_SPACE", 1)), ("SpaceToDepth", (1, 3, 4, 6), ("SPACE_TO_DEPTH", 2))],
)
def test_blocks(op_type, shape, builtin):
    model = single(op_type, shape, blocksize=2)
    assert_torch_computes_it(model, atol=0)
    assert builtins(lowered(model)) == [(builtin[0], 1)]
    assert lowered(model).errors["y0"] == 0
    found = lowered(single(op_type, shape, blocksize=2, leaky=True), "int8", last=True)
    assert builtins(found) == [builtin]
    assert found.steps["y0"] < MOVED
    assert operator_of(node_of(model)).cost(node_of(model)) == Cost()


def test_columns_rows_depth():
    model = single("DepthToSpace", (2, 12, 3, 4), blocksize=2, mode="CRD")
    assert_torch_computes_it(model, atol=0)
    assert assert_legalized(model, atol=0) == ["Reshape", "Transpose", "Reshape", "DepthToSpace"]
    assert assert_legalized(model, "onnx", atol=0) == ["DepthToSpace"]
    assert lowered(model).errors["y0"] == 0


@pytest.mark.parametrize("bias", [[], ["b"]], ids=["plain", "bias"])
def test_a_convolution_in_front_takes_the_reordering(bias):
    generator = np.random.default_rng(0)
    model = graph(
        [
            helper.make_node("Conv", ["x", "w", *bias], ["c"], name="conv"),
            helper.make_node("DepthToSpace", ["c"], ["y"], name="shuffle", blocksize=2, mode="CRD"),
        ],
        {"x": (1, 3, 4, 4)},
        ["y"],
        w=generator.normal(size=(12, 3, 1, 1)).astype(np.float32),
        **({"b": generator.normal(size=12).astype(np.float32)} if bias else {}),
    )
    assert assert_legalized(model) == ["Conv", "DepthToSpace"]
    assert lowered(model).errors["y"] < 1e-5


@pytest.mark.parametrize(
    ("op_type", "shape", "mode"),
    [("DepthToSpace", (1, 12, 2, 2), "DCR"), ("DepthToSpace", (1, 12, 2, 2), "CRD"), ("SpaceToDepth", (1, 3, 4, 4), "")],
)
def test_cutting_a_channel_as_coupled_cuts_its_blocks(op_type, shape, mode):
    """Marks one channel: exactly the indices that the coupling names on the other side may be marked."""
    import torch

    model = single(op_type, shape, blocksize=2, **({"mode": mode} if mode else {}))
    node = node_of(model)
    ((first, second),) = operator_of(node).couple(node).ties

    def owned(run, channel):
        return {run.offset + (o * run.count + channel) * run.repeat + r for o in range(run.outer) for r in range(run.repeat)}

    for channel in range(first.count):
        x = torch.zeros(shape)
        x[:, sorted(owned(first, channel))] = 1
        (y,) = operator_of(node).torch(node, [x])
        assert set(torch.nonzero(y.amax(dim=(0, 2, 3))).reshape(-1).tolist()) == owned(second, channel)
