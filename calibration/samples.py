"""`Samples`: calibration or test data as a re-iterable stream of checked samples, one in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np

from calibration.preprocess import Preprocess
from diagnostics import DataError

__all__ = ["Conformer", "Entry", "InputSpec", "Samples", "held_out", "is_pixels"]

# A sample that is not read yet: where it comes from, in words, and what reads it.
Entry = tuple[str, Callable[[], object]]


class InputSpec(Protocol):
    """One input of a model: its static shape (with the batch axis) and numpy dtype name."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class Samples:
    """Samples as ``{input name: array with its batch axis}``, dtype and shape those of the model's inputs.

    Iterating reads them anew, one at a time; what `take` and `held_out` leave out is never read. Iterating raises DataError:
    EW-D001 where there is none, EW-D002 for NaN or infinity, EW-D003 where one does not fit, EW-D004 where a file cannot be read.

    Attributes:
        entries: a fresh iterator over the samples that are not read yet.
        conform: what turns one of them into arrays of the model's inputs.
        length: number of samples, None where only reading tells.
        origin: where they come from, in words.
        preprocess: what images and audio go through, the default one of image files included (the bundle keeps it); None: nothing.
    """

    entries: Callable[[], Iterator[Entry]]
    conform: Callable[[object, str], dict[str, np.ndarray[Any, Any]]]
    length: int | None
    origin: str
    preprocess: Preprocess | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        return (sample for _, sample in self.labelled())

    def __bool__(self) -> bool:
        return self.length != 0

    def labelled(self) -> Iterator[tuple[str, dict[str, np.ndarray[Any, Any]]]]:
        """The samples, each with its file or index in words (for messages)."""
        none = True
        for label, read in self.entries():
            none = False
            yield label, self.conform(read(), label)
        if none:
            raise no_sample(self.origin)

    def take(self, selection: slice | int) -> Samples:
        """The samples of a slice with non-negative bounds, or the first n. Nothing is read yet."""
        chosen = slice(selection) if isinstance(selection, int) else selection
        bounds = (chosen.start, chosen.stop, chosen.step)
        if any(bound is not None and bound < 0 for bound in bounds) or chosen.step == 0:
            raise ValueError(f"bounds of a selection must not be negative, its step not zero: {chosen}")
        length = None if self.length is None else len(range(*chosen.indices(self.length)))
        return replace(self, entries=lambda: itertools.islice(self.entries(), *bounds), length=length)

    def drop_every(self, every: int) -> Samples:
        """All samples but those of the indices every - 1, 2 * every - 1, ..."""
        length = None if self.length is None else self.length - self.length // every
        return replace(
            self, entries=lambda: (entry for i, entry in enumerate(self.entries()) if i % every != every - 1), length=length
        )


def held_out(samples: Samples, every: int = 5) -> tuple[Samples, Samples]:
    """Split into (calibration, test): every `every`-th sample is for the test, and calibration never sees it.

    Raises DataError EW-D001 where there are fewer than `every` samples (as far as their number is known). `every` is at least 2.
    """
    if every < 2:
        raise ValueError(f"every must be at least 2, not {every}")
    if samples.length is not None and samples.length < every:
        raise DataError(
            "EW-D001",
            f"{samples.length} sample{'s are' if samples.length > 1 else ' is'} too few to hold every {every}th one out",
            where=samples.origin,
            fix=f"give at least {every} samples, or separate data to verify with",
        )
    return samples.drop_every(every), samples.take(slice(every - 1, None, every))


def no_sample(origin: str) -> DataError:
    """The error for data without a sample."""
    return DataError("EW-D001", f"{origin} holds no sample", fix="give at least one sample; a hundred is a good start")


