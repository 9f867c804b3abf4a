"""An artifact as a function of canonical samples: float, channels-first, by the canonical graph's names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from diagnostics import DataError
from exporter.quantization.plan import Encoding
from exporter.runtimes.session import TensorInfo

__all__ = ["Agreement", "ArtifactRunner", "RunsArtifact", "agreement", "equal_outputs", "to_channels_first", "to_channels_last"]

Array = np.ndarray[Any, Any]


class RunsArtifact(Protocol):
    """What is used of an `exporter.runtimes.Session`."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def to_channels_last(array: Array) -> Array:
    """[N, C, ...] to [N, ..., C]; arrays of rank < 3 stay."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim >= 3 else array


def to_channels_first(array: Array) -> Array:
    """[N, ..., C] to [N, C, ...]; arrays of rank < 3 stay."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim >= 3 else array


class ArtifactRunner:
    """Calls an artifact as if it were the original.

    Args:
        session: an open session; inputs and outputs are matched by name, or as `names` says (the artifact's -> the original's).
        layouts: "channels_last" for every input or output that the artifact holds so ("keep" or absent: as the canonical graph).
        encodings: of integer inputs and outputs whose runtime does not describe them (ONNX files hold no encoding of their own I/O).
        integers: names of outputs that the original gives as integers too: they stay what they are.

    A call takes ``{input: array}`` (canonical shapes and dtypes) and gives ``{output: float array}``: inputs are transposed and
    quantized (nearest, ties to even, saturated) as the artifact's own description says, outputs dequantized and transposed back.
    """

    def __init__(
        self,
        session: RunsArtifact,
        layouts: Mapping[str, str] | None = None,
        encodings: Mapping[str, Encoding] | None = None,
        integers: Collection[str] = (),
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._session, self._integers = session, frozenset(integers)
        self._layouts = dict(layouts or {})
        self._inputs, self._outputs = (
            {info.name: replace(info, name=names.get(info.name, info.name)) for info in infos}
            for infos in (session.inputs, session.outputs)
        )
        described = (*self._inputs.values(), *self._outputs.values())
        self._encodings = {info.name: _encoding(info) for info in described if info.scale is not None} | dict(encodings or {})

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        found = self._session.run(self.encode(sample))
        return {info.name: self._decode(info, found[own]) for own, info in self._outputs.items()}

    def encode(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The artifact's own inputs for a canonical sample. Raises DataError EW-D003 where an input is missing or does not fit."""
        return {own: self._encode(info, sample) for own, info in self._inputs.items()}

    def _encode(self, info: TensorInfo, sample: Mapping[str, Array]) -> Array:
        if info.name not in sample:
            raise DataError("EW-D003", f"the sample lacks the input {info.name}", why=f"it holds {sorted(sample)}")
        array = sample[info.name]
        if self._layouts.get(info.name) == "channels_last":
            array = to_channels_last(array)
        if array.dtype.name == info.dtype:
            return array
        if info.dtype.startswith(("int", "uint")) and array.dtype.kind == "f":
            if info.name not in self._encodings:
                raise DataError("EW-D003", f"input {info.name} is {info.dtype} and the artifact does not say how it is encoded")
            return self._encodings[info.name].quantize(array)
        converted = array.astype(info.dtype)
        if array.dtype.kind in "iub" and not np.array_equal(converted, array):
            raise DataError("EW-D003", f"input {info.name} holds values that {info.dtype} cannot")
        return converted

    def _decode(self, info: TensorInfo, array: Array) -> Array:
        if info.name in self._encodings and info.name not in self._integers and array.dtype.kind in "iu":
            array = self._encodings[info.name].dequantize(array)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        return to_channels_first(array) if self._layouts.get(info.name) == "channels_last" else array


@dataclass(frozen=True)
class Agreement:
    """Two runtimes on one artifact: `mismatches` of `elements` outputs differ, by at most `max_lsb`.

    `max_lsb` counts integer steps; of a float output without a known step it is the absolute difference.
    """

    max_lsb: float
    mismatches: int
    elements: int


def equal_outputs(
    first: RunsArtifact,
    second: RunsArtifact,
    samples: Iterable[Mapping[str, Array]],
    layouts: Mapping[str, str] | None = None,
    steps: Mapping[str, float] = MappingProxyType({}),
) -> Agreement:
    """Compare the raw outputs of two sessions on the same artifact, bit for bit.

    Outputs are paired by name; `steps` are those of float outputs whose values have an encoding inside of the artifact.

    Raises DataError EW-D001 where there is no sample, EW-D003 where a sample does not fit.
    """
    encode = ArtifactRunner(first, layouts).encode
    return agreement(((first.run(raw), second.run(raw)) for raw in map(encode, samples)), steps)


def agreement(
    pairs: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]], steps: Mapping[str, float] = MappingProxyType({})
) -> Agreement:
    """Compare raw outputs of two runtimes, a pair a sample, as `equal_outputs`. Raises DataError EW-D001 where there is none."""
    largest, mismatches, elements = 0.0, 0, 0
    for one, other in pairs:
        for name, array in one.items():
            step = steps.get(name, 1.0) if array.dtype.kind == "f" else 1.0
            difference = np.abs(array.astype(np.float64) - other[name].astype(np.float64)) / step
            largest = float(np.maximum(largest, difference.max(initial=0.0)))
            mismatches += int(np.count_nonzero(difference))
            elements += difference.size
    if elements == 0:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    return Agreement(largest, mismatches, elements)


def _encoding(info: TensorInfo) -> Encoding:
    assert info.scale is not None
    return Encoding(info.dtype, (info.scale,), (info.zero_point or 0,))
