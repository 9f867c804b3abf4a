"""The user's own task metric: ``module:callable``, evaluated for the original and for the artifact."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import UsageError
from exporter.verification.metrics import json_number

__all__ = ["TaskMetric", "TaskScore", "evaluate", "load_metric"]

Sample = Mapping[str, np.ndarray[Any, Any]]
# metric(run, samples) -> one number, or several by name. `run` takes one sample and gives the outputs as float arrays.
TaskMetric = Callable[[Callable[[Sample], Sample], Iterable[Sample]], float | Mapping[str, float]]


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

    Raises UsageError EW-U003 where it cannot be imported or is not callable.
    """
    module, _, attribute = spec.partition(":")
    fix = "write it as package.module:callable, importable from here"
    if not module or not attribute:
        raise UsageError("EW-U003", f"{spec!r} is not of the form module:callable", fix=fix)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UsageError(
            "EW-U003", f"the metric {spec} cannot be imported", why=f"{type(error).__name__}: {error}", fix=fix
        ) from error
    if not callable(found):
        raise UsageError("EW-U003", f"the metric {spec} is not callable", fix=fix)
    return attribute.rpartition(".")[2], found


def evaluate(
    spec: str, original: Callable[[Sample], Sample], artifact: Callable[[Sample], Sample], samples: Iterable[Sample]
) -> dict[str, TaskScore]:
    """Scores by name: the keys of the dictionary that the metric gives, or its own name where it gives one number.

    `samples` is walked twice. Raises UsageError EW-U003 where the metric fails or gives something else than numbers.
    """
    name, metric = load_metric(spec)
    first, second = (_scores(spec, name, metric, run, samples) for run in (original, artifact))
    if set(first) != set(second):
        raise UsageError("EW-U003", f"the metric {spec} names other scores for the artifact than for the original")
    return {key: TaskScore(first[key], second[key]) for key in first}


def _scores(
    spec: str, name: str, metric: TaskMetric, run: Callable[[Sample], Sample], samples: Iterable[Sample]
) -> dict[str, float]:
    found = metric(run, samples)
    try:
        named = found if isinstance(found, Mapping) else {name: found}
        return {str(key): float(value) for key, value in named.items()}
    except (TypeError, ValueError) as error:
        raise UsageError("EW-U003", f"the metric {spec} gave {found!r}", fix="return a number or a dict of numbers") from error
