import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_graphs import assert_same, graph, kinds

from exporter.graph.explicit_windows import explicit_windows, fold_padding
from exporter.graph.values import attribute


@settings(max_examples=40, deadline=None)
@given(
    operator=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    auto=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    size=st.integers(5, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
)
def test_automatic_padding_becomes_numbers(operator, auto, size, kernel, stride):
    assume(kernel >= stride)  # else onnxruntime refuses the original: its padding would be negative
    attributes = f'auto_pad="{auto}", kernel_shape=[{kernel}, 2], strides=[{stride}, 2]'
    arguments, weights = ("x, w", {"w": (3, 2, kernel, 2)}) if operator == "Conv" else ("x", {})
    # Shape inference, not the declared output, decides the size.
    model = graph(
        f"y = {operator}<{attributes}>({arguments})", inputs=f"float[1,2,{size},7] x", outputs="float[N,C,H,W] y", **weights
    )
    after = model.clone()
    explicit_windows(after)
    node = after.graph.node(0)
    assert attribute(node, "auto_pad") == "NOTSET"
    assert len(attribute(node, "pads")) == 4
    assert_same(model, after)


@pytest.mark.parametrize("attributes", ['auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', "output_shape=[9, 8]"])
def test_transposed_convolutions_get_the_padding_that_makes_their_size(attributes):
    model = graph(
        f"y = ConvTranspose<{attributes}, strides=[2, 2]>(x, w)",
        inputs="float[1,2,4,4] x",
        outputs="float[N,C,H,W] y",
        w=(2, 3, 3, 3),
    )
    after = model.clone()
    explicit_windows(after)
    assert "output_shape" not in after.graph.node(0).attributes
    assert_same(model, after)


def test_defaults_are_written_out():
    model = graph("y = Conv(x, w)", inputs="float[1,2,8] x", outputs="float[1,3,6] y", w=(3, 2, 3))
    explicit_windows(model)
    node = model.graph.node(0)
    assert [attribute(node, name) for name in ("kernel_shape", "strides", "dilations", "pads")] == [(3,), (1,), (1,), (0, 0)]
    assert explicit_windows(model) == 0


PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])


def padded(pads=PADS, mode="constant", rest="", outputs="float[N,C,H,W] y"):
    return graph(
        f'p = Pad<mode="{mode}">(x, pads) y = Conv<pads=[0, 1, 0, 1]>(p, w) {rest}',
        inputs="float[1,2,6,6] x",
        outputs=outputs,
        pads=pads,
        w=(3, 2, 3, 3),
    )


def test_padding_by_zeros_moves_into_the_convolution():
    model = padded()
    after = model.clone()
    assert fold_padding(after) == 1
    assert attribute(after.graph.node(0), "pads") == (1, 1, 2, 2)
    assert_same(model, after)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(padded(mode="reflect"), id="reflection"),
        pytest.param(padded(rest="z = Relu(p)", outputs="float[N,C,H,W] y, float[N,2,K,L] z"), id="a second consumer"),
        pytest.param(padded(pads=np.array([0, 0, -1, 0, 0, 0, 2, 1])), id="cropping"),
    ],
)
def test_other_padding_stays(model):
    assert fold_padding(model) == 0
    assert "Pad" in kinds(model)
