"""Columns that become channels: the same convolution whatever its window, and only where it pays."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.graph.check import check
from exporter.graph.fold_columns import columns_at_once, fold_columns
from exporter.graph.run import FloatRunner
from exporter.graph.values import attribute, static_shape
from targets.cost import CostModel
from targets.loader import load_target
from targets.schema import Form
from tests.quantization.planned import network

X86 = CostModel(load_target("x86-64-cpu"))


def _conv(
    inputs: int,
    outputs: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int = 1,
    pads=None,
    behind="y = Identity (c)",
) -> ir.Model:
    axes = len(size)
    pads = pads or [0] * (2 * axes)
    strides = [1] * (axes - 1) + [stride]
    wide = [*[f"h{axis}" for axis in range(axes - 1)], "w"]
    return network(
        f"c = Conv <strides = {strides}, pads = {pads}> (x, k, b)  {behind}",
        inputs=f"float[{', '.join(map(str, (1, inputs, *size)))}] x",
        outputs=f"float[1, {outputs}, {', '.join(wide)}] y",
        k=(outputs, inputs, *kernel),
        b=(outputs,),
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_folded_convolution_is_the_same(data: st.DataObject) -> None:
    count, stride, width = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    before, after = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    columns = data.draw(st.integers(max(width - before - after, 1), 40))
    rows = data.draw(st.sampled_from([(), (5,)]))
    kernel = (*((3,) if rows else ()), width)
    pads = [*((1,) if rows else ()), before, *((1,) if rows else ()), after]
    behind = data.draw(st.sampled_from(["y = Relu (c)", "y = Sigmoid (c)", "y = Identity (c)"]))
    model = _conv(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), (*rows, columns), kernel, stride, pads, behind)
    folded = model.clone()
    assert fold_columns(folded, lambda node: count) == 1
    check(folded, "fold")
    (conv,) = [node for node in folded.graph if node.op_type == "Conv"]
    assert attribute(conv, "strides")[-1] == 1
    users = [node.op_type for value in conv.outputs for node, _ in value.uses()]
    assert users == (["Relu"] if "Relu" in behind else ["Reshape"])
    shape = static_shape(model.graph.inputs[0])
    x = np.random.default_rng(0).integers(-8, 8, shape).astype(np.float32)
    wanted, found = (FloatRunner(graph)({"x": x})["y"] for graph in (model, folded))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", ["int8", "float32"])
def test_few_channels_under_a_wide_window_are_folded(form: Form) -> None:
    node = _conv(8, 8, (172, 264), (3, 39), pads=[1, 19, 1, 19]).graph[0]
    assert columns_at_once(node, X86, form) == 2
    node = _conv(1, 1, (1, 44098), (1, 256), stride=2).graph[0]
    assert columns_at_once(node, X86, form) == 16


@pytest.mark.parametrize("form", ["int8", "float32"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "kernel", "stride"),
    [
        (64, 64, (56, 56), (3, 3), 1),  # vectors are full
        (3, 32, (224, 224), (3, 3), 2),  # a narrow window: mostly zeros
        (36, 1, (1, 427), (1, 256), 1),  # many weights
        (8, 1, (4, 4), (1, 1), 1),  # moving costs more
    ],
)
def test_others_stay(inputs, outputs, size, kernel, stride, form: Form) -> None:
    assert columns_at_once(_conv(inputs, outputs, size, kernel, stride).graph[0], X86, form) == 1


def test_groups_dilations_and_computed_weights_are_not_asked_for() -> None:
    bodies = [
        "y = Conv <group = 2> (x, k)",
        "y = Conv <dilations = [1, 2]> (x, l)",
        "i = Identity (x)  m = Relu (l)  n = Add (m, z)  y = Conv (i, n)",
    ]
    for body in bodies:
        model = network(
            body, inputs="float[1,4,8,8] x, float[4,4,1,2] z", outputs="float[1,4,h,w] y", k=(4, 2, 1, 2), l=(4, 4, 1, 2)
        )
        assert fold_columns(model, lambda node: 2) == 0


def test_an_infinity_reaches_the_columns_whose_common_window_holds_it_and_no_others() -> None:
    """Zeros among the repeated weights meet it there, and zero times infinity is NaN."""
    model = _conv(1, 1, (64,), (3,))
    folded = model.clone()
    assert fold_columns(folded, lambda node: 4) == 1
    x = np.random.default_rng(0).normal(size=(1, 1, 64)).astype(np.float32)
    x[..., 30] = np.inf
    plain, together = (FloatRunner(entry, ["y"])({"x": x})["y"] for entry in (model, folded))
    assert np.flatnonzero(~np.isfinite(plain)).tolist() == [28, 29, 30]
    assert set(np.flatnonzero(~np.isfinite(together))) == set(range(24, 32))
    np.testing.assert_allclose(together[np.isfinite(together)], plain[np.isfinite(together)], rtol=1e-5)
