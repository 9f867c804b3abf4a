"""Groups of channels that one scale can be migrated along, and that migrating it changes no number."""

import numpy as np
import pytest

from diagnostics import ModelError
from exporter.graph.float_sums import mark_float_sums
from exporter.graph.legalize import legalize
from exporter.graph.passes import canonicalize
from exporter.quantization.equalization.channels import channel_groups
from exporter.quantization.equalization.migrations import migrate
from tests.graph.small_graphs import assert_same, graph, kinds

IMAGE = {"inputs": "float[1,3,8,8] x", "outputs": "float[1,6,8,8] y"}
SAME = "<pads=[1, 1, 1, 1]>"
TOKENS = {"inputs": "float[1,5,8] x", "outputs": "float[1,5,8] y"}


def legal(body, runtime="tflite", *, inputs, outputs, **weights):
    model = legalize(canonicalize(graph(body, inputs=inputs, outputs=outputs, **weights)), runtime)
    mark_float_sums(model)
    return model


def migrated(model, count, spread=2.0):
    """The graph with a scale of its own in each group, checked to compute the same; and how many groups there are."""
    groups = list(channel_groups(model.graph))
    assert len(groups) == count
    random = np.random.default_rng(3)
    scales = {group.name: np.exp(random.normal(0, spread, group.count)).tolist() for group in groups}
    after = migrate(model, scales).model
    assert_same(model, after, relative=2e-5)
    return after


CHAINS = {
    "convolutions": (
        f"a = Conv{SAME}(x, v, b) r = Relu(a) y = Conv{SAME}(r, w)",
        {"v": (4, 3, 3, 3), "b": (4,), "w": (6, 4, 3, 3)},
        1,
    ),
    "a slope a channel": (
        f"a = Conv{SAME}(x, v, b) r = PRelu(a, s) y = Conv{SAME}(r, w)",
        {"v": (4, 3, 3, 3), "b": (4,), "s": (4, 1, 1), "w": (6, 4, 3, 3)},
        1,
    ),
    "depthwise": (
        f"a = Conv{SAME}(x, v) d = Conv<pads=[1, 1, 1, 1], group=4>(a, k, b) r = LeakyRelu(d) y = Conv{SAME}(r, w)",
        {"v": (4, 3, 3, 3), "k": (4, 1, 3, 3), "b": (4,), "w": (6, 4, 3, 3)},
        2,
    ),
    "grouped and transposed": (
        f"a = Conv{SAME}(x, v) g = Conv<pads=[1, 1, 1, 1], group=2>(a, k, b) y = ConvTranspose<pads=[1, 1, 1, 1], group=2>(g, w, c)",
        {"v": (4, 3, 3, 3), "k": (8, 2, 3, 3), "b": (8,), "w": (8, 3, 3, 3), "c": (6,)},
        2,
    ),
    "a residual": (
        f"a = Conv{SAME}(x, v) r = Relu(a) c = Conv{SAME}(r, k, b) s = Add(r, c) t = Relu(s) y = Conv{SAME}(t, w)",
        {"v": (4, 3, 3, 3), "k": (4, 4, 3, 3), "b": (4,), "w": (6, 4, 3, 3)},
        1,
    ),
    "an offset a channel": (
        f"a = Conv{SAME}(x, v) r = Relu(a) s = Add(r, b) t = AveragePool<kernel_shape=[1, 1]>(s) y = Conv{SAME}(t, w)",
        {"v": (4, 3, 3, 3), "b": (1, 4, 1, 1), "w": (6, 4, 3, 3)},
        1,
    ),
    "a gate": (
        f"a = Conv{SAME}(x, v) r = Relu(a) g = Conv{SAME}(x, k) h = GlobalAveragePool(g) f = Sigmoid(h) s = Mul(r, f) "
        f"y = Conv{SAME}(s, w)",
        {"v": (4, 3, 3, 3), "k": (4, 3, 3, 3), "w": (6, 4, 3, 3)},
        1,
    ),
}


