"""Forms that onnxruntime turns into its fast kernels: what it makes of an artifact when it loads it."""

import collections

import numpy as np
import onnx
import pytest

from calibration import open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.frontends.source import Signature
from exporter.graph.run import FloatRunner
from exporter.quantization.costs import SKIPPED_NORMALIZATION
from exporter.quantization.planner import float_plan, make_plan
from exporter.quantization.weights import weight_plan
from targets.loader import load_target
from targets.precision import choose_precision
from tests.quantization.planned import network, run, samples, session, sqnr, statistics


def _kinds(content: bytes, tmp_path) -> collections.Counter:
    path = tmp_path / "optimized.onnx"
    session(content, str(path))
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def _decibels(model, content: bytes, data) -> float:
    pairs = [(FloatRunner(model)(sample)["y"], run(content, sample)["y"]) for sample in data]
    return sqnr(*map(np.asarray, zip(*pairs, strict=True)))


@pytest.mark.parametrize(
    ("last", "parts"),
    [(1e-3, ["Mul", "Max"]), (0.0, ["Relu", "Min", "Mul", "Add"]), (1.5, ["Relu", "Min", "Mul", "Add"])],
)
def test_prelu_is_written_out_and_exact(last, parts):
    slopes = np.asarray([0.5, -0.25, 1.0, last], np.float32).reshape(4, 1, 1)
    model = network("y = PRelu (x, s)", inputs="float[1,4,8,8] x", outputs="float[1,4,8,8] y", s=slopes)
    profile = choose_precision(load_target("x86-64-cpu"), "float32")
    content = write_onnx(model, float_plan(model, profile), profile)
    graph = onnx.load_from_string(content).graph
    assert [node.op_type for node in graph.node] == parts
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    x[0, :3, 0, 0], x[0, :3, 0, 1], x[0, 3, 0, 0] = np.inf, -np.inf, np.inf
    np.testing.assert_array_equal(run(content, {"x": x})["y"], FloatRunner(model)({"x": x})["y"])


def test_prelu_runs_in_float_between_integers(tmp_path):
    """It is computed in float whatever its plan says: one rounding behind it, none of its slopes, and no encoding tied to another."""
    model = network(
        "a = Conv (x, w)  b = PRelu (a, s)  y = Conv (b, v)",
        inputs="float[1,4,8,8] x",
        outputs="float[1,4,8,8] y",
        w=(16, 4, 1, 1),
        s=np.linspace(-0.9, 0.9, 16, dtype=np.float32).reshape(16, 1, 1),
        v=(4, 16, 1, 1),
    )
    profile = load_target("x86-64-cpu")
    plan = make_plan(model, statistics(model), profile)
    assert plan.precision[model.graph[1].name] == "float32"
    assert "PRelu" in plan.reasons[model.graph[1].name]
    content = write_onnx(model, plan, profile)
    kinds = _kinds(content, tmp_path)
    assert (kinds["QLinearConv"], kinds["Mul"], kinds["Max"], kinds["PRelu"]) == (2, 1, 1, 0)
    assert kinds["QuantizeLinear"] == 2
    stored = {entry.name: tuple(entry.dims) for entry in onnx.load_from_string(content).graph.initializer}
    assert (1, 16, 1, 8) in stored.values()  # a row of slopes
    assert _decibels(model, content, samples(model)) > 30


def test_other_runtimes_read_prelu():
    model, profile = (
        network("y = PRelu (x, s)", inputs="float[1,4,8,8] x", outputs="float[1,4,8,8] y", s=(4, 1, 1)),
        load_target("jetson-orin"),
    )
    graph = onnx.load_from_string(write_onnx(model, float_plan(model, profile), profile)).graph
    assert [node.op_type for node in graph.node] == ["PRelu"]


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_one_number_beside_a_last_axis_of_one_has_as_many_axes(precision):
    model = network(
        "a = Mul (x, c)  y = Sub (d, a)",
        inputs="float[1,5,7,1] x",
        outputs="float[1,5,7,1] y",
        c=np.float32([0.5]),
        d=np.float32(2),
    )
    profile = choose_precision(load_target("x86-64-cpu"), precision)
    quick = {kernel: {"int8": 0.01, "float32": 1.0} for kernel in ("Mul", "Sub")}
    profile = profile.model_copy(update={"cost": profile.cost.model_copy(update={"kernels": quick})})
    plan = float_plan(model, profile) if precision == "float32" else make_plan(model, statistics(model), profile)
    content = write_onnx(model, plan, profile)
    graph = onnx.load_from_string(content).graph
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert sorted(tuple(entry.dims) for entry in graph.initializer if "_as_1x1x1x1" in entry.name) == [(1,) * 4] * 2
    sample = next(iter(samples(model)))
    np.testing.assert_allclose(
        run(content, sample)["y"], FloatRunner(model)(sample)["y"], atol=0.05 if precision == "int8" else 0
    )


def test_scalars_stay_where_other_axes_are_last():
    model = network("y = Mul (x, c)", inputs="float[1,5,7] x", outputs="float[1,5,7] y", c=np.float32(0.5))
    profile = choose_precision(load_target("x86-64-cpu"), "float32")
    graph = onnx.load_from_string(write_onnx(model, float_plan(model, profile), profile)).graph
    assert [tuple(entry.dims) for entry in graph.initializer] == [()]


