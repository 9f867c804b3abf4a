"""The user's own task metric: ``module:callable``, evaluated for the original and for the artifact.

``metric(run, samples)`` gives one number, or several by name; `run` takes one sample and gives the outputs as float arrays. The truth is the
metric's own business: labels of the test data, mostly. One that has a third parameter, ``original``, can judge samples without labels too:
there it is given the original's run, whose decisions are the truth then. With a default, so that it is left out on the test data, it serves
both; without one it is given everywhere.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.importing import import_callable, user_code
from diagnostics import UsageError
from exporter.verification.metrics import json_number

__all__ = ["TaskMetric", "TaskScore", "evaluate", "judges_unlabelled", "load_metric", "scores_of"]

Sample = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Sample], Sample]
TaskMetric = Callable[..., float | Mapping[str, float]]  # (run, samples), and `original` where it has that parameter


@dataclass(frozen=True)
class TaskScore:
    """One score of the original and of the artifact."""

    original: float
    artifact: float

    @property
    def drop(self) -> float:
        """How much the artifact lost: original - artifact."""
        return self.original - self.artifact

    def to_dict(self) -> dict[str, float | str | None]:
        return {"original": json_number(self.original), "artifact": json_number(self.artifact), "drop": json_number(self.drop)}


def load_metric(spec: str) -> tuple[str, TaskMetric]:
    """Name and callable of ``module:callable``; the working directory is searched first.

    Raises UsageError EW-U003 as `import_callable`.
    """
    return re.split("[:.]", spec)[-1], import_callable(spec, "the metric")


def judges_unlabelled(spec: str) -> bool:
    """Whether the metric has the parameter `original`. Raises what `load_metric` raises."""
    return _original(load_metric(spec)[1]) is not None


def evaluate(spec: str, original: Run, artifact: Run, samples: Iterable[Sample]) -> dict[str, TaskScore]:
    """Scores by name: the keys of the dictionary that the metric gives, or its own name where it gives one number.

    `samples` is walked twice. Raises UsageError EW-U003 where the metric cannot be imported or gives something else than numbers.
    """
    parameter = _original(load_metric(spec)[1])
    truth = original if parameter is not None and parameter.default is parameter.empty else None
    first, second = (scores_of(spec, run, samples, truth) for run in (original, artifact))
    if set(first) != set(second):
        raise UsageError("EW-U003", f"the metric {spec} names other scores for the artifact than for the original")
    return {key: TaskScore(first[key], second[key]) for key in first}


def scores_of(spec: str, run: Run, samples: Iterable[Sample], original: Run | None = None) -> dict[str, float]:
    """One side's scores by name. `original`: whose decisions are the truth, for a metric that has that parameter.

    Raises UsageError EW-U003 where the metric fails, or gives something else than numbers.
    """
    name, metric = load_metric(spec)
    with user_code(f"the metric {spec}"):
        found = metric(run, samples) if original is None else metric(run, samples, original=original)
    try:
        named = found if isinstance(found, Mapping) else {name: found}
        return {str(key): float(value) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        raise UsageError("EW-U003", f"the metric {spec} gave {found!r}", fix="return a number or a dict of numbers") from error


def _original(metric: TaskMetric) -> inspect.Parameter | None:
    try:
        return inspect.signature(metric).parameters.get("original")
    except (TypeError, ValueError):  # of what is not written in Python
        return None
