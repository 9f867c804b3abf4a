"""What a .tflite file is, whoever wrote it: its operators, what its TRANSPOSE operators move, and how close it is to the original."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import DataError
from exporter.frontends.tflite.file import parse
from exporter.runtimes import open_session
from exporter.runtimes.session import TensorInfo
from exporter.verification.metrics import decibels
from exporter.verification.runner import to_channels_first, to_channels_last

__all__ = ["Agreement", "Facts", "agreement", "facts"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Facts:
    """Of the main graph: `operators` by name, `transposes` among them and the bytes that these write."""

    operators: dict[str, int]
    transposes: int
    transposed_bytes: int


@dataclass(frozen=True)
class Agreement:
    """`sqnr_db`: of the worst output (inf where all are equal); `feed`: the artifact's own inputs that gave it; `delegated`: partitions."""

    sqnr_db: float
    feed: dict[str, Array]
    delegated: int


def facts(content: bytes) -> Facts:
    """Raises ModelError EW-M002 where the content is no whole TFLite model."""
    file = parse(content)
    moved = [file.tensors[operator.outputs[0]] for operator in file.operators if operator.kind == "TRANSPOSE"]
    count = Counter(operator.kind for operator in file.operators)
    return Facts(
        dict(sorted(count.items())),
        len(moved),
        sum(prod(tensor.shape) * np.dtype(tensor.dtype).itemsize for tensor in moved),
    )


def agreement(path: Path, sample: Mapping[str, Array], wanted: Mapping[str, Array], runtime: str = "litert-xnnpack") -> Agreement:
    """Run an artifact on LiteRT, as apps do with XNNPACK, beside the original's outputs `wanted`.

    Converters name and order axes as they like: inputs and outputs are paired by name, else by position; either order of axes is taken.
    Raises RuntimeFailure where the runtime cannot run it; DataError EW-D003 where inputs or outputs are of other shapes.
    """
    with open_session(runtime, path) as session:
        feed = {info.name: _fit(array, info) for info, array in _paired(session.inputs, sample)}
        found = session.run(feed)
        pairs = [(found[info.name], array) for info, array in _paired(session.outputs, wanted)]
        delegated = int(session.report()["delegated"])
    return Agreement(min(_sqnr(output, reference) for output, reference in pairs), feed, delegated)


def _paired(infos: Sequence[TensorInfo], arrays: Mapping[str, Array]) -> Iterator[tuple[TensorInfo, Array]]:
    """Each tensor of an artifact with the original's array: by name, signs aside, where all names agree, else by position."""
    if len(infos) != len(arrays):
        raise DataError("EW-D003", f"the artifact has {len(infos)} tensors where the original has {len(arrays)}")
    named = {_plain(name): array for name, array in arrays.items()}
    if {_plain(info.name) for info in infos} == set(named):
        return ((info, named[_plain(info.name)]) for info in infos)
    return zip(infos, arrays.values(), strict=True)


def _plain(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", name)


def _orders(array: Array) -> tuple[Array, ...]:
    return (array, to_channels_last(array), to_channels_first(array))


def _fit(array: Array, info: TensorInfo) -> Array:
    for ordered in _orders(array):
        if ordered.shape == info.shape:
            return ordered.astype(info.dtype)
    raise DataError("EW-D003", f"input {info.name} is {info.shape} where the original takes {array.shape}")


def _sqnr(found: Array, reference: Array) -> float:
    """The best over the orders of axes that fit."""
    wanted = reference.astype(np.float64)
    values = [
        decibels(float(np.square(wanted).sum()), float(np.square(wanted - ordered.astype(np.float64)).sum()))
        for ordered in _orders(found)
        if ordered.shape == reference.shape
    ]
    if not values:
        raise DataError("EW-D003", f"an output is {found.shape} where the original gives {reference.shape}")
    return max(values, key=lambda value: -math.inf if math.isnan(value) else value)
