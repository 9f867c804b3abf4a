"""Run a model over samples and keep what its values were: one pass, one sample in memory, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.observers import Sketches
from calibration.reduction import Reduced, reduce_array
from calibration.reservoir import Reservoir, sample_digest
from calibration.samples import Samples
from calibration.store import Store, other_model
from diagnostics import DataError

__all__ = ["Checkpoint", "collect"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished store is kept, so that a killed run can go on.

    Attributes:
        path: written whole, then renamed into place: there is always a complete one.
        seconds: written when so long has passed since the last one; 0: after each sample.
        resume: go on from `path` where it exists. The samples that it has seen are read again, not run, to be sure that they are the same.
    """

    path: Path
    seconds: float = 10.0
    resume: bool = False


def collect(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array | Reduced]],
    samples: Samples,
    progress: Callable[[int], None] | None = None,
    channel_axis: int = 1,
    *,
    shard: tuple[int, int] = (1, 1),
    model: str = "",
    checkpoint: Checkpoint | None = None,
) -> Store:
    """Run every sample and gather the sketches of all floating-point values, the inputs included. Memory is that of one sample.

    Args:
        run: one sample (input name -> array with its batch axis) to all values that want statistics, as arrays or reduced already.
        samples: what to run; read once.
        progress: called with the number of samples done, after each.
        channel_axis: axis of the statistics a channel, for values that have it.
        shard: (i, n): each n-th sample only, from the i-th, counted from 1.
        model: digest of what `run` runs, for the store.
        checkpoint: default: none is written.

    Raises:
        DataError: EW-D001 without samples; EW-D002 where a value became NaN; EW-D003 where a value or its channels changed between
            samples; EW-D004 and EW-D007 where the checkpoint to resume from cannot be read, or is of another model or other data.
    """
    begun = Store.load(checkpoint.path) if checkpoint is not None and checkpoint.resume and checkpoint.path.exists() else None
    if begun is not None and begun.model != model:
        raise other_model(model, begun.model)
    sketches, reservoir = (begun.sketches, begun.reservoir) if begun is not None else (None, Reservoir())
    seen, again, done, saved = begun.samples if begun is not None else 0, Reservoir(), 0, time.monotonic()
    for label, sample in samples.take(slice(shard[0] - 1, None, shard[1])).labelled():
        digest = sample_digest(sample)
        if done < seen:
            again.add(done, {}, digest)
        else:
            if done == seen and begun is not None:
                _same_data(begun, again)
            reduced = _reduced(sample, run(sample), channel_axis, label)
            try:
                sketches = sketches or Sketches.of(reduced)
                sketches.add(reduced)
            except ValueError as error:
                raise DataError("EW-D003", "a value changed between samples", where=label, why=str(error)) from error
            reservoir.add(shard[0] - 1 + done * shard[1], sample, digest)
        done += 1
        if checkpoint is not None and sketches is not None and done > seen and time.monotonic() - saved >= checkpoint.seconds:
            Store(model, done, sketches, reservoir).save(checkpoint.path)
            saved = time.monotonic()
        if progress is not None:
            progress(done)
    if sketches is None:
        raise DataError(
            "EW-D001", "there is no sample to calibrate with", fix="give at least one sample; a hundred is a good start"
        )
    if begun is not None and done <= seen:
        _same_data(begun, again)
    return Store(model, done, sketches, reservoir)


def _same_data(begun: Store, again: Reservoir) -> None:
    if again.data != begun.data:
        raise DataError(
            "EW-D007",
            f"the first {begun.samples} samples are not those that the unfinished store has seen",
            fix="give the data it was begun with, or begin anew without --resume",
        )


def _reduced(sample: Mapping[str, Array], found: Mapping[str, Array | Reduced], axis: int, label: str) -> dict[str, Reduced]:
    reduced = {}
    for name, given in {**sample, **found}.items():
        if isinstance(given, np.ndarray):
            if given.dtype.kind != "f" or given.size == 0:
                continue
            given = reduce_array(given, axis)
        if given.nan is not None:
            raise DataError(
                "EW-D002",
                f"the value {name!r} holds NaN",
                where=f"{label}, element {list(given.nan)}",
                why="the model itself computes it from this sample",
                fix="leave the sample out, or mend the operation that overflows or divides by zero",
            )
        reduced[name] = given
    return reduced
