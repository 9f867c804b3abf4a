"""Everything a plan gains from running the model on calibration samples, in the order in which it must be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from calibration.reservoir import drawn
from exporter.graph.values import name_of
from exporter.quantization.costs import LARGE_MODEL_MACS, model_macs
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.refinement.correction import Correction, bias_index, correct_biases, planned_sqnr
from exporter.quantization.refinement.reconstruct import learn_roundings, split
from exporter.quantization.refinement.sequential import CLOSE, FAST, Look, round_weights
from targets.schema import Target

__all__ = ["optimism", "refine"]

_Sample = Mapping[str, np.ndarray[Any, Any]]
_FOLDS: Final = 4


def refine(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[_Sample],
    *,
    effort: Effort = "balanced",
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Weights rounded together, each layer's bias with them (`sequential.round_weights`), then the biases that this leaves out
    (`correction.correct_biases`): those of transposed convolutions, of shared weights, or all where rounding did not pay.
    Of large models the effort "fast" looks at a few samples, and rounds the weights of narrow layers alone. With "best", all of it is the
    start of what is then learned block by block, scales of activations too (`reconstruct.learn_roundings`); that needs torch.

    Each step is kept only where it raises the SQNR on the samples; of small models, unless with "fast", only where what is fitted to some
    of the samples raises it on the others, by more than chance would (`_carries_over`). `before` is the SQNR (dB) of the plan as it came.
    `progress` is called with (layers done, layers) of the step in progress.

    Raises UsageError EW-U005 where the effort is "best" and torch is not installed.
    """
    look = _look(model, effort)
    held = drawn(samples, look.samples)
    # What judges the learned roundings must not have shaped those they are compared with.
    seen = held if effort != "best" else split(held)[0] or held
    fitted = _fitted(model, plan, target, seen, look, progress)
    if effort != "fast" and fitted.plan != plan and not _carries_over(model, plan, target, seen, look):
        fitted = Correction(plan, fitted.before, fitted.before)
    return fitted if effort != "best" else _then(fitted, learn_roundings(model, fitted.plan, target, held, progress=progress))


def optimism(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[_Sample],
    judge: Callable[[Plan, Sequence[_Sample]], float],
    *,
    effort: Effort,
) -> float:
    """By how many decibels `plan` refined on the samples does better on them than it would on others.

    It is fitted to either half of them and judged by the other one, too. What a fit keeps to itself is inverse to the number of samples it
    has (as in Akaike's criterion), so that of one to all of them is half of what the halves show.

    Args:
        plan: as it is before refining.
        judge: decibels of a plan on samples.
    """
    look = _look(model, effort)
    held = drawn(samples, look.samples)
    halves = held[::2], held[1::2]
    if not all(halves):
        return 0.0
    gaps = []
    for own, other in (halves, halves[::-1]):
        fitted = _fitted(model, plan, target, own, look).plan
        gaps.append(judge(fitted, own) - judge(fitted, other))
    return max(mean(gaps) / 2, 0.0)


def _look(model: ir.Model, effort: Effort) -> Look:
    return FAST if effort == "fast" and model_macs(model) > LARGE_MODEL_MACS else CLOSE


def _fitted(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Sequence[_Sample],
    look: Look,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    rounded = round_weights(model, plan, target, samples, look=look, progress=progress)
    if all(name in rounded.plan.corrections for name in _biases(model, plan)):
        return rounded
    return _then(rounded, correct_biases(model, rounded.plan, target, samples, progress=progress))


def _carries_over(model: ir.Model, plan: Plan, target: Target, samples: Sequence[_Sample], look: Look) -> bool:
    """Whether what is fitted to three quarters of the samples gains more than a standard error on the rest, in the mean.

    Where an output is one number a sample, a fit follows the few that there are. Larger models have more outputs, or positions, than
    a fit could follow, and are taken at their word.
    """
    if model_macs(model) > LARGE_MODEL_MACS or len(samples) < 2 * _FOLDS:
        return True
    gains = []
    for fold in range(_FOLDS):
        some, rest = ([s for i, s in enumerate(samples) if (i % _FOLDS == fold) is back] for back in (False, True))
        before, after = planned_sqnr(model, [plan, _fitted(model, plan, target, some, look).plan], target, rest)
        gains.append(after - before)
    return bool(mean(gains) > stdev(gains) / len(gains) ** 0.5)


def _then(first: Correction, second: Correction) -> Correction:
    return second if np.isnan(first.before) else replace(second, before=first.before)


def _biases(model: ir.Model, plan: Plan) -> list[str]:
    """Names of the biases that can be corrected."""
    found = [(node, bias_index(node, plan)) for node in model.graph]
    return [name_of(node.inputs[index]) for node, index in found if index is not None]  # type: ignore[arg-type]
