"""Everything a plan gains from running the model on calibration samples, in the order in which it must be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.graph.values import name_of
from exporter.quantization.correction import Correction, bias_index, correct_biases
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.reconstruct import learn_roundings, split
from exporter.quantization.sequential import CLOSE, FAST, round_weights
from targets.schema import Target

__all__ = ["refine"]


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
    The effort "fast" looks at a few samples, and rounds the weights of narrow layers alone. With "best", all of it is the start
    of what is then learned block by block, scales of activations too (`reconstruct.learn_roundings`); that needs torch.

    Each step is kept only where it raises the SQNR on the samples. `before` is the SQNR (dB) of the plan as it came.
    `progress` is called with (layers done, layers) of the step in progress.

    Raises UsageError EW-U005 where the effort is "best" and torch is not installed.
    """
    look = FAST if effort == "fast" else CLOSE
    held = spread(samples, look.samples)
    # What judges the learned roundings must not have shaped those they are compared with.
    seen = held if effort != "best" else split(held)[0] or held
    rounded = round_weights(model, plan, target, seen, look=look, progress=progress)
    if not all(name in rounded.plan.corrections for name in _biases(model, plan)):
        rounded = _then(rounded, correct_biases(model, rounded.plan, target, seen, progress=progress))
    return rounded if effort != "best" else _then(rounded, learn_roundings(model, rounded.plan, target, held, progress=progress))


def _then(first: Correction, second: Correction) -> Correction:
    return second if np.isnan(first.before) else replace(second, before=first.before)


def _biases(model: ir.Model, plan: Plan) -> list[str]:
    """Names of the biases that can be corrected."""
    found = [(node, bias_index(node, plan)) for node in model.graph]
    return [name_of(node.inputs[index]) for node, index in found if index is not None]  # type: ignore[arg-type]
