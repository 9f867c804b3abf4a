"""Everything a plan gains from running the model on calibration samples, in the order in which it must be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.quantization.correction import SAMPLES, Correction, correct_biases
from exporter.quantization.plan import Plan
from exporter.quantization.scales import choose_weight_scales
from targets.schema import Target

__all__ = ["refine"]


def refine(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Weight scales by measured output error, then biases behind them (`scales.choose_weight_scales`, `correction.correct_biases`).

    Where the biases alone do better on the samples, the scales stay as they came. `before` is the SQNR (dB) of the plan as it came.
    `progress` is called with (layers done, layers), each layer counted once for either way.
    """
    held = list(islice(samples, SAMPLES))
    first = None if progress is None else lambda done, layers: progress(done, 2 * layers)
    second = None if progress is None else lambda done, layers: progress(layers + done, 2 * layers)
    plain = correct_biases(model, plan, target, held, progress=first)
    scaled = correct_biases(model, choose_weight_scales(model, plan, held), target, held, progress=second)
    best = scaled if scaled.after > plain.after else plain
    return replace(best, before=plain.before)