@pytest.mark.parametrize("runtime", ["tflite", "onnx"])
@pytest.mark.parametrize("chain", CHAINS)
def test_scales_between_convolutions_change_no_number(chain, runtime):
    body, weights, count = CHAINS[chain]
    model = legal(body, runtime, **IMAGE, **weights)
    assert kinds(migrated(model, count)) == kinds(model)


def test_a_flatten_spreads_channels_over_pixels():
    body = f"a = Conv{SAME}(x, v) r = Relu(a) f = Flatten(r) y = Gemm<transB=1>(f, w, b)"
    for runtime in ("tflite", "onnx"):
        model = legal(body, runtime, inputs="float[1,3,4,4] x", outputs="float[1,5] y", v=(4, 3, 3, 3), w=(5, 64), b=(5,))
        migrated(model, 1)


@pytest.mark.parametrize("runtime", ["tflite", "onnx"])
def test_a_transformer_block(runtime):
    """Behind each normalization, and behind what is added to the stream: there a product in float puts the scale back."""
    body = (
        "l = LayerNormalization<axis=-1>(x, g, b) m = MatMul(l, u) n = Add(m, c) r = Gelu(n) p = MatMul(r, v) q = Add(p, d) "
        "s = Add(l, q) y = LayerNormalization<axis=-1>(s, h, e)"
    )
    weights = {"g": (8,), "b": (8,), "u": (8, 16), "c": (16,), "v": (16, 8), "d": (8,), "h": (8,), "e": (8,)}
    model = legal(body, runtime, **TOKENS, **weights)
    after = migrated(model, 2)
    assert len(after.graph) == len(model.graph) + 2


@pytest.mark.parametrize(
    "between",
    [
        "r = Clip(a, zero, six)",  # a bound is not scaled with the channel
        "r = Sigmoid(a)",
        "r = Softmax<axis=1>(a)",
        "h = Relu(a) f = Sigmoid(a) r = Add(h, f)",
        "r = Pad(a, pads, six)",
    ],
)
def test_what_is_not_homogeneous_keeps_its_scale(between):
    numbers = {"zero": np.float32(0), "six": np.float32(6), "pads": np.zeros(8, np.int64)}
    used = {name: value for name, value in numbers.items() if name in between}
    if "pads" in used:
        used["pads"] = np.array([0, 0, 1, 1, 0, 0, -1, -1])
    model = legal(f"a = Conv{SAME}(x, v) {between} y = Conv{SAME}(r, w)", **IMAGE, v=(4, 3, 3, 3), w=(6, 4, 3, 3), **used)
    assert list(channel_groups(model.graph)) == []


def test_an_output_of_the_model_keeps_its_scale():
    body = f"a = Conv{SAME}(x, v) r = Relu(a) y = Conv{SAME}(r, w)"
    model = legal(body, inputs=IMAGE["inputs"], outputs="float[1,6,8,8] y, float[1,4,8,8] r", v=(4, 3, 3, 3), w=(6, 4, 3, 3))
    assert list(channel_groups(model.graph)) == []


def test_a_plan_of_another_graph_is_refused():
    model = legal(CHAINS["convolutions"][0], **IMAGE, **CHAINS["convolutions"][1])
    (group,) = channel_groups(model.graph)
    for scales in ({"elsewhere:1": [1.0] * 4}, {group.name: [1.0] * 5}):
        with pytest.raises(ModelError) as caught:
            migrate(model, scales)
        assert caught.value.code == "EW-Q002"


def test_a_weight_that_two_read_is_edited_for_one():
    body = f"a = Conv{SAME}(x, v) r = Relu(a) s = Conv{SAME}(r, w) t = Sigmoid(s) u = Conv{SAME}(t, w) y = Add(s, u)"
    model = legal(body, "onnx", inputs="float[1,4,8,8] x", outputs="float[1,4,8,8] y", v=(4, 4, 3, 3), w=(4, 4, 3, 3))
    migrated(model, 1)
