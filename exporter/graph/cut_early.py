"""What is joined and then cut apart again is cut before it is joined: then it need not share an encoding with its neighbours.

::

    reg    [1, 4, 52, 52] -+-> Concat -> Reshape [1, 6, 2704] -> Transpose -+-> Slice 0:4          reg    -> Reshape -> Transpose
    scores [1, 2, 52, 52] -+                                                +-> Slice 4:6          scores -> Reshape -> Transpose

It fires where nothing reads the joined value whole, and the cut leaves some of what was joined behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.graph.rewriter import GraphRewriter
from exporter.graph.values import attribute, consumers, is_constant, rank, static_shape
from exporter.ops.slicing import slice_ranges

__all__ = ["cut_before_joining"]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
Range = tuple[int, int]  # first entry and number of entries along an axis


def cut_before_joining(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """A Slice or Split of a concatenation reads what was joined, through the reshapes and transposes in between."""
    joined = node.inputs[0] if node.inputs else None
    if joined is None or not _only_cut(joined) or not _moved_alone(joined):
        return None
    cuts = _cuts(node)
    if not cuts or not all(_leaves_some(joined, cut) for cut in cuts):
        return None
    return [_cut(joined, cut, rewriter) for cut in cuts]


def _cuts(node: ir.Node) -> list[list[Range]]:
    """What each output is of the input, by axis; none where the node is no cut at constant places, one step at a time."""
    if node.domain or any(value is not None and not is_constant(value) for value in node.inputs[1:]):
        return []
    if node.op_type == "Slice":
        ranges = slice_ranges(node)
        return [[(start, count) for start, count, _ in ranges]] if all(step == 1 for _, _, step in ranges) else []
    if node.op_type != "Split" or node.inputs[0] is None:
        return []
    whole = [(0, length) for length in static_shape(node.inputs[0])]
    axis, start, found = attribute(node, "axis", 0) % len(whole), 0, []
    for value in node.outputs:
        count = static_shape(value)[axis]
        found.append([*whole[:axis], (start, count), *whole[axis + 1 :]])
        start += count
    return found


def _only_cut(value: ir.Value) -> bool:
    """Whether all that reads a value are cuts, so that it disappears."""
    return not value.is_graph_output() and all(_cuts(reader) for reader in consumers(value))


def _moved_alone(value: ir.Value) -> bool:
    """Whether a concatenation made the value, and nobody else reads it or what was moved since."""
    node = value.producer()
    while node is not None and not node.domain and node.op_type in (*_RESHAPES, "Transpose") and node.inputs[0] is not None:
        before = node.inputs[0]
        if len(before.uses()) != 1 or before.is_graph_output():
            return False
        node = before.producer()
    return node is not None and node.op_type == "Concat" and not node.domain


def _leaves_some(value: ir.Value, cut: Sequence[Range]) -> bool:
    """Whether the cut ends at fewer values than were joined, and through all reshapes on the way."""
    return 0 < len(_reached(value, cut)) < len(_reached(value, _whole(value)))


def _reached(value: ir.Value, cut: Sequence[Range]) -> set[ir.Value]:
    """The joined values that a cut has entries of; none where it cannot be brought before a reshape."""
    node = value.producer()
    if node is not None and node.op_type == "Concat" and len(value.uses()) >= 1:
        found = [_reached(source, inner) if _joins(source) else {source} for source, inner in _through_concat(node, cut)]
        return set().union(*found) if all(found) else set()
    inner = _before(node, cut)
    return _reached(node.inputs[0], inner) if node is not None and inner is not None and node.inputs[0] is not None else set()


def _joins(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output() and _moved_alone(value)


def _through_concat(node: ir.Node, cut: Sequence[Range]) -> list[tuple[ir.Value, list[Range]]]:
    """What a cut is of each input that it has entries of."""
    axis, start, found = attribute(node, "axis") % len(cut), 0, []
    first, count = cut[axis]
    for value in node.inputs:
        assert value is not None
        length = static_shape(value)[axis]
        low, high = max(first - start, 0), min(first + count - start, length)
        if low < high:
            found.append((value, [*cut[:axis], (low, high - low), *cut[axis + 1 :]]))
        start += length
    return found


def _before(node: ir.Node | None, cut: Sequence[Range]) -> list[Range] | None:
    """The cut in front of a Transpose or reshape; None where it is cut along axes that the reshape merges or splits."""
    source = node.inputs[0] if node is not None else None
    if node is None or source is None:
        return None
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", tuple(reversed(range(len(cut)))))
        inner = [(0, 0)] * len(cut)
        for place, axis in enumerate(perm):
            inner[axis] = cut[place]
        return inner
    before, after = static_shape(source), static_shape(node.outputs[0])
    kept = 0
    while kept < min(len(before), len(after)) and before[kept] == after[kept]:
        kept += 1
    if any(entry != (0, length) for entry, length in zip(cut[kept:], after[kept:], strict=True)):
        return None
    return [*cut[:kept], *((0, length) for length in before[kept:])]


def _cut(value: ir.Value, cut: Sequence[Range], rewriter: GraphRewriter) -> ir.Value:
    """The entries of `value` that the cut names, cut as early as it goes."""
    if list(cut) == _whole(value):
        return value
    node = value.producer()
    if node is not None and _moved_alone(value):
        if node.op_type == "Concat":
            parts = [
                _cut(source, inner, rewriter) if _joins(source) else _sliced(source, inner, rewriter)
                for source, inner in _through_concat(node, cut)
            ]
            return parts[0] if len(parts) == 1 else rewriter.op("Concat", *parts, axis=attribute(node, "axis"))
        inner = _before(node, cut)
        if inner is not None and node.inputs[0] is not None:
            moved = _cut(node.inputs[0], inner, rewriter)
            if node.op_type == "Transpose":
                return rewriter.copy(node, [moved])
            shape = np.asarray([count for _, count in cut], np.int64)
            return rewriter.op("Reshape", moved, rewriter.const(shape, "shape"))
    return _sliced(value, cut, rewriter)


def _sliced(value: ir.Value, cut: Sequence[Range], rewriter: GraphRewriter) -> ir.Value:
    axes = [axis for axis, (entry, length) in enumerate(zip(cut, static_shape(value), strict=True)) if entry != (0, length)]
    if not axes:
        return value
    bounds = ([cut[a][0] for a in axes], [sum(cut[a]) for a in axes], axes)
    names = ("starts", "ends", "axes")
    constants = [rewriter.const(np.asarray(bound, np.int64), name) for bound, name in zip(bounds, names, strict=True)]
    return rewriter.op("Slice", value, *constants)


def _whole(value: ir.Value) -> list[Range]:
    assert rank(value) or value.shape is not None
    return [(0, length) for length in static_shape(value)]
