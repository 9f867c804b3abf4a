"""A float graph through its operators' torch functions, and whether that is what onnxruntime computes.

Two checks, on one sample. Node by node, each from what onnxruntime computed before it: another formula shows there, and nothing adds up. Then
what is converted as a whole: it may be as far off as rounding explains, which is measured where the functions run in double precision too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.run import FloatRunner
from exporter.graph.values import attribute, constant, is_constant, name_of
from exporter.ops.base import operator_of
from exporter.ops.windows import window_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Unconverted", "constants_of", "pool_of", "require_nodes", "require_whole", "run"]

_Arrays = Mapping[str, np.ndarray[Any, Any]]

# Relative to the greatest magnitude of an output: the rounding of sums in another order lies far below, another formula above.
_APART: Final = 1e-4
# Of the greatest number that a node reads: what is left of a difference of large numbers, or of a function that is flat there, has no more.
_ULPS: Final = 16 * float(np.finfo(np.float32).eps)
# How many times as far as single from double precision two orders of rounding may lie apart: up to 10 times was seen where one runtime sums
# hundreds of numbers one after the other and the other in blocks.
_ORDERS: Final = 32
_MOST: Final = 0.1  # beyond, the sample says nothing


class Unconverted(Exception):
    """Why there is no ML program, a sentence for the user."""


def require_nodes(model: ir.Model, constants: Mapping[ir.Value, Tensor], sample: _Arrays) -> None:
    """Compare each node's torch function with onnxruntime, on what onnxruntime gave it. Raises Unconverted where one is another formula."""
    import torch

    graph = model.graph
    names = [name_of(value) for node in graph for value in node.outputs if value.name and value.dtype is not None]
    wanted = {**FloatRunner(model, names)(sample), **sample}
    known = {value: torch.from_numpy(np.array(wanted[name])) for value in _values(graph) if (name := value.name or "") in wanted}
    known |= dict(constants)
    for node in graph:
        read = [None if value is None else known.get(value) for value in node.inputs]
        if any(value is not None and found is None for value, found in zip(node.inputs, read, strict=True)):
            continue
        reach = max(map(_greatest, read), default=0.0)
        for value, found in zip(node.outputs, _compute(node, read), strict=False):
            if (name := value.name or "") not in wanted or not found.is_floating_point():
                continue
            difference, magnitude = _distance(found, wanted[name], name)
            if not difference <= _APART * magnitude + _ULPS * reach:
                raise Unconverted(
                    f"{node.name} ({node.op_type}) differs by {difference / max(magnitude, 1e-30):.3g} of its magnitude between torch and "
                    f"onnxruntime; {_APART:g} is allowed"
                )


def require_whole(
    found: Mapping[str, Tensor], wanted: _Arrays, graph: ir.Graph, constants: Mapping[ir.Value, Tensor], given: Sequence[Tensor]
) -> float:
    """The greatest difference of an output, in parts of its greatest magnitude. Raises Unconverted where rounding does not explain it."""
    rounding = _rounding(graph, constants, given)
    allowed = min(max(_APART, _ORDERS * rounding), _MOST)
    worst = 0.0
    for name, tensor in found.items():
        difference, magnitude = _distance(tensor, wanted[name], name)
        apart = difference / max(magnitude, 1e-30)
        if not apart <= allowed:  # a NaN is no agreement
            raise Unconverted(
                f"output {name} differs by {apart:.3g} of its magnitude between torch and onnxruntime; {allowed:.3g} is allowed, "
                f"since single precision is {rounding:.3g} off double precision"
            )
        worst = max(worst, apart)
    return worst


def _rounding(graph: ir.Graph, constants: Mapping[ir.Value, Tensor], given: Sequence[Tensor]) -> float:
    """How far the graph in single precision is from itself in double, in parts of an output's magnitude; 0 where it has no double."""

    def widened(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    try:
        double = run(graph, {value: widened(tensor) for value, tensor in constants.items()}, [*map(widened, given)], widened)
    except (RuntimeError, TypeError, ValueError):  # a function that makes its own constants of single precision
        return 0.0
    single = run(graph, constants, given)
    apart = [0.0]
    for value in graph.outputs:
        if single[value].is_floating_point():
            difference, magnitude = _distance(single[value], double[value].numpy(), name_of(value))
            apart.append(difference / max(magnitude, 1e-30))
    return max(apart)


def _distance(found: Tensor, wanted: np.ndarray[Any, Any], name: str) -> tuple[float, float]:
    """The greatest difference of finite numbers, and the greatest of them; infinite where infinities or NaN are in other places."""
    ours, theirs = np.asarray(found.detach(), np.float64), np.asarray(wanted, np.float64)
    if ours.shape != theirs.shape:
        raise Unconverted(f"output {name} has the shape {ours.shape} in torch and {theirs.shape} in onnxruntime")
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return float("inf"), 1.0
    difference = np.abs(ours[finite] - theirs[finite]).max(initial=0.0)
    return float(difference), float(np.abs(theirs[finite]).max(initial=0.0))


def _greatest(tensor: Tensor | None) -> float:
    """The greatest magnitude of a float tensor's finite numbers."""
    if tensor is None or not tensor.is_floating_point():
        return 0.0
    numbers = tensor[tensor.isfinite()]
    return float(numbers.abs().max()) if numbers.numel() else 0.0


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def run(
    graph: ir.Graph,
    constants: Mapping[ir.Value, Tensor],
    given: Sequence[Tensor],
    each: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[ir.Value, Tensor]:
    """All values of the graph, computed by the operators' torch functions; `each` is applied to all that a node gives."""
    values = dict(zip(graph.inputs, given, strict=True)) | dict(constants)
    for node in graph:
        read = [None if value is None else values[value] for value in node.inputs]
        values.update(zip(node.outputs, map(each, _compute(node, read)), strict=False))
    return values


def _compute(node: ir.Node, read: Sequence[Tensor | None]) -> Sequence[Tensor]:
    pool = pool_of(node)
    return operator_of(node).torch(node, read) if pool is None else [pool(read[0])]


def pool_of(node: ir.Node) -> Callable[..., Tensor] | None:
    """torch's own MaxPool where it has this one, which becomes one operator of an ML program; the facet's gathers become many."""
    from torch.nn import functional

    if node.op_type != "MaxPool" or len(node.outputs) > 1 or len(attribute(node, "kernel_shape")) > 2:
        return None
    window = window_of(node, attribute(node, "kernel_shape"))
    axes = zip(window.kernel, window.strides, window.before, window.size, window.count, strict=True)
    regular = all(
        2 * pad <= kernel and count == (size + 2 * pad - kernel) // stride + 1 for kernel, stride, pad, size, count in axes
    )
    if not regular or max(window.dilations) > 1:
        return None
    pool = functional.max_pool1d if len(window.kernel) == 1 else functional.max_pool2d
    return partial(pool, kernel_size=window.kernel, stride=window.strides, padding=window.before)


def constants_of(graph: ir.Graph) -> dict[ir.Value, Tensor]:
    import torch

    read = [*(value for node in graph for value in node.inputs if value is not None), *graph.outputs]
    return {value: torch.from_numpy(np.array(constant(value))) for value in read if is_constant(value)}
