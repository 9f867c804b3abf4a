"""Branches for hidden channels that are far wider than the others: the same numbers, and what they gain."""

import numpy as np
import pytest

from diagnostics import ModelError
from exporter import pipeline
from exporter.graph.float_sums import mark_float_sums
from exporter.graph.values import FLOAT
from exporter.pipeline import Options
from exporter.progress import SILENT
from exporter.quantization.equalization.equalizing import BRANCH_DB, equalize, outliers
from exporter.quantization.equalization.restated import restated
from exporter.quantization.equalization.splits import bottlenecks, split
from exporter.quantization.mixing import sensitivity
from exporter.quantization.plan import Plan
from exporter.quantization.planner import make_plan
from targets.loader import load_target
from tests.graph.small_graphs import assert_same
from tests.quantization.planned import network, statistics, target

WIDE = 70  # the hidden channel that is made an outlier


def block(behind="y = LayerNormalization<axis=-1>(s, h, e)", between="r = Gelu(n)", wide=30.0):
    """A feed-forward block of a transformer between two normalizations, one of whose 200 hidden channels is wide."""
    first = np.random.default_rng(0).normal(size=(8, 200)).astype(np.float32) / 3
    second = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32) / 14
    first[:, WIDE] *= wide
    head = "l = LayerNormalization<axis=-1>(x, g, b) m = MatMul(l, u) n = Add(m, c)"
    body = f"{head} {between} p = MatMul(r, v) q = Add(p, d) s = Add(l, q) {behind}"
    ones = {name: np.ones(8, np.float32) for name in ("g", "h")}
    shapes = {"inputs": "float[1,12,8] x", "outputs": "float[1,12,8] y"}
    model = network(body, **shapes, u=first, v=second, c=(200,), b=(8,), d=(8,), e=(8,), **ones)
    mark_float_sums(model)
    return model


@pytest.fixture(scope="module")
def model():
    return block()


@pytest.mark.parametrize("channels", [(WIDE,), (0, 3, WIDE, 199)])
@pytest.mark.parametrize("between", ["r = Gelu(n)", "r = Relu(n)", "o = Tanh(n) r = LeakyRelu<alpha=0.1>(o)"])
def test_a_branch_changes_no_number(between, channels):
    before = block(between=between)
    (found,) = bottlenecks(before.graph)
    assert found.count == 200
    after = split(before, {found.name: channels})
    assert_same(before, after.model, relative=2e-5)
    added = len(after.model.graph) - len(before.graph)
    assert added == len(found.between) + 3  # two products, and the sum behind them
    assert sum(FLOAT in node.metadata_props for node in after.model.graph) >= added


def test_convolutions_and_flattened_rows_have_bottlenecks():
    body = "a = Conv(x, v, b) r = Sigmoid(a) c = Conv(r, w, d) y = Erf(c)"
    image = network(body, inputs="float[1,3,6,6] x", outputs="float[1,5,6,6] y", v=(8, 3, 1, 1), b=(8,), w=(5, 8, 1, 1), d=(5,))
    (found,) = bottlenecks(image.graph)
    assert_same(image, split(image, {found.name: (2, 7)}).model, relative=2e-5)
    rows = network(
        "a = Gemm<transB=1>(x, v, b) i = Reshape(a, s) g = Gelu(i) j = Reshape(g, t) c = Gemm<transB=1>(j, w, d) y = Erf(c)",
        inputs="float[4,6] x",
        outputs="float[4,5] y",
        v=(8, 6),
        b=(8,),
        w=(5, 8),
        d=(5,),
        s=np.array([2, 2, 8]),
        t=np.array([4, 8]),
    )
    (found,) = bottlenecks(rows.graph)
    assert_same(rows, split(rows, {found.name: (2, 7)}).model, relative=2e-5)


@pytest.mark.parametrize("between", ["o = Gelu(n) r = Mul(o, o)", "r = Softmax<axis=-1>(n)"])
def test_functions_of_more_than_one_element_make_none(between):
    assert bottlenecks(block(between=between).graph) == []


def test_what_integers_read_needs_an_encoding_and_is_none():
    body = "l = LayerNormalization<axis=-1>(x, g) m = MatMul(l, u) r = Gelu(m) p = MatMul(r, v) y = Relu(p)"
    model = network(body, inputs="float[1,4,8] x", outputs="float[1,4,8] y", g=(8,), u=(8, 16), v=(16, 8))
    assert bottlenecks(model.graph) == []


def test_the_wide_channel_is_found_and_its_branch_gains(model):
    store = statistics(model)
    (found,) = bottlenecks(model.graph)
    assert outliers(model, list(store.reservoir)) == {found.name: (WIDE,)}
    equalized = equalize(model, store, target())
    assert equalized.splits == {found.name: (WIDE,)}
    assert equalized.whole is not None
    assert equalized.whole.splits == {}
    plan = make_plan(equalized.model, equalized.statistics, target())
    plain = make_plan(model, store, target())
    hidden = found.second.inputs[0].name
    assert plan.encodings[hidden].scale[0] < plain.encodings[hidden].scale[0] / 4


def test_channels_alike_stay_together():
    even = block(wide=1.0)
    assert outliers(even, list(statistics(even).reservoir)) == {}


def test_statistics_are_those_of_a_new_calibration(model):
    store = statistics(model)
    (found,) = bottlenecks(model.graph)
    rewritten = split(model, {found.name: (WIDE,)})
    known, wanted = restated(rewritten, store).values, statistics(rewritten.model).values
    for name in make_plan(rewritten.model, restated(rewritten, store), target()).encodings.keys() & wanted.keys():
        assert known[name].low == pytest.approx(wanted[name].low, rel=1e-4, abs=1e-5)
        assert known[name].high == pytest.approx(wanted[name].high, rel=1e-4, abs=1e-5)


def test_a_plan_keeps_them_and_refuses_another_graph(model):
    plan = Plan("bench", splits={"r": (1, 2)}, migrations={"a:1": (0.5, 2.0)})
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(ModelError) as caught:
        split(model, {"elsewhere": (1,)})
    assert caught.value.code == "EW-Q002"


@pytest.mark.parametrize(("effort", "planned"), [("balanced", 2), ("fast", 1)])
@pytest.mark.parametrize("gained", [BRANCH_DB - 0.1, BRANCH_DB + 0.1])
def test_branches_stay_where_the_plans_say_so(model, monkeypatch, effort, planned, gained):
    """What other precisions of some nodes make up for needs no branch, which takes time in every inference."""
    made, judged = [], iter([20.0 + gained, 20.0])
    monkeypatch.setattr(pipeline, "decide", lambda graph, *_: made.append(graph) or Plan("bench"))
    monkeypatch.setattr(sensitivity, "planned_db", lambda *_: next(judged))
    monkeypatch.setattr(pipeline, "equalize", lambda *_: equalize(model, statistics(model), target()))
    graph, _, plan = pipeline.quantize(model, load_target("android-arm64-cpu"), statistics(model), Options(effort=effort), SILENT)
    assert len(made) == planned
    assert bool(plan.splits) == (effort == "fast" or gained > BRANCH_DB)
    assert graph is made[0 if plan.splits else 1]
