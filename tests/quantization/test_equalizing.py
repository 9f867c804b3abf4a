"""What migrating scales gains, that it is left where it gains nothing, and that the statistics that follow are those of a new calibration."""

from dataclasses import replace

import numpy as np
import pytest

from calibration import open_samples
from exporter.frontends.source import Signature, Source
from exporter.graph.values import constant
from exporter.pipeline import Options, build
from exporter.quantization.equalization import equalizing
from exporter.quantization.equalization.channels import channel_groups
from exporter.quantization.equalization.equalizing import equalize
from exporter.quantization.equalization.migrations import migrate
from exporter.quantization.equalization.restated import restated
from exporter.quantization.equalization.scales import _Writer, best_scales
from exporter.quantization.plan import Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import planned_sqnr
from tests.quantization.planned import network, samples, statistics, target


@pytest.fixture(scope="module")
def unequal():
    """A convolution whose channels are up to 300 times as wide as one another, and one behind it that weighs them alike."""
    wide = np.geomspace(0.1, 30, 8).astype(np.float32)
    random = np.random.default_rng(0)
    first = (random.normal(size=(8, 3, 3, 3)) * wide[:, None, None, None]).astype(np.float32)
    second = (random.normal(size=(4, 8, 1, 1)) / wide[:, None, None]).astype(np.float32)
    body = "a = Conv <pads = [1, 1, 1, 1]> (x, v, b) r = Relu (a) y = Conv (r, w, c)"
    return network(
        body, inputs="float[1,3,12,12] x", outputs="float[1,4,12,12] y", v=first, b=(8,), w=second.astype(np.float32), c=(4,)
    )


def test_unequal_channels_are_brought_together(unequal):
    store = statistics(unequal)
    equalized = equalize(unequal, store, target())
    (scale,) = equalized.scales.values()
    assert max(scale) > 50 * min(scale)
    held = list(samples(unequal, seed=5))
    (before,) = planned_sqnr(unequal, [make_plan(unequal, store, target())], target(), held)
    (after,) = planned_sqnr(equalized.model, [make_plan(equalized.model, equalized.statistics, target())], target(), held)
    assert after > before + 6


@pytest.mark.parametrize(
    ("effort", "large", "affordable", "seen"),
    [("fast", True, 0, 4), ("fast", True, 9, 9), ("fast", False, 9, 16), ("balanced", True, 9, 16), ("balanced", False, 99, 24)],
)
def test_as_many_samples_judge_as_the_model_lets(unequal, monkeypatch, effort, large, affordable, seen):
    judged = []
    monkeypatch.setattr(equalizing, "LARGE_MODEL_MACS", 0 if large else 2**60)
    monkeypatch.setattr(equalizing, "affordable", lambda *_: affordable)
    monkeypatch.setattr(equalizing, "planned_db", lambda model, plan, held: judged.append(len(held)) or 20.0)
    equalize(unequal, statistics(unequal, samples(unequal, 24)), target(), effort)
    assert set(judged) == {seen}


@pytest.mark.parametrize(
    ("reached", "chosen"),
    [
        ((10.0, 20.0, 20.3, 19.9), 1),  # about as good: the fewest groups
        ((10.0, 20.0, 20.3, 19.7), 2),
        ((10.0, 20.9, 20.3, 19.9), 3),
        ((10.0, 11.9, 11.9, 11.9), 0),  # less than the margin
        ((10.0, 11.7, 12.2, 11.8), 1),  # the best of them is beyond it
    ],
)
def test_of_proposals_that_are_about_as_good_the_one_of_fewest_groups_is_taken(unequal, monkeypatch, reached, chosen):
    store = statistics(unequal)
    given = [equalizing.Equalized(unequal, store, {}, {str(n): (1.0,) for n in range(groups)}) for groups in (3, 2, 1)]
    scores = dict(zip((0, 3, 2, 1), reached, strict=True))
    monkeypatch.setattr(equalizing, "_migrated", lambda *_: given)
    monkeypatch.setattr(equalizing, "_reached", lambda equalized, *_: scores[len(equalized.scales)])
    assert len(equalize(unequal, store, target()).scales) == chosen


def test_equal_channels_are_left_alone():
    body = "a = Conv (x, v, b) r = Relu (a) y = Conv (r, w, c)"
    model = network(body, inputs="float[1,8,12,12] x", outputs="float[1,4,12,12] y", v=np.eye(8).reshape(8, 8, 1, 1).astype(np.float32),
                    b=np.zeros(8, np.float32), w=np.ones((4, 8, 1, 1), np.float32), c=(4,))  # fmt: skip
    equalized = equalize(model, statistics(model), target())
    assert equalized.model is model
    assert equalized.scales == {}


def test_sixteen_bits_have_no_need(unequal):
    sixteen = target()
    sixteen = sixteen.model_copy(update={"artifact": sixteen.artifact.model_copy(update={"precision": "int16x8"})})
    assert equalize(unequal, statistics(unequal), sixteen).scales == {}


