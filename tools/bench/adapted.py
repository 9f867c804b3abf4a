"""Anyone's artifact as a function of the original's samples, whatever it names its tensors and in whichever order it has their axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice, permutations
from typing import Any, Final

import numpy as np

from calibration import Samples
from diagnostics import DataError
from exporter.frontends.source import Reference
from exporter.quantization.plan import Encoding
from exporter.runtimes import Session
from exporter.runtimes.session import TensorInfo
from exporter.verification.metrics import decibels
from exporter.verification.runner import to_channels_first, to_channels_last
from tools.bench.samples import fitted

__all__ = ["Adapted"]

Array = np.ndarray[Any, Any]

_FEW: Final = 4
_MOST_OUTPUTS: Final = 6  # of which every pairing is tried
_BOUND_DB: Final = 200.0


class Adapted:
    """Pairs inputs and outputs with the original's once, on a few samples, and keeps to that.

    Names decide where all agree (signs, and what TensorFlow puts around them, aside). Else inputs are paired by position, and outputs so
    that all together come nearest to the original's. Axes stay, or channels come last or first: whichever fits, and comes nearest.

    Raises DataError EW-D003 where nothing fits; RuntimeFailure where the artifact does not run.
    """

    def __init__(self, session: Session, reference: Reference, samples: Samples) -> None:
        few = list(islice(samples, _FEW))
        self._session = session
        self._names = _by_name([info.name for info in session.inputs], list(few[0]))
        wanted = [reference(sample) for sample in few]
        found = [self._raw(sample) for sample in few]
        self._outputs = _paired(session.outputs, found, wanted)

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        raw = self._raw(sample)
        return {name: _ordered(raw[info.name], shape, order) for info, (name, shape, order) in self._outputs}

    def encode(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The artifact's own inputs."""
        return {info.name: _encoded(sample[name], info) for info, name in zip(self._session.inputs, self._names, strict=True)}

    def _raw(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Its outputs as numbers, in its own order of axes."""
        raw = self._session.run(self.encode(sample))
        return {info.name: _decoded(raw[info.name], info) for info in self._session.outputs}


def _by_name(found: Sequence[str], names: Sequence[str]) -> list[str]:
    """For each of `found` the one of `names` that it stands for; by position where names do not tell."""
    plain = {_plain(name): name for name in names}
    if len(plain) == len(names) and {_plain(name) for name in found} <= set(plain) and len(set(map(_plain, found))) == len(found):
        return [plain[_plain(name)] for name in found]  # an input that the artifact has no use for may be gone
    if len(found) != len(names):
        raise DataError("EW-D003", f"the artifact takes {len(found)} inputs where the original takes {len(names)}")
    return list(names)


def _plain(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", re.sub(r"^serving_default_|:0$", "", name)).strip("_")


def _paired(
    infos: Sequence[TensorInfo], found: Sequence[Mapping[str, Array]], wanted: Sequence[Mapping[str, Array]]
) -> list[tuple[TensorInfo, tuple[str, tuple[int, ...], int]]]:
    """For each output of the artifact: which of the original's it is, the shape of that, and which order of axes it needs."""
    names = list(wanted[0])
    if len(infos) != len(names):
        raise DataError("EW-D003", f"the artifact gives {len(infos)} outputs where the original gives {len(names)}")
    scores = {
        (info.name, name): _nearest([sample[info.name] for sample in found], [sample[name] for sample in wanted])
        for info in infos
        for name in names
    }
    plain = {_plain(name): name for name in names}
    if {_plain(info.name) for info in infos} == set(plain):
        chosen: Sequence[str] = [plain[_plain(info.name)] for info in infos]
    elif len(names) > _MOST_OUTPUTS:
        chosen = names
    else:
        chosen = max(permutations(names), key=lambda order: sum(scores[i.name, n][0] for i, n in zip(infos, order, strict=True)))
    for info, name in zip(infos, chosen, strict=True):
        if np.isinf(scores[info.name, name][0]):
            shape = found[0][info.name].shape
            raise DataError("EW-D003", f"output {info.name} is {shape} where the original gives {wanted[0][name].shape}")
    return [(info, (name, wanted[0][name].shape, scores[info.name, name][1])) for info, name in zip(infos, chosen, strict=True)]


def _nearest(found: Sequence[Array], wanted: Sequence[Array]) -> tuple[float, int]:
    """The best SQNR over the orders of axes that fit, within bounds, and which order that is; -inf where none fits."""
    best = (-np.inf, 0)
    for order, first in enumerate(_orders(found[0], wanted[0].shape)):
        if first.shape != wanted[0].shape:
            continue
        pairs = [
            (one.astype(np.float64), _ordered(other, one.shape, order).astype(np.float64))
            for one, other in zip(wanted, found, strict=True)
        ]
        ratio = decibels(
            *(float(sum(np.square(part).sum() for part in parts)) for parts in zip(*((w, w - f) for w, f in pairs), strict=True))
        )
        best = max(
            best, (float(np.clip(np.nan_to_num(ratio, nan=-_BOUND_DB), -_BOUND_DB, _BOUND_DB)), order), key=lambda score: score[0]
        )
    return best


def _orders(array: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    same = [size for size in array.shape if size != 1] == [size for size in shape if size != 1]
    return (array, to_channels_last(array), to_channels_first(array), array.reshape(shape) if same else array)


def _ordered(array: Array, shape: tuple[int, ...], order: int) -> Array:
    return _orders(array, shape)[order]


def _encoded(array: Array, info: TensorInfo) -> Array:
    try:
        ordered: Array = fitted(array, info.shape)
    except ValueError as error:
        raise DataError("EW-D003", f"input {info.name}: {error}") from error
    if info.scale is not None and array.dtype.kind == "f" and info.dtype.startswith(("int", "uint")):
        return _encoding(info).quantize(ordered)
    return ordered.astype(info.dtype, order="C")  # ascontiguousarray would make a vector of a scalar


def _decoded(array: Array, info: TensorInfo) -> Array:
    if info.scale is not None and array.dtype.kind in "iu":
        return _encoding(info).dequantize(array)
    return array


def _encoding(info: TensorInfo) -> Encoding:
    assert info.scale is not None
    return Encoding(info.dtype, (info.scale,), (info.zero_point or 0,))
