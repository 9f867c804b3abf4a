"""What onnxruntime reduces inside of the graph against numpy on the values themselves."""

from __future__ import annotations

import resource

import numpy as np
import onnx_ir as ir
import pytest

from calibration.reduction import PICKS, reduce_array
from exporter.graph.digest import digest_of
from exporter.graph.observe import Observer
from exporter.graph.run import FloatRunner, observed_values
from tests.quantization.planned import network, residual_net


def wide_net():
    """A value above the choice of elements, a vector, a scalar, integers in and between, an input that nothing reads."""
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        c = Relu (a)
        d = ReduceMax <keepdims = 0> (c)
        e = Cast <to = 1> (ids)
        f = Mul (e, d)
        top = ArgMax (c)
        g = Reshape (c, flat)
        y = Add (g, f)
        """,
        inputs="float[1,2,40,60] x, int64[3,1] ids, float[4] unused",
        outputs="float[3,7200] y, int64[1,3,40,60] top",
        w=(3, 2, 3, 3),
        b=(3,),
        flat=np.array([1, -1]),
    )


def feed(model, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    kinds = {"INT64": np.int64, "FLOAT": np.float32}
    return {v.name: (random.normal(size=tuple(v.shape)) * 3).astype(kinds[v.dtype.name]) for v in model.graph.inputs}


@pytest.mark.parametrize("build", [residual_net, wide_net])
def test_extremes_and_picked_elements_are_those_of_the_values_to_the_bit(build) -> None:
    model = build()
    sample = feed(model)
    names = [name for name in observed_values(model) if name not in sample]
    wanted = FloatRunner(model, names)(sample)
    found = Observer(model)(sample)
    assert list(found) == names
    assert any(array.size > PICKS for array in wanted.values()) or build is residual_net
    for name, array in wanted.items():
        expected = reduce_array(array)
        for key in ("low", "high", "picked"):
            np.testing.assert_array_equal(getattr(found[name], key), getattr(expected, key), err_msg=f"{name} {key}")
        assert (found[name].count, found[name].per_channel, found[name].nan) == (expected.count, expected.per_channel, None)
        np.testing.assert_allclose(found[name].total, expected.total, rtol=1e-4, atol=1e-5 * np.abs(array).sum())


def test_the_values_of_a_deep_graph_are_reduced_one_after_the_other() -> None:
    """Each value is freed once it has been reduced: the run holds a few of them, not all."""
    depth, size = 24, (1, 4, 256, 256)
    lines = "\n".join(f"v{i + 1} = {'Sin' if i % 2 else 'Cos'} (v{i})" for i in range(depth))
    shape = "float[" + ",".join(map(str, size)) + "]"
    run = Observer(network(lines, inputs=f"{shape} v0", outputs=f"{shape} v{depth}"))
    sample = {"v0": np.ones(size, np.float32)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(run(sample)) == depth
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < depth / 2 * sample["v0"].nbytes


def test_infinity_nan_and_a_sum_beyond_float32_are_told_apart() -> None:
    model = network(
        "y = Mul (x, k)\n z = Relu (x)", inputs="float[1,2,3] x", outputs="float[1,2,3] y, float[1,2,3] z", k=np.float32(1e30)
    )
    run = Observer(model)
    ordinary = np.ones((1, 2, 3), np.float32)
    for value, low, high, nan in ((3.3e8, 1e30, 3.3e38, None), (-1e10, -np.inf, 1e30, None), (np.nan, np.nan, np.nan, (0, 1, 2))):
        array = ordinary.copy()
        array[0, 1] = value
        if nan is not None:
            array[0, 1, :2] = 1
        found = run({"x": array})["y"]
        np.testing.assert_allclose([found.low.min(), found.high.max()], [low, high], rtol=1e-6)
        assert found.nan == nan
        assert np.isfinite(found.total).all()
        assert found.picked.size == (6 if np.isfinite(low) else 0)


def test_an_output_that_is_left_out_has_no_name_and_is_not_watched() -> None:
    model = network("y = MaxPool <kernel_shape = [2]> (x)", inputs="float[1,2,4] x", outputs="float[1,2,3] y").clone()
    next(iter(model.graph)).resize_outputs(2)
    assert list(Observer(model)(feed(model))) == ["y"]


def test_a_graph_of_integers_alone_has_nothing_to_observe() -> None:
    model = network("y = Add (x, x)", inputs="int64[2] x", outputs="int64[2] y")
    assert Observer(model)({"x": np.arange(2)}) == {}


def test_the_digest_of_a_graph_sees_weights_and_not_where_nodes_came_from() -> None:
    model = residual_net().clone()
    before = digest_of(model)
    next(iter(model.graph)).metadata_props["pkg.torch.onnx.stack_trace"] = "somewhere.py:3"
    assert digest_of(model) == before
    assert before != digest_of(wide_net())
    next(iter(model.graph)).metadata_props["edgewright.float"] = "because"
    noted = digest_of(model)
    assert noted != before
    weight = model.graph.initializers["w1"]
    changed = np.array(weight.const_value.numpy())
    changed.flat[0] += 1
    weight.const_value = ir.tensor(changed, name="w1")
    assert digest_of(model) not in (noted, before)
