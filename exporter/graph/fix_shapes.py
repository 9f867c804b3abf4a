"""Give every graph input a static shape.

::

    x [N, 3, H, W]  --shapes {"x": (1, 3, 640, 640)}-->  x [1, 3, 640, 640]
    x [N, 3, 224, 224]  ------------------------------>  x [1, 3, 224, 224]

Requires: nothing. Ensures: every graph input has a static shape; where one changed, stale shapes of other values are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from diagnostics import ModelError

__all__ = ["fix_shapes"]


def fix_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """Fix the inputs' dynamic dimensions in place, by `shapes` (input name -> dims); a dynamic leading dimension without an entry is 1.

    A symbol that one input binds (``H``) is bound in the others as well. Returns how many inputs changed.
    Raises ModelError EW-M006 where a dimension stays unknown, EW-M011 where `shapes` does not fit the model.
    """
    shapes = shapes or {}
    inputs = {value.name or "": value for value in model.graph.inputs}
    for name in shapes:
        if name not in inputs:
            raise ModelError("EW-M011", f"the model has no input {name!r}", why=f"its inputs are {', '.join(map(repr, inputs))}")
    symbols: dict[str, int] = {}
    for name, wanted in shapes.items():
        _bind(inputs[name], [int(size) for size in wanted], symbols)
    changed = 0
    for name, value in inputs.items():
        if value.shape is None and name not in shapes:
            raise _dynamic(value, "its rank is unknown")
        fixed = [int(size) for size in shapes[name]] if name in shapes else _fixed(value, symbols)
        if value.shape is None or list(value.shape) != fixed:
            value.shape = ir.Shape(fixed)
            changed += 1
    if changed:
        for node in model.graph.all_nodes():
            for output in node.outputs:
                output.shape = None
    return changed


def _bind(value: ir.Value, wanted: list[int], symbols: dict[str, int]) -> None:
    """Check `wanted` against an input's declared shape and note what its symbols stand for."""
    declared = list(value.shape) if value.shape is not None else [None] * len(wanted)
    fits = len(declared) == len(wanted) and all(size > 0 for size in wanted)
    for dim, size in zip(declared, wanted, strict=False):
        fits = fits and (_size(dim) in (None, size))
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            symbols[dim.value] = size
    if not fits:
        raise ModelError(
            "EW-M011", f"shape {tuple(wanted)} does not fit the input {value.name!r}", why=f"the model declares {value.shape}"
        )


def _fixed(value: ir.Value, symbols: Mapping[str, int]) -> list[int]:
    assert value.shape is not None
    sizes: list[int] = []
    for axis, dim in enumerate(value.shape):
        size = 0 if dim == 0 and axis else _size(dim)  # an empty tensor, other than at the batch, is one that the model means
        if size is None and isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            size = symbols.get(dim.value)
        if size is None and axis == 0:
            size = 1
        if size is None:
            raise _dynamic(value, f"dimension {axis} of {value.shape} is dynamic")
        sizes.append(size)
    return sizes


def _size(dim: int | ir.SymbolicDim | None) -> int | None:
    """The size of a dimension, None where it is dynamic (some exporters write a dynamic dimension as -1 or 0)."""
    return dim if isinstance(dim, int) and dim > 0 else None


def _dynamic(value: ir.Value, why: str) -> ModelError:
    rank = len(value.shape) if value.shape is not None else 4
    example = ",".join(str(_size(dim) or 224) if axis else "1" for axis, dim in enumerate(value.shape or [None] * rank))
    return ModelError(
        "EW-M006", f"the input {value.name!r} has no static shape", why=why, fix=f"give it: --shape {value.name}={example}"
    )
