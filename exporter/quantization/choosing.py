"""Which range method for which value: expected error proposes, the error at the outputs decides.

No method is best for all: where a few elements lie far out, cutting them gains ten decibels; elsewhere the far ones are what the model
looks at, and the very cut that lowers a value's own squared error costs one at the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.graph.values import is_constant, name_of
from exporter.quantization.clipping import Histogram, Method, choose_range, expected_error
from exporter.quantization.costs import LARGE_MODEL_MACS, affordable, model_macs
from exporter.quantization.encoder import ValueStatistics
from exporter.quantization.plan import Effort, Encoding, Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import planned_sqnr
from targets.schema import Target

__all__ = ["best_methods", "expected_gain"]

_Search = tuple[tuple[Method, ...], tuple[float, ...], int]
# Methods and the least expected gains of the values whose ranges a proposal cuts (the last one takes all: what lies far out in a value may
# not matter), and on how many samples the outputs are compared at least: a choice among a few plans, not a fit.
_CLOSE: Final[_Search] = (("mse", "percentile"), (10.0, 3.0, 1.0, -math.inf), 16)
_FAST: Final[_Search] = (("mse",), (1.0,), 2)
# A proposal must gain more than this over keeping all that was seen: less does not carry over to other inputs. Among proposals, so much less
# is as good where fewer values are cut (the rule of one standard error: Hastie, Tibshirani and Friedman 2009, section 7.10).
_MARGIN_DB: Final = 1.0
_NEAR_DB: Final = 0.5
# Of large models (`LARGE_MODEL_MACS`) what lies far out is well known; of smaller ones, digit_cnn gains 2 dB on calibration samples and loses
# 1.3 on others. Yet a few samples are a few.
_WELL_KNOWN_DB: Final = 0.25
_FINER: Final = {"int8": ("int16", 256), "int32": ("int32", 256)}  # dtype of constants -> one of finer steps, and how much finer


def best_methods(
    model: ir.Model,
    stats: ValueStatistics,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    effort: Effort | None = "balanced",
) -> dict[str, Method]:
    """The methods, by value name as `make_plan` takes them, whose outputs on a few samples are nearest to the float ones.

    Candidates: all that calibration saw, with headroom, for all values; and, for each method, its range for those values where it promises
    at least so many decibels less error. Equal candidates count once: where no method would change anything, nothing is run. With the
    effort "fast", one candidate is held against keeping all, on few samples; of a large model it is taken unseen, at its values' own word.

    Of large models the activations alone are judged, with constants as good as float: rounded to nearest, as nothing has fitted them yet,
    they would drown a decibel that is gained here.

    Raises what `make_plan` raises.
    """
    if target.artifact.activations != "int8":
        return dict.fromkeys(stats.values, "headroom")  # 16 bits have steps to spare for what lies far out
    symmetric = target.quantization.activations_symmetric
    methods, bounds, fewest = _FAST if effort == "fast" else _CLOSE
    known = model_macs(model) > LARGE_MODEL_MACS
    if effort == "fast" and known:
        gains = {name: expected_gain(value, methods[0], symmetric) for name, value in stats.values.items()}
        return {name: methods[0] if gain >= bounds[0] else "headroom" for name, gain in gains.items()}
    plans = [make_plan(model, stats, target, method="headroom")]
    whole: dict[str, Method] = {name: "headroom" for name in plans[0].encodings if name in stats.values}
    candidates = [whole]
    for method in methods:
        gains = {name: expected_gain(stats.values[name], method, symmetric) for name in whole}
        for least in bounds:
            chosen = whole | {name: method for name, gain in gains.items() if gain >= least}
            plan = make_plan(model, stats, target, method=chosen)
            if all(plan.encodings != other.encodings for other in plans):
                candidates.append(chosen)
                plans.append(plan)
    held = spread(samples, max(fewest, affordable(model, len(plans), effort or "balanced")))
    if len(plans) == 1 or not held:
        return whole
    reached = planned_sqnr(model, [_unrounded(model, plan) for plan in plans] if known else plans, target, held)
    margin = _WELL_KNOWN_DB if known else _MARGIN_DB
    near = [index for index, found in enumerate(reached) if found > max(reached) - (margin if index == 0 else _NEAR_DB)]
    return candidates[min(near, key=lambda index: sum(method != "headroom" for method in candidates[index].values()))]


def _unrounded(model: ir.Model, plan: Plan) -> Plan:
    """The plan with constants in steps too fine to count."""
    constants = {name_of(value) for node in model.graph for value in node.inputs if value is not None and is_constant(value)}
    finer = {name: _finer(encoding) for name, encoding in plan.encodings.items() if name in constants}
    return replace(plan, encodings={**plan.encodings, **finer})


def _finer(encoding: Encoding) -> Encoding:
    if encoding.dtype not in _FINER or any(encoding.zero_point):
        return encoding
    dtype, factor = _FINER[encoding.dtype]
    return replace(encoding, dtype=dtype, scale=tuple(scale / factor for scale in encoding.scale))


def expected_gain(stats: Histogram, method: Method, symmetric: bool = False) -> float:
    """By how many decibels a method's range has less expected squared error on what was seen than all of it with headroom."""
    if not (np.isfinite(stats.low) and np.isfinite(stats.high)) or stats.low >= stats.high:
        return 0.0
    ranges = [choose_range(stats, each, symmetric=symmetric) for each in ("headroom", method)]
    lows, highs = (np.array(ends, np.float64) for ends in zip(*ranges, strict=True))
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    if symmetric:
        highs = np.maximum(-lows, highs)
        lows = -highs
    whole, cut = expected_error(stats, lows, highs)
    return float(10 * np.log10(whole / cut)) if whole > 0.0 < cut else 0.0
