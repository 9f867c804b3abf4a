"""Does a precision pay? The artifact timed beside the same model in other precisions of its target, on the same runtime and machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import Samples
from diagnostics import EdgewrightError
from exporter.built import Built
from exporter.pipeline import Options, build
from exporter.progress import SILENT, Progress
from exporter.runtimes import Session, open_session
from exporter.runtimes.places import placed
from exporter.runtimes.registry import runtime_of
from exporter.verification.prove import Rival
from exporter.verification.runner import ArtifactRunner
from targets.precision import choose_precision, precisions_of

__all__ = ["race", "rivals_of"]

_FLOAT: Final = "float32"
_OTHERS: Final = ("dynamic_int8", "weight_int8")  # offered where float beats the artifact; they need no calibration
_ROUNDS: Final = 5
_ROUND_S: Final = 0.05


def rivals_of(
    built: Built, options: Options, samples: Samples, on: str | None = None, progress: Progress = SILENT
) -> tuple[Rival, ...]:
    """The float form of an integer artifact, timed beside it (at the place `on`); and what else the target takes, where that is faster.

    Empty where the artifact is not of integers, the target takes no float, the model comes with encodings of its own, or the runtime's
    speed is no device's (tflite-micro's portable kernels, an emulator).
    """
    target, runtime = built.target, built.target.verification.runtimes[:1]
    replays_cut = options.plan is not None and bool(options.plan.kept)
    if not runtime or not target.artifact.holds_integers or replays_cut:
        return ()
    if target.artifact.runtime == "tflite-micro" or runtime_of(placed(runtime[0], on)).emulates:
        return ()
    found: list[Rival] = []
    with progress.stage("time other precisions"):
        for precision in (_FLOAT, *_OTHERS):
            if precision not in precisions_of(target) or precision == target.artifact.precision:
                continue
            if precision != _FLOAT and not any(rival.faster for rival in found):
                break
            try:
                other = build(built.source, choose_precision(target, precision), None, replace(options, plan=None, store=None))
                found.append(race(built, other, placed(runtime[0], on), next(iter(samples.take(1)))))
            except EdgewrightError:  # a model that comes quantized, or an operator that has no such form: nothing to compare with
                continue
    return tuple(found)


def race(built: Built, other: Built, runtime: str, sample: Mapping[str, np.ndarray[Any, Any]]) -> Rival:
    """Both artifacts on one runtime, in turns, so that what else the machine does meets both; least wall seconds of an inference.

    Raises RuntimeFailure where the runtime refuses one.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewright-")))
        runs = []
        for index, entry in enumerate((built, other)):
            path = folder / str(index) / f"model{entry.artifact.suffix}"
            path.parent.mkdir()
            entry.artifact.write(path)
            session: Session = stack.enter_context(open_session(runtime, path))
            inputs = ArtifactRunner(session, entry.artifact.layouts, entry.artifact.encodings).encode(sample)
            repeats = int(np.clip(_ROUND_S / max(*session.latency(inputs, 2), 1e-6), 2, 100))
            runs.append((session, inputs, repeats))
        seconds: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for times, (session, inputs, repeats) in zip(seconds, runs, strict=True):
                times += session.latency(inputs, repeats)
    return Rival(
        other.target.artifact.precision, runtime, min(seconds[1]), min(seconds[0]), other.artifact.size, built.artifact.size
    )
