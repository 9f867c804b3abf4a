"""What is fitted to samples is kept where it serves others as well."""

from dataclasses import replace
from functools import partial
from itertools import cycle

import pytest

import exporter.quantization.refinement.refine as module
from exporter.quantization.mixing.sensitivity import planned_db
from exporter.quantization.refinement.correction import Correction
from exporter.quantization.refinement.refine import optimism, refine
from exporter.quantization.refinement.sequential import CLOSE, FAST
from tests.quantization.planned import planned, residual_net, samples, target


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ((2.0, 1.5, 1.0, 1.8), True),
        ((3.0, -2.8, 2.7, -2.2), False),  # on the mean a gain, by chance alone
        ((-0.1, -0.2, -0.1, -0.3), False),
    ],
)
def test_a_fit_that_gains_on_other_samples_by_chance_alone_is_dropped(monkeypatch, gains, kept):
    model = residual_net()
    plan, data = planned(model), samples(model)
    at = cycle(gains)
    monkeypatch.setattr(module, "planned_sqnr", lambda model, plans, target, rest: [20.0, 20.0 + next(at)])
    found = refine(model, plan, target(), data)
    assert (found.plan != plan) is kept
    assert (found.after > found.before) is kept


def test_folds_are_judged_on_what_they_were_not_fitted_to(monkeypatch):
    model = residual_net()
    plan, data = planned(model), samples(model)
    fits, rests = [], []
    fitted, judged = module._fitted, module.planned_sqnr
    monkeypatch.setattr(module, "_fitted", lambda *a, **k: fits.append([id(s) for s in a[3]]) or fitted(*a, **k))
    monkeypatch.setattr(module, "planned_sqnr", lambda *a, **k: rests.append([id(s) for s in a[3]]) or judged(*a, **k))
    refine(model, plan, target(), data)
    whole, *folds = fits
    assert len(folds) == len(rests) == 4
    assert all(
        sorted(some + rest) == sorted(whole) and len(rest) == len(whole) // 4 for some, rest in zip(folds, rests, strict=True)
    )


@pytest.mark.parametrize(("large", "effort", "look"), [(True, "fast", FAST), (True, "balanced", CLOSE), (False, "fast", CLOSE)])
def test_fast_looks_closely_where_that_takes_no_time(monkeypatch, large, effort, look):
    """And once: it does not ask samples left out."""
    model, looks = residual_net(), []
    fitted = module._fitted
    monkeypatch.setattr(module, "_fitted", lambda *a, **k: looks.append(a[4]) or fitted(*a, **k))
    monkeypatch.setattr(module, "LARGE_MODEL_MACS", 0 if large else 2**60)
    refine(model, planned(model), target(), samples(model), effort=effort)
    assert looks == [look]


def test_large_models_are_fitted_once(monkeypatch):
    model = residual_net()
    plan, data = planned(model), samples(model)
    monkeypatch.setattr(module, "LARGE_MODEL_MACS", 0)
    monkeypatch.setattr(module, "planned_sqnr", lambda *a: pytest.fail("a fold was judged"))
    assert refine(model, plan, target(), data).plan != plan


@pytest.mark.parametrize(("own", "other", "told"), [(30.0, 24.0, 3.0), (24.0, 30.0, 0.0)])
def test_optimism_is_half_of_what_a_fit_to_half_of_the_samples_keeps_to_itself(monkeypatch, own, other, told):
    model = residual_net()
    fits = []

    def fitted(model, plan, target, samples, look):
        fits.append(list(map(id, samples)))
        return Correction(replace(plan, target=str(len(fits) - 1)), 0.0, 0.0)

    def judge(plan, samples):
        return own if list(map(id, samples)) == fits[int(plan.target)] else other

    monkeypatch.setattr(module, "_fitted", fitted)
    assert optimism(model, planned(model), target(), samples(model), judge, effort="balanced") == told
    assert len(fits) == 2
    assert not set(fits[0]) & set(fits[1])


def test_optimism_tells_what_other_samples_will_say():
    """The fewer samples, the more; where there are enough for either half, about what 236 others say."""
    model = residual_net()
    plan, others, told = planned(model), list(samples(model, 300))[64:], []
    for count in (6, 24, 64):
        seen = list(samples(model, count))
        fitted = module._fitted(model, plan, target(), seen, CLOSE).plan
        fit, nearest = (planned_db(model, each, seen) - planned_db(model, each, others) for each in (fitted, plan))
        told.append(optimism(model, plan, target(), seen, partial(planned_db, model), effort="balanced"))
        if count > 6:
            assert told[-1] == pytest.approx(fit - nearest, abs=0.5)  # less how much easier these samples are
    assert told[0] > 1 > max(told[1:])


def test_a_single_sample_has_no_halves():
    model = residual_net()
    assert optimism(model, planned(model), target(), samples(model, 1), lambda *_: 0.0, effort="balanced") == 0.0
