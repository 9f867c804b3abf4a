"""Everything a plan gains from running the model on calibration samples, in the order in which it must be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import name_of
from exporter.quantization.correction import Correction, bias_index, correct_biases
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.sequential import SAMPLES, round_weights
from targets.schema import Target

__all__ = ["refine"]

_FEW: Final = 8  # samples whose means "fast" takes: means of thousands of pixels settle early


def refine(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    effort: Effort = "balanced",
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Weights rounded together, each layer's bias with them (`sequential.round_weights`), then the biases that this leaves out
    (`correction.correct_biases`): those of transposed convolutions, of shared weights, or all where rounding did not pay.
    With the effort "fast", weights stay rounded to nearest and biases are corrected on a few samples.

    Each step is kept only where it raises the SQNR on the samples. `before` is the SQNR (dB) of the plan as it came.
    `progress` is called with (layers done, layers) of the step in progress.
    """
    if effort == "fast":
        return correct_biases(model, plan, target, islice(samples, _FEW), progress=progress)
    held = list(islice(samples, SAMPLES))
    rounded = round_weights(model, plan, target, held, progress=progress)
    if all(name in rounded.plan.corrections for name in _biases(model, plan)):
        return rounded
    corrected = correct_biases(model, rounded.plan, target, held, progress=progress)
    return corrected if np.isnan(rounded.before) else replace(corrected, before=rounded.before)


def _biases(model: ir.Model, plan: Plan) -> list[str]:
    """Names of the biases that can be corrected."""
    found = [(node, bias_index(node, plan)) for node in model.graph]
    return [name_of(node.inputs[index]) for node, index in found if index is not None]  # type: ignore[arg-type]
