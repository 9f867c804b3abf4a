"""Which range method for which value: expected error proposes, the error at the outputs decides.

No method is best for all: where a few elements lie far out, cutting them gains ten decibels; elsewhere the far ones are what the model
looks at, and the very cut that lowers a value's own squared error costs one at the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.quantization.clipping import Histogram, Method, choose_range, expected_error
from exporter.quantization.correction import planned_sqnr
from exporter.quantization.encoder import ValueStatistics
from exporter.quantization.plan import Effort
from exporter.quantization.planner import make_plan
from targets.schema import Target

__all__ = ["best_methods", "expected_gain"]

_Search = tuple[tuple[Method, ...], tuple[float, ...], int]
# Methods and the least expected gains of the values whose ranges a proposal cuts (the last one takes all: what lies far out in a value may
# not matter), and on how many samples the outputs are compared: a choice among a few plans, not a fit.
_CLOSE: Final[_Search] = (("mse", "percentile"), (10.0, 3.0, 1.0, -math.inf), 16)
_FAST: Final[_Search] = (("mse",), (1.0,), 8)
_MARGIN_DB: Final = (
    1.0  # a proposal must gain more than this over keeping all that was seen: less does not carry over to other inputs
)


def best_methods(
    model: ir.Model,
    stats: ValueStatistics,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    effort: Effort | None = "balanced",
) -> dict[str, Method]:
    """The methods, by value name as `make_plan` takes them, whose outputs on a few samples are nearest to the float ones.

    Candidates: all that calibration saw for all values; and, for each method, its range for those values where it promises at least
    so many decibels less error. Equal candidates count once: where no method would change anything, nothing is run. With the effort
    "fast", one candidate is held against keeping all, on few samples.

    Raises what `make_plan` raises.
    """
    if target.artifact.activations != "int8":
        return {}  # 16 bits have steps to spare for what lies far out
    symmetric = target.quantization.activations_symmetric
    methods, bounds, most = _FAST if effort == "fast" else _CLOSE
    candidates: list[dict[str, Method]] = [{}]
    plans = [make_plan(model, stats, target)]
    for method in methods:
        gains = {
            name: expected_gain(stats.values[name], method, symmetric) for name in plans[0].encodings if name in stats.values
        }
        for least in bounds:
            chosen: dict[str, Method] = {name: method for name, gain in gains.items() if gain >= least}
            plan = make_plan(model, stats, target, method=chosen)
            if all(plan.encodings != other.encodings for other in plans):
                candidates.append(chosen)
                plans.append(plan)
    held = spread(samples, most)
    if len(plans) == 1 or not held:
        return {}
    first, *others = planned_sqnr(model, plans, target, held)
    best = int(np.argmax(others))
    return candidates[1 + best] if others[best] > first + _MARGIN_DB else {}


def expected_gain(stats: Histogram, method: Method, symmetric: bool = False) -> float:
    """By how many decibels a method's range has less expected squared error than all that was seen; 0 where there is nothing to gain."""
    if not (np.isfinite(stats.low) and np.isfinite(stats.high)) or stats.low >= stats.high:
        return 0.0
    ranges = [(stats.low, stats.high), choose_range(stats, method, symmetric=symmetric)]
    lows, highs = (np.array(ends, np.float64) for ends in zip(*ranges, strict=True))
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    if symmetric:
        highs = np.maximum(-lows, highs)
        lows = -highs
    whole, cut = expected_error(stats, lows, highs)
    return float(10 * np.log10(whole / cut)) if whole > 0.0 < cut else 0.0