def test_the_expected_gain_is_that_of_one_range_a_channel(unequal):
    ((gain, scale),) = best_scales(unequal, list(statistics(unequal).reservoir)).values()
    assert gain > 6
    assert np.log(scale).mean() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def uneven():
    """Channels that are as wide as one another, half of them by one weight of 40, half by 576 weights of about 1."""
    first = np.random.default_rng(0).normal(size=(8, 64, 3, 3)).astype(np.float32)
    first[:4] = 0
    first[np.arange(4), np.arange(4), 1, 1] = 40
    body = "a = Conv (x, v, b) r = Relu (a) y = Conv (r, w, c)"
    return network(body, inputs="float[1,64,8,8] x", outputs="float[1,4,6,6] y", v=first, b=(8,), w=(4, 8, 1, 1), c=(4,))


def test_weights_of_one_scale_a_tensor_are_levelled_out(uneven):
    """By the step that they share; where each channel has its own, little is to be gained."""
    store = statistics(uneven)
    ((apart, _),) = best_scales(uneven, list(store.reservoir)).values()
    ((gain, scale),) = best_scales(uneven, list(store.reservoir), per_channel=False).values()
    assert apart < 3
    assert gain > 6
    assert min(scale[:4]) > 3 * max(scale[4:])
    whole, held = target(per_channel=False), list(samples(uneven, seed=5))
    equalized = equalize(uneven, store, whole)
    (before,) = planned_sqnr(uneven, [make_plan(uneven, store, whole)], whole, held)
    (after,) = planned_sqnr(equalized.model, [make_plan(equalized.model, equalized.statistics, whole)], whole, held)
    assert after > before + 2
    assert equalize(uneven, store, target()).scales == {}


@pytest.mark.parametrize("kernel", [(12, 1, 3, 3), (12, 2, 1, 1)])
def test_noise_of_a_weight_is_that_of_its_own_group(kernel):
    """A convolution in groups, of which the first reads what is ten times as wide: its weights' rounding is heard a hundred times as loud."""
    groups = 12 // (kernel[1] * (12 // kernel[0]))
    body = f"a = Conv <group = {groups}> (x, v, b) r = Relu (a) y = Conv (r, w, c)"
    model = network(body, inputs="float[1,12,6,6] x", outputs="float[1,4,n,n] y", v=kernel, b=(12,), w=(4, 12, 1, 1), c=(4,))
    (group,) = channel_groups(model.graph)
    writer = _Writer(group.divided[0], 12)
    x = np.ones((1, 12, 6, 6), np.float32)
    x[:, : 12 // groups] *= 10
    writer.see(x)
    each = writer.steps(np.ones(12))
    np.testing.assert_allclose(each[: 12 // groups], 100 * each[-1], rtol=1e-6)
    step = float(np.abs(constant(group.divided[0].node.inputs[1])).max()) / 127
    assert each[-1] == pytest.approx(step**2 * np.prod(kernel[1:]), rel=1e-6)


@pytest.mark.parametrize("count", [8, 80])
def test_statistics_are_those_of_a_new_calibration(unequal, count):
    """All of them where calibration kept every sample; the extremes of every channel where it kept some."""
    data = samples(unequal, count)
    store = statistics(unequal, data)
    migrated = migrate(unequal, {name: scale for name, (_, scale) in best_scales(unequal, list(store.reservoir)).items()})
    found, wanted = restated(migrated, store).values, statistics(migrated.model, data).values
    assert set(wanted) <= set(found)
    for name in wanted:
        np.testing.assert_allclose(found[name].channel_low, wanted[name].channel_low, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].channel_high, wanted[name].channel_high, rtol=1e-4, atol=1e-5)
        if count == 8:
            assert found[name].std == pytest.approx(wanted[name].std, rel=1e-4)


def test_a_plan_is_replayed_byte_for_byte(unequal):
    signature = (Signature("x", (1, 3, 12, 12), "float32"),)
    outputs = (Signature("y", (1, 4, 12, 12), "float32"),)
    source = Source(
        model=unequal, inputs=signature, outputs=outputs, reference=lambda sample: sample, name="unequal", kind="onnx", sha256=""
    )
    data = open_samples([next(iter(samples(unequal, 1, seed)))["x"] for seed in range(4)], signature)
    first = build(source, target(), data)
    assert first.plan.migrations
    plan = Plan.from_json(first.plan.to_json())
    again = build(source, target(), None, Options(plan=plan))
    assert again.artifact.content == first.artifact.content
    assert replace(again.plan, reasons={}) == replace(first.plan, reasons={})
    assert build(source, target(), data, Options(refine=False)).plan.migrations == {}


@pytest.mark.parametrize(("count", "apart"), [(24, False), (40, True)])
def test_others_judge_than_those_that_scales_are_made_from_where_there_are_enough(unequal, monkeypatch, count, apart):
    made, judged = [], []
    best, planned = equalizing.best_scales, equalizing.planned_db
    monkeypatch.setattr(
        equalizing, "best_scales", lambda model, held, each: made.extend(map(id, held)) or best(model, held, each)
    )
    monkeypatch.setattr(equalizing, "planned_db", lambda *given: judged.extend(map(id, given[2])) or planned(*given))
    equalize(unequal, statistics(unequal, samples(unequal, count)), target())
    assert made
    assert judged
    assert set(made).isdisjoint(judged) is apart
