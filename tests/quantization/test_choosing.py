"""The choice of ranges by the outputs: what it gains, and that it leaves alone what only seems to gain."""

from itertools import cycle

import numpy as np
import pytest

from calibration import open_samples
from exporter.frontends.source import Signature
from exporter.quantization import choosing
from exporter.quantization.choosing import best_methods, expected_gain
from exporter.quantization.mixing.switches import Switchboard
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import planned_sqnr, sqnr
from tests.quantization.planned import network, residual_net, samples, statistics, target


def spiky(seed, count=24, spike=200.0):
    """Normal numbers, of which now and then one is far out, in a place that hardly matters to the output."""
    random = np.random.default_rng(seed)
    items = [random.normal(size=(1, 3, 40, 40)).astype(np.float32) for _ in range(count)]
    for item in items[:: count // 2]:
        item[0, 2, 0, 0] = spike
    return open_samples(items, [Signature("x", (1, 3, 40, 40), "float32")])


@pytest.fixture(scope="module")
def weighing():
    """Its output hardly weighs the channel with the outliers."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    weight[:, 2] = 1e-4
    return network("y = Conv (x, w, b)", inputs="float[1,3,40,40] x", outputs="float[1,4,40,40] y", w=weight, b=(4,))


def test_outliers_that_do_not_matter_are_cut_and_other_inputs_gain(weighing):
    store = statistics(weighing, spiky(0))
    methods = best_methods(weighing, store, target(), store.reservoir)
    plain, best = make_plan(weighing, store, target()), make_plan(weighing, store, target(), method=methods)
    assert best.encodings["x"].scale[0] < plain.encodings["x"].scale[0] / 8
    before, after = planned_sqnr(weighing, [plain, best], target(), list(spiky(1)))
    assert after > before + 10


def test_outliers_that_the_output_is_about_stay():
    ones = np.ones((3, 1, 1, 1), np.float32)
    body = "c = Conv <group = 3> (x, w, b)\n y = GlobalMaxPool (c)"
    largest = network(body, inputs="float[1,3,40,40] x", outputs="float[1,3,1,1] y", w=ones, b=(3,))
    store = statistics(largest, spiky(0))
    assert expected_gain(store.values["x"], "mse") > 1.0  # what fewer far elements would gain, were they not the output
    assert best_methods(largest, store, target(), store.reservoir) == dict.fromkeys("xcy", "headroom")


def test_nothing_is_run_where_no_method_would_change_anything(monkeypatch):
    model = network("y = Sigmoid (x)", inputs="float[1,3,16,16] x", outputs="float[1,3,16,16] y")
    even = np.linspace(-1, 1, 768, dtype=np.float32).reshape(1, 3, 16, 16)
    store = statistics(model, open_samples([even], [Signature("x", (1, 3, 16, 16), "float32")]))
    monkeypatch.setattr(choosing, "planned_sqnr", lambda *_: pytest.fail("the model was run"))
    assert best_methods(model, store, target(), store.reservoir) == dict.fromkeys("xy", "headroom")


def test_of_proposals_that_are_about_as_good_the_one_that_cuts_least_is_taken(monkeypatch):
    model = residual_net()
    store = statistics(model, samples(model))
    plans = []

    def scores(_, given, *__):
        plans.extend(given)
        return [10.0, *np.linspace(20.0, 20.4, len(given) - 1)]

    gains = cycle([20.0, 5.0, 2.0, 0.5])
    monkeypatch.setattr(choosing, "expected_gain", lambda *_: next(gains))
    monkeypatch.setattr(choosing, "planned_sqnr", scores)
    methods = best_methods(model, store, target(), store.reservoir)
    cut = [sum(plan.encodings[name] != plans[0].encodings[name] for name in methods) for plan in plans]
    chosen = make_plan(model, store, target(), method=methods)
    assert max(cut) > min(cut[1:]) > 0
    assert sum(chosen.encodings[name] != plans[0].encodings[name] for name in methods) == min(cut[1:])


@pytest.mark.parametrize(
    ("known", "gain", "cut"), [(True, 0.3, True), (True, 0.2, False), (False, 0.9, False), (False, 1.1, True)]
)
def test_of_large_models_activations_are_judged_behind_fine_constants_and_less_is_enough(weighing, monkeypatch, known, gain, cut):
    store, judged = statistics(weighing, spiky(0)), []

    def scores(_, given, *__):
        judged.extend(given)
        return [10.0, *[10.0 + gain] * (len(given) - 1)]

    monkeypatch.setattr(choosing, "planned_sqnr", scores)
    monkeypatch.setattr(choosing, "LARGE_MODEL_MACS", 0 if known else 2**60)
    methods = best_methods(weighing, store, target(), store.reservoir)
    plain = make_plan(weighing, store, target(), method="headroom")
    assert (set(methods.values()) != {"headroom"}) is cut
    assert judged[0].encodings["x"] == plain.encodings["x"]
    assert (judged[0].encodings["w"].dtype, judged[0].encodings["b"].dtype) == (("int16" if known else "int8"), "int32")
    finer = plain.encodings["w"].scale[0] / judged[0].encodings["w"].scale[0]
    assert finer == (256 if known else 1)


def test_fast_takes_the_word_of_a_large_models_values_and_runs_nothing(weighing, monkeypatch):
    store = statistics(weighing, spiky(0))
    monkeypatch.setattr(choosing, "LARGE_MODEL_MACS", 0)
    monkeypatch.setattr(choosing, "planned_sqnr", lambda *_: pytest.fail("the model was run"))
    methods = best_methods(weighing, store, target(), store.reservoir, effort="fast")
    promised = {name: expected_gain(store.values[name], "mse") >= 1.0 for name in methods}
    assert {name: method == "mse" for name, method in methods.items()} == promised
    assert True in promised.values()


def test_fine_constants_are_as_good_as_float(weighing):
    store = statistics(weighing, spiky(0))
    plain = make_plan(weighing, store, target())
    board = Switchboard(weighing, plain)
    held = list(spiky(1, 4))
    exact = sqnr(
        weighing,
        [board(sample, lambda _: False) for sample in held],
        [board(sample, lambda switch: switch.kind == "activation") for sample in held],
    )
    (fine,) = planned_sqnr(weighing, [choosing._unrounded(weighing, plain)], target(), held)
    assert fine == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_promised_gain_is_what_the_method_s_own_error_says(symmetric):
    store = statistics(residual_net(), samples(residual_net()))
    for stats in store.values.values():
        assert expected_gain(stats, "headroom", symmetric) == 0.0
        assert expected_gain(stats, "mse", symmetric) >= 0.0
