"""A dimension that stays open in a TFLite artifact: a batch, or the length of a sequence.

No engine for symbols is needed: the model is lowered at four sizes, and where the files differ in nothing but the sizes of tensors, or
where operators can take the size from their input, they are one file (`exporter.backends.tflite.resizable`). That LiteRT computes what the
original does at further sizes is for the caller to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import ModelError, TargetError, UsageError
from exporter.backends.tflite.resizable import Sized, resizable
from exporter.built import Built
from exporter.content import Content
from exporter.frontends import Source
from exporter.pipeline import Options, build
from targets.schema import Target

__all__ = ["OpenDimension", "open_dimension", "resized", "write_open"]

_BATCH: Final = "batch"


@dataclass(frozen=True)
class OpenDimension:
    """A dimension by name, the axes of inputs that it is, and its size where nothing says otherwise."""

    name: str
    axes: Mapping[str, tuple[int, ...]]
    size: int

    def shapes(self, source: Source, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all inputs with the dimension at `size`."""
        return {
            entry.name: tuple(size if axis in self.axes.get(entry.name, ()) else dim for axis, dim in enumerate(entry.shape))
            for entry in source.inputs
        }

    def of(self, source: Source) -> int:
        """Its size in a model that was loaded at another one."""
        name, axes = next(iter(self.axes.items()))
        return next(entry.shape[axes[0]] for entry in source.inputs if entry.name == name)


def open_dimension(model: Any, source: Source, name: str) -> OpenDimension:
    """What `name` means for a loaded model: a symbol of an .onnx file, axes as ``"x:0"`` or ``"x:1,mask:1"``, or ``"batch"``, the first axis of
    every input.

    Raises UsageError EW-U001 where it means nothing, or axes of different sizes.
    """
    sizes = {entry.name: entry.shape for entry in source.inputs}
    axes = _symbol(model, name) or _listed(name, sizes)
    if not axes and name == _BATCH:
        axes = {entry: (0,) for entry, shape in sizes.items() if shape}
    found = {sizes[entry][axis] for entry, places in axes.items() for axis in places if axis < len(sizes.get(entry, ()))}
    if len(found) != 1 or not set(axes) <= set(sizes):
        raise UsageError(
            "EW-U001",
            f"{name!r} is no dimension of the model",
            why=f"its sizes would be {sorted(found)}" if found else f"its inputs are {sizes}",
            fix='name a symbol of the .onnx file, "batch", or axes of inputs as "x:0" or "x:1,mask:1"',
        )
    return OpenDimension(name, axes, found.pop())


def _symbol(model: Any, name: str) -> dict[str, tuple[int, ...]]:
    """Axes of an .onnx file's inputs that carry the symbol."""
    if not isinstance(model, str | Path) or Path(model).suffix.lower() != ".onnx":
        return {}
    import onnx

    inputs = onnx.load(str(model), load_external_data=False).graph.input
    found = {
        entry.name: tuple(axis for axis, dim in enumerate(entry.type.tensor_type.shape.dim) if dim.dim_param == name)
        for entry in inputs
    }
    return {entry: axes for entry, axes in found.items() if axes}


def _listed(name: str, known: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    axes: dict[str, tuple[int, ...]] = {}
    for part in name.split(","):
        entry, _, axis = part.rpartition(":")
        if entry not in known or not axis.isdecimal():
            return {}
        axes[entry] = (*axes.get(entry, ()), int(axis))
    return axes


def write_open(
    built: Built, target: Target, dimension: OpenDimension, load_at: Callable[[int], Source]
) -> tuple[Built, tuple[Source, ...]]:
    """`built` with an artifact whose dimension is open, and the model at sizes to prove it at: its own, and one that no file was written for.

    `load_at` loads the model with the dimension at a size.
    Raises TargetError EW-T007 where it cannot stay open; ModelError where the model exists at its own size alone.
    """
    size = dimension.size
    try:
        sizes = size + 1, size + 2, size + 33
        others, further = [load_at(at) for at in sizes], load_at(size + 4)
    except ModelError:
        sizes = 2 * size, 3 * size, 33 * size
        others, further = [load_at(at) for at in sizes], load_at(4 * size)
    first, second, far = (_at(other, built, target, dimension, at) for other, at in zip(others, sizes, strict=True))
    content = resizable(Sized(size, built.artifact.content), first, second, far, dimension.name)
    return replace(built, artifact=replace(built.artifact, file=Content((content,)))), (built.source, further)


def _at(source: Source, built: Built, target: Target, dimension: OpenDimension, size: int) -> Sized:
    """The model at another size, by the same plan where there are encodings."""
    plan = built.plan if built.plan.encodings else None
    other = build(source, target, None, Options(plan=plan))
    if plan is not None:
        names = [{node.name or "" for node in part.graph.graph} for part in (built, other)]
        if names[0] != names[1]:
            raise TargetError(
                "EW-T007",
                f"the dimension {dimension.name} cannot stay open in one TFLite file",
                why=f"at the sizes {dimension.size} and {size} other operators compute it: {sorted(names[0] ^ names[1])[:3]}",
                fix="fix it with --shape, or calibrate at a size above 1",
            )
    return Sized(size, other.artifact.content)


def resized(
    example: Mapping[str, np.ndarray[Any, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Example inputs in other shapes, their values repeated."""
    return {name: np.resize(array, shapes[name]) for name, array in example.items()}
