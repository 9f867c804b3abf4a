"""Original against artifact, output by output, on the same samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from diagnostics import DataError, RuntimeFailure
from exporter.graph.columns import Columns
from exporter.verification.metric import TaskScore
from exporter.verification.metrics import HIGHER_IS_BETTER, Accumulator, Metrics

__all__ = ["Comparison", "Run", "compare"]

Run = Callable[[Mapping[str, np.ndarray[Any, Any]]], Mapping[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        samples: number of samples.
        outputs: metrics of every output, and of every part of one that was told apart.
        reference_s, candidate_s: median wall seconds a sample took, transport to the worker included; for orientation only.
        task: scores of the user's own metric, where one was evaluated.
    """

    samples: int
    outputs: Mapping[str, Metrics]
    reference_s: float = 0.0
    candidate_s: float = 0.0
    task: Mapping[str, TaskScore] = field(default_factory=dict)

    def worst(self, metric: str) -> tuple[str, float] | None:
        """The output where `metric` is worst, and its value; NaN is worse than all. None where no output has the metric."""
        sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
        values = [(name, value) for name, m in self.outputs.items() if (value := m.get(metric)) is not None]
        return min(values, key=lambda item: -math.inf if math.isnan(item[1]) else sign * item[1], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for report.json, timings left out (they differ from run to run)."""
        return {
            "samples": self.samples,
            "outputs": {name: metrics.to_dict() for name, metrics in self.outputs.items()},
            "task": {name: score.to_dict() for name, score in self.task.items()},
        }


def compare(
    reference: Run,
    candidate: Run,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    outputs: Sequence[str],
    progress: Callable[[int], None] | None = None,
    columns: Sequence[Columns] = (),
) -> Comparison:
    """Run both on every sample (once, streaming) and measure how far each of `outputs` differs.

    Args:
        columns: parts of outputs that are measured by themselves as well, under their own names.
    Raises:
        DataError: EW-D001, there is no sample.
        RuntimeFailure: EW-R005, an output is missing or has another shape; and whatever the runs raise.
    """
    parts = [part for part in columns if part.output in outputs]
    accumulators = {name: Accumulator(name) for name in (*outputs, *(part.name for part in parts))}
    seconds: tuple[list[float], list[float]] = ([], [])
    count = 0
    for count, sample in enumerate(samples, start=1):
        start = time.perf_counter()
        wanted = reference(sample)
        middle = time.perf_counter()
        found = candidate(sample)
        seconds[0].append(middle - start)
        seconds[1].append(time.perf_counter() - middle)
        for name in outputs:
            accumulators[name].update(_output(wanted, name, "the original"), _output(found, name, "the artifact"))
        for part in parts:
            accumulators[part.name].update(part.of(wanted[part.output]), part.of(found[part.output]))
        if progress is not None:
            progress(count)
    if count == 0:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    return Comparison(
        count,
        {name: accumulator.result() for name, accumulator in accumulators.items()},
        reference_s=median(seconds[0]),
        candidate_s=median(seconds[1]),
    )


def _output(found: Mapping[str, np.ndarray[Any, Any]], name: str, whose: str) -> np.ndarray[Any, Any]:
    if name not in found:
        raise RuntimeFailure("EW-R005", f"{whose} gives no output {name}", why=f"it gives {sorted(found)}")
    return found[name]