def _normalized_sum():
    return network(
        "a = Add (x0, x1)  y = LayerNormalization <axis = -1> (a, scale, bias)",
        inputs="float[1,8,32] x0, float[1,8,32] x1",
        outputs="float[1,8,32] y",
        scale=(32,),
        bias=(32,),
    )


@pytest.mark.parametrize(("factor", "skipped"), [(None, 0), (1.0, 1)])
def test_a_sum_is_normalized_apart_where_both_at_once_are_slower(factor, skipped, tmp_path):
    profile = choose_precision(load_target("x86-64-cpu"), "float32")
    if factor is not None:
        cost = profile.cost.model_copy(update={"kernels": {SKIPPED_NORMALIZATION: {"float32": factor}}})
        profile = profile.model_copy(update={"cost": cost})
    model = _normalized_sum()
    content = write_onnx(model, float_plan(model, profile), profile)
    assert _kinds(content, tmp_path)["SkipLayerNormalization"] == skipped
    sample = next(iter(samples(model)))
    np.testing.assert_allclose(run(content, sample)["y"], FloatRunner(model)(sample)["y"], rtol=0, atol=1e-5)


def test_constants_that_change_every_few_elements_stay_out_of_integer_kernels(tmp_path):
    model = network(
        "a = MatMul (x, w)  b = Mul (a, c)  y = MatMul (b, v)",
        inputs="float[1,2,8,32] x",
        outputs="float[1,2,8,4] y",
        w=(32, 2),
        c=(8, 1),
        v=(2, 4),
    )
    profile = load_target("x86-64-cpu")
    kinds = _kinds(write_onnx(model, make_plan(model, statistics(model), profile), profile), tmp_path)
    assert (kinds["QLinearMul"], kinds["Mul"]) == (0, 1)


def test_other_runtimes_read_a_plain_sum():
    model, profile = _normalized_sum(), load_target("jetson-orin")
    graph = onnx.load_from_string(write_onnx(model, float_plan(model, profile), profile)).graph
    assert [node.op_type for node in graph.node] == ["Add", "LayerNormalization"]


@pytest.mark.parametrize("shape", [(24,), (1, 24)])
def test_a_bias_behind_a_product_of_integers_leaves_it_in_integers(shape, tmp_path):
    """A sum that float nodes read (a normalization) is handed out as floats; with a bias of one axis it would be a Gemm of floats."""
    model = network(
        "a = MatMul (x, w)  b = Add (a, c)  y = LayerNormalization <axis = -1> (b, scale, bias)",
        inputs="float[1,8,32] x",
        outputs="float[1,8,24] y",
        w=(32, 24),
        c=shape,
        scale=(24,),
        bias=(24,),
    )
    profile = load_target("x86-64-cpu")
    plan = make_plan(model, statistics(model), profile, floats={model.graph[1].name: "as asked"})
    content = write_onnx(model, plan, profile)
    kinds = _kinds(content, tmp_path)
    assert (kinds["MatMulIntegerToFloat"], kinds["Gemm"], kinds["MatMul"]) == (1, 0, 0)
    assert _decibels(model, content, samples(model)) > 30


def test_constants_beside_activations_are_of_their_dtype(tmp_path):
    """Of a table in int8 beside uint8 activations onnxruntime would make floats, all of it, in every run; a sum would run in float."""
    model = network(
        "a = Gather (table, i)  b = Add (a, c)  y = MatMul (b, w)",
        inputs="int64[1,8] i",
        outputs="float[1,8,24] y",
        table=(64, 32),
        c=(32,),
        w=(32, 24),
    )
    profile = load_target("x86-64-cpu")
    rows = [{"i": np.random.default_rng(seed).integers(0, 64, (1, 8))} for seed in range(8)]
    given = open_samples(rows, [Signature("i", (1, 8), "int64")])
    plan = make_plan(model, statistics(model, given), profile)
    content = write_onnx(model, plan, profile)
    path = tmp_path / "optimized.onnx"
    session(content, str(path))
    graph = onnx.load(path).graph
    stored = {entry.name: entry.data_type for entry in graph.initializer}
    (lookup,) = [node for node in graph.node if node.op_type == "Gather"]
    assert stored[lookup.input[0]] == onnx.TensorProto.UINT8
    assert [node.op_type for node in graph.node] == ["Gather", "QLinearAdd", "MatMulIntegerToFloat"]
    assert _decibels(model, content, given) > 30


@pytest.mark.parametrize("precision", ["weight_int8", "float32"])
def test_weights_alone_in_integers_are_decoded_once(precision, tmp_path):
    """onnxruntime folds no DequantizeLinear: what is written decodes the same numbers in operators that it does fold."""
    model = network(
        "a = Conv (x, w)  b = Relu (a)  c = ConvTranspose (b, u)  d = Flatten (c)  y = Gemm (d, v)",
        inputs="float[1,4,8,8] x",
        outputs="float[1,16] y",
        w=(48, 4, 3, 3),
        u=(48, 16, 2, 2),
        v=(16 * 49, 16),
    )
    profile = choose_precision(load_target("x86-64-cpu"), precision)
    content = write_onnx(model, weight_plan(model, profile) if precision != "float32" else float_plan(model, profile), profile)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert not {"DequantizeLinear", "Cast", "Mul"} & set(_kinds(content, tmp_path))
    if precision == "weight_int8":
        integers = [
            entry for entry in onnx.load_from_string(content).graph.initializer if entry.data_type == onnx.TensorProto.INT8
        ]
        assert len(integers) == 3
        assert _decibels(model, content, samples(model)) > 40
