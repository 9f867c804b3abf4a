"""`inspect`: where a target would run each node of a model, before anything is calibrated or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import open_samples
from diagnostics import UsageError
from exporter.frontends import Source, load
from exporter.graph.summary import placements
from exporter.pipeline import Options, build, compile_artifact, legalized
from exporter.placement.report import PlacementReport, compiler_answers, placement_report, report_of
from targets.loader import load_target
from targets.precision import choose_precision
from targets.schema import Target

__all__ = ["inspect"]

_SAMPLES: Final = 2


def inspect(
    model: Any,
    target: str | Path | Target,
    *,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str | None = None,
    ask_compiler: bool = False,
    allow_pickle: bool = False,
) -> PlacementReport:
    """Place every node of a model on a unit of the target, or say why it runs on none; partitions, an estimate, what would mend it.

    Args:
        model: as `load` takes it, or a loaded `Source`.
        precision: one of those that the target takes, instead of its own.
        ask_compiler: build the artifact and ask the target's compiler too. Its encodings come from random inputs, so it is of no other use.
    Raises:
        UsageError: EW-U002, the compiler is to be asked and the profile names none.
        CompilerFailure: EW-R006 it is not installed, EW-R007, EW-R008, EW-R009 it failed.
        TargetError: EW-T004, the compiler is to be asked and the target cannot take the model; EW-T006, not that precision.
        ModelError, DataError: what `load` raises.
    """
    profile = target if isinstance(target, Target) else load_target(target)
    if precision is not None:
        profile = choose_precision(profile, precision)
    if ask_compiler and profile.compile is None:
        raise UsageError(
            "EW-U002", f"target {profile.name} names no compiler", fix="leave --compile out, or add [compile] to the profile"
        )
    source = load(model, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    report = placement_report(source.model, profile, legalized)
    return _with_answers(report, source, profile) if ask_compiler else report


def _with_answers(report: PlacementReport, source: Source, target: Target) -> PlacementReport:
    """The report of the graph that the compiled artifact was written from, with what the compiler said of it.

    Whether it fits the device's memory is another question, which `export` asks.
    """
    target = target.model_copy(update={"memory": target.memory.model_copy(update={"flash": None, "sram": None})})
    options = Options(refine=False, require_compiler=True)
    samples = open_samples(lambda: _random(source), source.inputs, None) if target.artifact.calibrated else None
    built = compile_artifact(build(source, target, samples, options), options)
    placed = placements(built.graph, target)
    return report_of(built.graph.graph, placed, target, report.remedies, compiler_answers(built, placed))


def _random(source: Source) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Normal numbers for floating-point inputs, zeros for the others (they may be indices)."""
    random = np.random.default_rng(0)
    for _ in range(_SAMPLES):
        yield {
            info.name: random.standard_normal(info.shape).astype(info.dtype)
            if np.issubdtype(np.dtype(info.dtype), np.floating)
            else np.zeros(info.shape, info.dtype)
            for info in source.inputs
        }
