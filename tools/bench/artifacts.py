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
    """Read with less distrust than our reader has: LiteRT runs files of others in which an operator reads what a later one writes."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    builtins = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    dtypes = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    names = [builtins[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    kinds = [names[operator.OpcodeIndex()] for operator in operators]
    moved = [graph.Tensors(op.Outputs(0)) for op, kind in zip(operators, kinds, strict=True) if kind == "TRANSPOSE"]
    return Facts(
        dict(sorted(Counter(kinds).items())),
        len(moved),
        sum(prod(tensor.ShapeAsNumpy().tolist()) * np.dtype(dtypes[tensor.Type()]).itemsize for tensor in moved),
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
    scalar = (array.reshape(1),) if array.ndim == 0 else ()  # some write a scalar as a vector of one
    return (array, to_channels_last(array), to_channels_first(array), *scalar)


def _fit(array: Array, info: TensorInfo) -> Array:
    for ordered in _orders(array):
        if len(ordered.shape) == len(info.shape) and all(
            size in (-1, given) for size, given in zip(info.shape, ordered.shape, strict=True)
        ):
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
