"""The calibration store: run a model over samples, keep the statistics of all its values, write and read them as one file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.observers import BINS, Observer, ValueStats
from calibration.samples import Samples
from diagnostics import DataError

__all__ = ["SCHEMA_VERSION", "Statistics", "collect"]

SCHEMA_VERSION: Final = 1
_CHANNEL_FIELDS: Final = ("channel_low", "channel_high", "channel_mean", "channel_std")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of all floating-point values of a model over `samples` samples, by value name (sorted)."""

    values: Mapping[str, ValueStats]
    samples: int

    def save(self, path: str | Path) -> None:
        """Write one .npz, columns over the values in sorted order. Equal statistics give equal bytes."""
        names = sorted(self.values)
        stats = [self.values[name] for name in names]
        widths = [0 if entry.channel_low is None else entry.channel_low.size for entry in stats]
        columns: dict[str, np.ndarray[Any, Any]] = {
            "schema": np.array(SCHEMA_VERSION, np.int64),
            "samples": np.array(self.samples, np.int64),
            "names": np.frombuffer("\0".join(names).encode(), np.uint8),
            "channels": np.array(widths, np.int64),
            "histogram": np.array([entry.histogram for entry in stats], np.int64).reshape(-1, BINS),
        }
        for key in ("count", "exponent", "origin"):
            columns[key] = np.array([getattr(entry, key) for entry in stats], np.int64)
        for key in ("low", "high", "mean", "std"):
            columns[key] = np.array([getattr(entry, key) for entry in stats], np.float64)
        for key in _CHANNEL_FIELDS:
            parts = [getattr(entry, key) for entry, width in zip(stats, widths, strict=True) if width]
            columns[key] = np.concatenate(parts) if parts else np.empty(0)
        _write_npz(Path(path), columns)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read `save`'s file back. Raises DataError EW-D004 where it cannot be read or has another schema version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {key: file[key] for key in file.files}
            version = int(columns["schema"])
            if version != SCHEMA_VERSION:
                raise ValueError(f"schema version {version}; this release reads version {SCHEMA_VERSION}")
            return cls(_read_values(columns), int(columns["samples"]))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                "EW-D004", f"the statistics {path} cannot be read", why=str(error), fix="calibrate again with this release"
            ) from error


def _read_values(columns: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, ValueStats]:
    text = columns["names"].tobytes().decode()
    names = text.split("\0") if text else []
    ends = np.cumsum(columns["channels"])
    values = {}
    for i, (name, width, end) in enumerate(zip(names, columns["channels"], ends, strict=True)):
        entry: dict[str, Any] = {"histogram": columns["histogram"][i]}
        entry |= {key: int(columns[key][i]) for key in ("count", "exponent", "origin")}
        entry |= {key: float(columns[key][i]) for key in ("low", "high", "mean", "std")}
        entry |= {key: columns[key][end - width : end] if width else None for key in _CHANNEL_FIELDS}
        values[name] = ValueStats(**entry)
    return values


def _write_npz(path: Path, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """numpy.savez with fixed time stamps and sorted members, so that the bytes depend on the content alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(columns):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, columns[name], version=(1, 0), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, buffer.getvalue(), compresslevel=6)


def collect(
    run: Callable[[Mapping[str, np.ndarray[Any, Any]]], Mapping[str, np.ndarray[Any, Any]]],
    samples: Samples,
    progress: Callable[[int], None] | None = None,
    channel_axis: int = 1,
) -> Statistics:
    """Run every sample and gather the statistics of all floating-point values, the inputs included. Memory is that of one sample.

    Args:
        run: one sample (input name -> array with its batch axis) to all values that want statistics (name -> array).
        samples: what to run; read once.
        progress: called with the number of samples done, after each.
        channel_axis: axis of the statistics a channel, for values that have it.

    Raises:
        DataError: EW-D001 without samples; EW-D002 where a value became NaN or infinite; EW-D003 where its channels changed.
    """
    observers: dict[str, Observer] = {}
    done = 0
    for label, sample in samples.labelled():
        for name, array in {**sample, **run(sample)}.items():
            if array.dtype.kind != "f" or array.size == 0:
                continue
            try:
                finite = observers.setdefault(name, Observer()).add(array, channel_axis)
            except ValueError as error:
                raise DataError("EW-D003", f"the value {name!r} changed its shape", where=label, why=str(error)) from error
            if not finite:
                raise _not_finite(name, array, label)
        done += 1
        if progress is not None:
            progress(done)
    if not done:
        raise DataError(
            "EW-D001", "there is no sample to calibrate with", fix="give at least one sample; a hundred is a good start"
        )
    return Statistics({name: observers[name].result() for name in sorted(observers)}, done)


def _not_finite(name: str, array: np.ndarray[Any, Any], label: str) -> DataError:
    bad = np.argwhere(~np.isfinite(np.atleast_1d(array).astype(np.float32)))[0].tolist()
    return DataError(
        "EW-D002",
        f"the value {name!r} holds NaN or infinity",
        where=f"{label}, element {bad}",
        why="the model itself computes it from this sample",
        fix="leave the sample out, or mend the operation that overflows or divides by zero",
    )