def is_pixels(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Whether an array is one raw image: uint8 [H, W], [H, W, 1 | 3] or the same with a batch axis of 1 in front."""
    return dtype == np.uint8 and (_is_image(shape) or (len(shape) > 2 and shape[0] == 1 and _is_image(shape[1:])))


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))


_SAFE: Final = {"f": "f", "i": "iu", "u": "iu", "b": "b"}  # kind of the model's input -> kinds of arrays that may become it


@dataclass(frozen=True)
class Conformer:
    """Turns what a reader or a user yields into arrays of the model's inputs, or says why it cannot.

    Accepts an array (anything that numpy takes without copying semantics of its own: a torch CPU tensor too), a mapping by input name,
    a tuple or list in the order of the inputs, or a PIL image. PIL images and uint8 pixels go through `preprocess`; where none
    is given, PIL images (image files) go through `Preprocess.default`. Every other array is taken as preprocessed.
    """

    inputs: tuple[InputSpec, ...]
    preprocess: Preprocess | None = None

    def __call__(self, raw: object, label: str) -> dict[str, np.ndarray[Any, Any]]:
        """One sample. Raises DataError EW-D002 or EW-D003."""
        return {
            spec.name: self._array(part, spec, label) for spec, part in zip(self.inputs, self._parts(raw, label), strict=True)
        }

    def _parts(self, raw: object, label: str) -> list[object]:
        names = [spec.name for spec in self.inputs]
        if isinstance(raw, Mapping):
            if set(raw) != set(names):
                raise DataError(
                    "EW-D003",
                    f"a sample has the arrays {sorted(map(str, raw))}, the model the inputs {sorted(names)}",
                    where=label,
                    fix="name each array as the input that it is for, and give nothing else (no labels)",
                )
            return [raw[name] for name in names]
        parts = list(raw) if isinstance(raw, (tuple, list)) else [raw]
        if len(parts) != len(names):
            raise DataError(
                "EW-D003",
                f"a sample has {len(parts)} arrays, the model {len(names)} inputs: {', '.join(names)}",
                where=label,
                fix="give what the model takes and nothing else (no labels), in this order or as a dict by name",
            )
        return parts

    def _array(self, raw: object, spec: InputSpec, label: str) -> np.ndarray[Any, Any]:
        from PIL import Image

        if isinstance(raw, Image.Image):
            array = self._from_image(raw, spec, label)
        else:
            array = np.asarray(raw)
            if array.dtype.kind not in "fiub":
                raise DataError(
                    "EW-D003",
                    f"a sample for the input {spec.name!r} is a {type(raw).__name__}, not an array of numbers",
                    where=label,
                    fix="give arrays, PIL images, or dicts or tuples of them",
                )
            ready = array.dtype == spec.dtype and list(array.shape) in (list(spec.shape), list(spec.shape[1:]))
            if self.preprocess is not None and is_pixels(array.shape, array.dtype) and not ready:
                array = self._from_image(array if _is_image(array.shape) else array[0], spec, label)
        batched = array[None] if array.ndim == len(spec.shape) - 1 else array
        if batched.ndim != len(spec.shape) or any(_known(w) and g != w for g, w in zip(batched.shape, spec.shape, strict=True)):
            raise DataError(
                "EW-D003",
                f"a sample for the input {spec.name!r} has shape {list(array.shape)}, the model wants {list(spec.shape)}",
                where=label,
                why="the batch axis alone may be missing",
                fix=_shape_fix(batched, spec),
            )
        return _cast(batched, spec, label)

    def _from_image(self, image: Any, spec: InputSpec, label: str) -> np.ndarray[Any, Any]:
        preprocess = self.preprocess or Preprocess.default(spec.shape, spec.dtype)
        try:
            return preprocess.apply_image(image)
        except DataError as error:
            raise DataError(error.code, error.what, where=label, why=error.why, fix=error.fix) from error


def _known(dimension: int) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _shape_fix(array: np.ndarray[Any, Any], spec: InputSpec) -> str:
    wanted = list(spec.shape)
    if array.ndim == 4 and len(wanted) == 4 and [array.shape[0], array.shape[3], array.shape[1], array.shape[2]] == wanted:
        return "the sample is channels-last: transpose it to channels-first"
    if array.ndim == 4 and len(wanted) == 4 and [array.shape[0], array.shape[2], array.shape[3], array.shape[1]] == wanted:
        return "the sample is channels-first: transpose it to channels-last"
    return "give samples of this shape, or set resize and crop of the preprocessing specification"


def _cast(array: np.ndarray[Any, Any], spec: InputSpec, label: str) -> np.ndarray[Any, Any]:
    """`array` in the input's dtype: float to float, integer to integer where every element fits; nothing else is safe."""
    wanted = np.dtype(spec.dtype)
    if array.dtype.kind not in _SAFE.get(wanted.kind, ""):
        raise DataError(
            "EW-D003",
            f"a sample for the input {spec.name!r} is {array.dtype}, the model wants {wanted}",
            where=label,
            why="what the numbers mean would change: raw pixels or counts are not the model's floats",
            fix="give a preprocessing specification (scale, mean, std) for pixels, or convert the samples yourself",
        )
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            result = np.asarray(array, wanted, order="C")  # ascontiguousarray would give a scalar an axis
        if not np.isfinite(result).all():
            at = np.argwhere(~np.isfinite(result))[0].tolist()
            raise DataError(
                "EW-D002",
                f"a sample for the input {spec.name!r} holds NaN or infinity",
                where=f"{label}, element {at}",
                fix="mend the data or leave the sample out",
            )
        return result
    result = np.asarray(array, wanted, order="C")
    if not np.array_equal(result, array):
        low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
        raise DataError(
            "EW-D003",
            f"a sample for the input {spec.name!r} holds {array.dtype} numbers that {wanted} cannot hold",
            where=label,
            fix=f"give numbers from {low} to {high}",
        )
    return result
