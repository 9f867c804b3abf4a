"""Which channels matter least, judged by their weights alone.

Magnitude: the norm of a channel's weights over everything that is cut with it (its filters in each producer, its slice of each consumer).
L1: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017; the norm over a whole dependency group: Fang et al., "DepGraph", CVPR 2023.
Data-driven criteria need activations or gradients and are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import UsageError
from exporter.graph.values import is_constant, rank
from exporter.pruning.groups import Groups

__all__ = ["CRITERIA", "importance"]

Scores = np.ndarray[Any, np.dtype[np.float64]]

_POWERS: Final[Mapping[str, int]] = {"magnitude": 2, "l1": 1}

CRITERIA: Final = tuple(sorted(_POWERS))

_DIGITS: Final = 9  # decimals that decide an order: the last bits of a sum differ between processors


def importance(model: ir.Model, groups: Groups, criterion: str = "magnitude") -> Scores:
    """Importance of every class, shape [groups.count], float64; classes that are not prunable have infinity.

    "magnitude" is the L2 norm, "l1" the L1 norm, over all weights of a class. Biases and other constants of rank below 2 are left out:
    they shift a channel, and their scale has nothing to do with that of the weights. Each group is divided by its mean,
    so that groups of differently scaled layers compare (mean 1), and rounded, so that equal channels tie on every machine.

    Raises UsageError EW-P002 for an unknown criterion.
    """
    power = _POWERS.get(criterion)
    if power is None:
        raise UsageError("EW-P002", f"pruning has no importance {criterion!r}", fix=f"use one of: {', '.join(CRITERIA)}")
    total = _sums(model, groups, (np.square if power == 2 else np.abs))
    norms = total ** (1.0 / power)
    scores = np.full(groups.count, np.inf)
    for group in groups.groups:
        members = list(group.classes)
        mean = norms[members].mean()
        scores[members] = np.round(norms[members] / mean, _DIGITS) if mean > 0 else 0.0
    return scores


def _sums(model: ir.Model, groups: Groups, measure: Callable[[Any], Any]) -> Scores:
    """Sum of `measure` over the weights of each class. A weight cut along two axes counts for the class on each."""
    total = np.zeros(groups.count)
    for name, value in model.graph.initializers.items():
        if (
            not is_constant(value)
            or rank(value) < 2
            or value.const_value is None
            or not value.const_value.dtype.is_floating_point()
        ):
            continue
        sizes = measure(value.const_value.numpy().astype(np.float64))
        for axis in range(rank(value)):
            others = tuple(other for other in range(rank(value)) if other != axis)
            total += np.bincount(groups.labels[(name, axis)], sizes.sum(axis=others), groups.count)
    return total
