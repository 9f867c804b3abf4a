"""The calibration store: all that planning wants to know of a model's values on some data, in one file of bounded size."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from calibration.observers import Sketches, ValueStats
from calibration.reservoir import Reservoir
from diagnostics import DataError, UsageError

__all__ = ["SCHEMA_VERSION", "Statistics", "Store"]

Array = np.ndarray[Any, Any]

SCHEMA_VERSION: Final = 3


class Statistics(Protocol):
    """What planning reads of a calibration: a `Store`, or what follows from one for a graph that was rewritten."""

    @property
    def samples(self) -> int:
        """How many were seen."""
        ...

    @property
    def values(self) -> Mapping[str, ValueStats]:
        """Statistics by value name."""
        ...

    @property
    def reservoir(self) -> Reservoir:
        """Some of the samples themselves."""
        ...


@dataclass(frozen=True, eq=False)
class Store:
    """What calibration learned.

    The same samples give the same store, to the last bit, in whatever shards or interrupted runs they were seen. Exact are extremes,
    counts, histograms and the choice of samples; means are those of exact sums of each sample's own sums. Only the order of the samples
    that are kept is that of the data.

    Attributes:
        model: sha256 of the graph whose values these are (`exporter.graph.digest`); empty where nobody asked.
        samples: how many were seen.
        sketches: of every floating-point value.
        reservoir: some of the samples themselves, see there; its `data` identifies all that were seen.
    """

    model: str
    samples: int
    sketches: Sketches
    reservoir: Reservoir

    @cached_property
    def values(self) -> Mapping[str, ValueStats]:
        """Statistics by value name, sorted."""
        return self.sketches.statistics()

    @property
    def data(self) -> str:
        """The digest of the samples, 64 hexadecimal digits, whatever their order."""
        return self.reservoir.data

    def merged(self, other: Store) -> Store:
        """The store of the samples of both; neither must be used any more. Raises DataError EW-D007 where they are of other models."""
        if self.model != other.model:
            raise other_model(self.model, other.model)
        try:
            self.sketches.merge(other.sketches)
        except ValueError as error:
            raise DataError("EW-D007", "stores of different values cannot be merged", why=str(error)) from error
        self.reservoir.merge(other.reservoir)
        return Store(self.model, self.samples + other.samples, self.sketches, self.reservoir)

    def save(self, path: str | Path) -> None:
        """Write one .npz, beside its place first and then renamed into it. Equal stores give equal bytes."""
        columns = {
            "schema": np.array(SCHEMA_VERSION, np.int64),
            "model": np.array(self.model),
            "samples": np.array(self.samples, np.int64),
            "data": np.array(self.data),
            **self.sketches.columns(),
        }
        rows = list(self.reservoir)
        columns["numbers"] = np.array(self.reservoir.numbers, np.int64)
        columns |= {f"{_KEPT}{name}": np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_npz(beside, columns)
            beside.replace(path)
        except OSError as error:
            raise UsageError(
                "EW-U004",
                f"the store {path} cannot be written",
                why=error.strerror or str(error),
                fix="make room or give permission there, or give another destination",
            ) from error
        finally:
            with contextlib.suppress(OSError):  # a disk that cannot be written cannot be cleaned, and holds nothing
                beside.unlink()

    @classmethod
    def load(cls, path: str | Path) -> Store:
        """Read `save`'s file back. Raises DataError EW-D004 where it cannot be read or has another schema version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["schema"])
                if version != SCHEMA_VERSION:
                    raise ValueError(f"schema version {version}; this release reads version {SCHEMA_VERSION}")
                columns = {key: file[key] for key in file.files}
            names = [key.removeprefix(_KEPT) for key in columns if key.startswith(_KEPT)]
            numbers = columns["numbers"].tolist()
            rows = [{name: columns[_KEPT + name][i] for name in names} for i in range(len(numbers))]
            reservoir = Reservoir(rows, numbers, int(str(columns["data"]), 16))
            return cls(str(columns["model"]), int(columns["samples"]), Sketches.from_columns(columns), reservoir)
        except (OSError, KeyError, IndexError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                "EW-D004",
                f"the store {path} cannot be read",
                why=str(error),
                fix="give a file that edgewright calibrate wrote; one of another release is made again by calibrating again",
            ) from error


def other_model(wanted: str, found: str) -> DataError:
    """The error for a store of another graph."""
    return DataError(
        "EW-D007",
        f"the store is of another model: sha256 {found[:12]}, wanted {wanted[:12]}",
        why="the graph after legalizing differs: another model, other weights or shapes, or a target whose runtime wants other operators",
        fix="calibrate this model for this target",
    )


_KEPT: Final = "sample:"


def _write_npz(path: Path, columns: Mapping[str, Array]) -> None:
    """numpy.savez with fixed time stamps and sorted members, so that the bytes depend on the content alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(columns):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            # Real samples hardly shrink: packing them would take longer than a run of the model.
            member.compress_type = zipfile.ZIP_STORED if name.startswith(_KEPT) else zipfile.ZIP_DEFLATED
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, columns[name], version=(1, 0), allow_pickle=False)
            archive.writestr(member, buffer.getbuffer(), compresslevel=1)
