"""Who judges a choice of nodes: as many samples as the model's size lets."""

from statistics import mean

import numpy as np
import pytest

from exporter.quantization.mixing import sensitivity
from exporter.quantization.mixing.sensitivity import Judge, judges_of, planned_db, planned_error_db
from tests.quantization.planned import planned, residual_net, samples


@pytest.mark.parametrize(("affordable", "judges"), [(0, 16), (20, 20), (10**9, 24)])
def test_small_models_are_judged_on_all_samples(monkeypatch, affordable, judges):
    model = residual_net()
    monkeypatch.setattr(sensitivity, "affordable", lambda *_: affordable)
    assert len(judges_of(model, samples(model, 24))) == judges


def test_a_plan_is_judged_on_every_sample_that_is_given():
    model = residual_net()
    held = list(samples(model, 24))
    some, all_of_them = (planned_db(model, planned(model), given) for given in (held[:16], held))
    assert some != all_of_them


def test_more_samples_than_there_are_is_all_of_them():
    model = residual_net()
    judge = Judge(model, planned(model), samples(model, 4))
    assert judge.noise(lambda switch: True, 9) == judge.noise(lambda switch: True)
    assert len(judge._known) == 1


def test_the_standard_error_is_that_of_samples_left_out():
    model = residual_net()
    held = list(samples(model, 8))
    without = [planned_db(model, planned(model), held[:place] + held[place + 1 :]) for place in range(8)]
    expected = (7 / 8 * sum((one - mean(without)) ** 2 for one in without)) ** 0.5
    assert planned_error_db(model, planned(model), held) == pytest.approx(expected)
    assert planned_error_db(model, planned(model), held[:1]) == 0.0


def test_infinite_noise_is_the_worst_there_is_and_no_sample_makes_none():
    reference = sensitivity._Reference(residual_net(), samples(residual_net(), 3), None)
    name = next(iter(reference._run.outputs))
    assert reference.noise(lambda sample: {name: np.full(1, np.inf, np.float32)}, 3) == sensitivity._RUIN
    assert list(reference.noises_but_one(lambda sample: {name: np.full(1, np.inf, np.float32)})) == [sensitivity._RUIN] * 3
    assert sensitivity._Reference(residual_net(), [], None).noise(lambda sample: {}, 0) == 0.0
