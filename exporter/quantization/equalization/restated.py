"""What calibration would have learned of a rewritten graph that computes the same, from what it learned before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from calibration import Statistics, ValueStats
from calibration.observers import Sketches
from calibration.reduction import reduce_array
from calibration.reservoir import Reservoir
from exporter.graph.run import FloatRunner

__all__ = ["Change", "Rewritten", "restated"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Change:
    """A value that is no longer what it was.

    Attributes:
        before: the name it had.
        extremes: from extremes of its channels [channels] (axis 1) to what they became, NaN where that is not known; None: of none.
    """

    before: str
    extremes: Callable[[Array], Array] | None


@dataclass(frozen=True)
class Rewritten:
    """A graph that computes what another one did.

    Attributes:
        changed: values that are something else now, by name.
        copies: new values that are what another one was, by name.
    """

    model: ir.Model
    changed: dict[str, Change] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Restated:
    samples: int
    values: Mapping[str, ValueStats]
    reservoir: Reservoir


def restated(rewritten: Rewritten, statistics: Statistics) -> Statistics:
    """The statistics of the rewritten graph. Those of what did not change stay.

    What changed is sketched anew on the samples that calibration kept. It may have seen more than those: where it knew the extremes of the
    very channels, they are those of all samples.
    """
    changed = {name: change for name, change in rewritten.changed.items() if change.before in statistics.values}
    sketches: Sketches | None = None
    run = FloatRunner(rewritten.model, list(changed))
    for sample in statistics.reservoir if changed else ():
        reduced = {name: reduce_array(array) for name, array in run(sample).items()}
        sketches = Sketches.of(reduced) if sketches is None else sketches
        sketches.add(reduced)
    if sketches is None:
        return statistics
    for name, change in changed.items():
        seen = statistics.values[change.before]
        if change.extremes is not None and seen.channel_low is not None and seen.channel_high is not None:
            low, high = change.extremes(seen.channel_low), change.extremes(seen.channel_high)
            sketches.widen(name, np.where(np.isnan(low), np.inf, low), np.where(np.isnan(high), -np.inf, high))
    values = {**statistics.values, **sketches.statistics()}
    values |= {name: statistics.values[before] for name, before in rewritten.copies.items() if before in statistics.values}
    return _Restated(statistics.samples, values, statistics.reservoir)
