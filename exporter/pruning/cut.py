"""The physical cut: weights sliced, attributes and shape constants mended, every shape brought up to date.

The new shape of each value follows from the classes that were removed; ONNX shape inference then has to come to the same shapes from
the sliced weights and mended attributes alone, so a coupling that lies cannot leave a stale or wrong shape behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.check import check
from exporter.graph.infer_shapes import infer_shapes
from exporter.graph.values import name_of, static_shape
from exporter.pruning.groups import Groups, end_of, site_key

__all__ = ["cut", "kept_indices", "removed_classes"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def cut(model: ir.Model, groups: Groups, removed: Mask, *, verify: bool = True) -> ir.Model:
    """A copy of `model` without the classes that `removed` marks; `model` stays as it is.

    Args:
        model: the graph that `groups` was found in.
        groups: its dependency groups.
        removed: shape [groups.count], True where a class goes; only classes of `groups.groups` may be marked.
        verify: let ONNX shape inference confirm the shapes (the schedule, which only counts, does without).

    Raises ValueError where a class that is not prunable is marked, or a whole group; ModelError EW-M007 where the shapes contradict.
    """
    _refuse_illegal(groups, removed)
    keep = {site: np.flatnonzero(~removed[labels]) for site, labels in groups.labels.items() if removed[labels].any()}
    copy = model.clone()
    graph = copy.graph
    for value in graph.initializers.values():
        _slice(value, keep)
    for node in graph:
        for value in node.outputs:
            _reshape(value, keep)
    for node, entry in zip(graph, groups.couplings, strict=True):
        if entry is None or entry[0].update is None:
            continue
        coupling, used = entry
        kept = []
        for tie, flag in zip(coupling.ties, used, strict=True):
            run = tie[0]
            end = end_of(node, run)
            heads = run.offset + np.arange(run.count) * run.repeat
            stays = ~removed[groups.labels[(name_of(end), run.axis)][heads]]
            kept.append(tuple(np.flatnonzero(stays).tolist()) if flag else tuple(range(run.count)))
        if any(len(stay) < tie[0].count for stay, tie in zip(kept, coupling.ties, strict=True)):
            entry[0].update(node, tuple(kept))
    _drop_unused(graph, model.graph)
    if verify:
        _verify(copy)
    return copy


def kept_indices(model: ir.Model, groups: Groups, removed: Mask) -> dict[str, tuple[int, ...]]:
    """Indices that stay of every initializer axis that loses some, as `Plan.kept` records them."""
    return {
        site_key((name, axis)): tuple(np.flatnonzero(~removed[labels]).tolist())
        for (name, axis), labels in groups.labels.items()
        if name in model.graph.initializers and removed[labels].any()
    }


def removed_classes(model: ir.Model, groups: Groups, kept: Mapping[str, tuple[int, ...]]) -> Mask:
    """The classes that a recorded decision removes. Raises ModelError EW-Q002 where it does not fit the graph."""
    removed = np.zeros(groups.count, bool)
    for key, indices in kept.items():
        name, _, axis = key.rpartition(":")
        labels = groups.labels.get((name, int(axis))) if axis.isdecimal() and name in model.graph.initializers else None
        if labels is None or any(not 0 <= index < labels.size for index in indices):
            raise _misfit(f"the plan keeps indices of {key}, which the model does not have")
        removed[np.delete(labels, list(indices))] = True
    if kept_indices(model, groups, removed) != {key: tuple(indices) for key, indices in kept.items()}:
        raise _misfit("the plan cuts channels apart that depend on each other in this model")
    try:
        _refuse_illegal(groups, removed)
    except ValueError as error:
        raise _misfit(f"the plan cuts what this model needs: {error}") from error
    return removed


def _misfit(what: str) -> ModelError:
    return ModelError(
        "EW-Q002", what, why="the plan was made for another model or release", fix="make the plan again from this model"
    )


def _refuse_illegal(groups: Groups, removed: Mask) -> None:
    allowed = np.zeros(groups.count, bool)
    for group in groups.groups:
        members = list(group.classes)
        allowed[members] = True
        if removed[members].all():
            raise ValueError(f"every channel of {group.name} would go")
    if (removed & ~allowed).any():
        raise ValueError(f"{int((removed & ~allowed).sum())} classes of channels must stay")


def _slice(value: ir.Value, keep: Mapping[tuple[str, int], np.ndarray[Any, Any]]) -> None:
    name, tensor = name_of(value), value.const_value
    axes = [axis for axis in range(len(static_shape(value))) if (name, axis) in keep]
    if tensor is None or not axes:
        return
    array = tensor.numpy()
    for axis in axes:
        array = np.take(array, keep[(name, axis)], axis)
    value.const_value = ir.Tensor(np.ascontiguousarray(array), name=name)
    value.shape = ir.Shape(array.shape)


def _reshape(value: ir.Value, keep: Mapping[tuple[str, int], np.ndarray[Any, Any]]) -> None:
    name = name_of(value)
    shape = static_shape(value)
    value.shape = ir.Shape(keep[(name, axis)].size if (name, axis) in keep else dim for axis, dim in enumerate(shape))


def _drop_unused(graph: ir.Graph, before: ir.Graph) -> None:
    """Remove constants that only a mended node used (constants that nobody used before are not ours to remove)."""
    for name in [name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        if name not in before.initializers or before.initializers[name].uses():
            del graph.initializers[name]


def _verify(model: ir.Model) -> None:
    """Infer all shapes from inputs, weights and attributes alone, and compare. Raises ModelError EW-M007 at the first that differs."""
    check(model, "prune")
    bare = model.clone()
    for node in bare.graph:
        for value in node.outputs:
            value.shape = None
    infer_shapes(bare)
    pairs = [
        (node, value, other)
        for node, inferred in zip(model.graph, bare.graph, strict=True)
        for value, other in zip(node.outputs, inferred.outputs, strict=True)
    ]
    if pairs and all(other.shape is None for _, _, other in pairs):
        raise _fault("the pruned graph is not valid: ONNX cannot infer its shapes")
    for node, value, other in pairs:
        if other.shape is not None and other.shape.is_static() and other.shape != value.shape:
            inferred, coupled = list(static_shape(other)), list(static_shape(value))
            raise _fault(f"after pruning, {node.op_type} {node.name} gives {value.name} the shape {inferred}, not {coupled}")


def _fault(what: str) -> ModelError:
    return ModelError(
        "EW-M007",
        what,
        why="the coupling rule of an operator is wrong; nothing was exported",
        fix="please report this as a fault of edgewright; exporting without --prune works",
    )
