"""Operators that move or rename: the numbers stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops.base import (
    Channels,
    Constraint,
    Cost,
    Coupling,
    LayoutRule,
    Lowering,
    Operator,
    Port,
    QuantRule,
    Rewriter,
    register,
)
from exporter.ops.common import (
    INT8_AND_INT16,
    SHARED,
    Elementwise,
    activation_rule,
    input_of,
    input_shape,
    is_float,
    output_shape,
    replace_ints,
)
from exporter.ops.kernels import MOVED, builtin_version, most_axes, stored_dtype, takes

__all__ = ["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"]


# No kernel wants more axes than a volume has channels-last, and few move so many.
_MOST_LAST: Final = 5


class Reshaping(Operator):
    """Base of Reshape, Flatten, Squeeze and Unsqueeze: one run of elements under another shape."""

    kernel_dtypes = INT8_AND_INT16

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(tuple(_reshape_ties(input_shape(node), output_shape(node))))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def layout(self, node: ir.Node) -> LayoutRule:
        before, after = input_shape(node), output_shape(node)
        ranks = len(before), len(after)
        if _order_matters(before) and min(ranks) >= 3 and max(ranks) <= _MOST_LAST and before[:2] == after[:2]:
            # Only pixels are merged or split: channels-last pixels are the same pixels, with the channels behind them.
            ports = (Port.NODE, Port.NODE)
        else:
            ports = (_reshape_port(before), _reshape_port(after))
        return LayoutRule((ports[0],) + (Port.ANY,) * (len(node.inputs) - 1), (ports[1],))

    def lower(self, node: ir.Node, to: Lowering) -> None:
        source = to.input(0)
        shape = to.shape(to.output())
        if to.shape(source) == shape:
            to.alias(0, source)
        else:
            to.emit("RESHAPE", [source, to.ints(shape)], [to.output()], version=1, new_shape=list(shape))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        before, after = input_shape(node), output_shape(node)
        # The canonical graph's batch is a fixed number; simulation may run it with more samples at once.
        batch = inputs[0].shape[0] if before and after and before[0] == after[0] else None
        return [inputs[0].reshape(after if batch is None else (batch, *after[1:]))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _order_matters(shape: tuple[int, ...]) -> bool:
    """Whether channels-first and channels-last hold the elements in different order."""
    return len(shape) >= 3 and shape[1] > 1 and prod(shape[2:]) > 1


def _reshape_port(shape: tuple[int, ...]) -> Port:
    return Port.FIRST if _order_matters(shape) else Port.ANY


def _reshape_ties(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[Channels, ...]]:
    """Ties of the axes longer than 1, in the shortest stretches of both shapes that hold the same elements.

    An axis that keeps its length is tied to itself; one that is merged with others comes round again (`outer`) and owns a run
    of elements (`repeat`) of the merged axis; the same the other way round where an axis is split.
    """
    for ins, outs in _stretches(before, after):
        if len(ins) == 1 and len(outs) == 1:
            yield (Channels("in", 0, ins[0], before[ins[0]]), Channels("out", 0, outs[0], after[outs[0]]))
        elif len(outs) == 1:
            for merged, run in _parts(before, ins, outs[0], side="out"):
                yield (Channels("in", 0, merged, before[merged]), run)
        elif len(ins) == 1:
            for split, run in _parts(after, outs, ins[0], side="in"):
                yield (run, Channels("out", 0, split, after[split]))


def _parts(shape: tuple[int, ...], axes: list[int], whole: int, side: str) -> Iterator[tuple[int, Channels]]:
    for place, axis in enumerate(axes):
        outer, repeat = (prod(shape[other] for other in part) for part in (axes[:place], axes[place + 1 :]))
        yield axis, Channels(side, 0, whole, shape[axis], repeat=repeat, outer=outer)


def _stretches(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes (of length > 1) of both shapes, split where as many elements lie before the cut in one as in the other."""
    ins, outs = ([axis for axis, length in enumerate(shape) if length != 1] for shape in (before, after))
    if 0 in (*before, *after):
        return
    while ins and outs:
        left, right = [ins.pop(0)], [outs.pop(0)]
        a, b = before[left[0]], after[right[0]]
        while a != b:
            if a < b:
                left.append(ins.pop(0))
                a *= before[left[-1]]
            else:
                right.append(outs.pop(0))
                b *= after[right[-1]]
        yield left, right


@register
class Reshape(Reshaping):
    """The same elements under the shape that input 1 says."""

    op_type = "Reshape"

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(super().couple(node).ties, update=_update_reshape)


def _update_reshape(node: ir.Node, kept: tuple[Sequence[int], ...]) -> None:
    replace_ints(node, 1, output_shape(node))


@register
class Flatten(Reshaping):
    """Axes before and from `axis` on, merged into one each."""

    op_type = "Flatten"


@register
class Squeeze(Reshaping):
    """Without axes of length 1."""

    op_type = "Squeeze"


@register
class Unsqueeze(Reshaping):
    """With more axes of length 1."""

    op_type = "Unsqueeze"


def _five_axes(node: ir.Node) -> bool:
    """TensorFlow Lite Micro moves five axes at most, those that stay together counted as one."""
    return rank(node.outputs[0]) <= 5


@register
class Transpose(Operator):
    """Axes in another order.

    Its permutation and those of the layouts on both sides are one. Where two layouts make that one move no element (as the step from
    channels-last to -first does, or one that moves axes of length 1 alone), it asks for these and writes nothing, or a RESHAPE.
    Any other reads and writes whichever layout its neighbours have.
    """

    op_type = "Transpose"
    kernel_dtypes = INT8_AND_INT16
    constraints = (
        takes("Transpose", (*MOVED, "uint16", "uint32")),
        most_axes("Transpose", 6),
        Constraint("tflite-micro", _five_axes),
    )

    def couple(self, node: ir.Node) -> Coupling:
        shape = output_shape(node)
        return Coupling(
            tuple(
                (Channels("in", 0, source, shape[axis]), Channels("out", 0, axis, shape[axis]))
                for axis, source in enumerate(_perm(node))
            )
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def layout(self, node: ir.Node) -> LayoutRule:
        shape = input_shape(node)
        still = [
            (before, after)
            for before, after in ((True, False), (False, True), (False, False), (True, True))
            if not _moves(_stored_perm(node, before, after), _stored(shape, before))
        ]
        if len(shape) < 3 or not still:
            return LayoutRule((Port.ANY,), (Port.ANY,))
        if still[:2] == [(True, False), (False, True)]:
            return LayoutRule((Port.NODE,), (Port.OTHER,))
        if still == [(False, False), (True, True)]:
            return LayoutRule((Port.NODE,), (Port.NODE,))
        before, after = still[0]
        return LayoutRule((_LABELS[before],), (_LABELS[after],))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Axes that stay beside each other move as one, where TFLite has too few; those of length 1 move as nothing."""
        most = 6 if rewriter.runs("TRANSPOSE", 6) else 5
        if rewriter.runtime != "tflite" or rank(node.outputs[0]) <= most:
            return None
        shape, perm = input_shape(node), _perm(node)
        kept = [axis for axis in perm if shape[axis] != 1]
        runs: list[list[int]] = []
        for axis in kept:
            between = range(runs[-1][-1] + 1, axis) if runs else range(0)
            if runs and runs[-1][-1] < axis and all(shape[other] == 1 for other in between):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        if len(runs) > most:
            return None
        order = sorted(runs)
        x = rewriter.op("Reshape", input_of(node, 0), _shape_constant(rewriter, [prod(shape[a] for a in run) for run in order]))
        moved = rewriter.op("Transpose", x, perm=tuple(order.index(run) for run in runs))
        return [rewriter.op("Reshape", moved, _shape_constant(rewriter, output_shape(node)))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        source = to.input(0)
        shape = to.shape(source)
        perm = _stored_perm(node, to.input_last(0), to.output_last())
        target = tuple(shape[axis] for axis in perm)
        if not _moves(perm, shape):
            if shape == target:
                to.alias(0, source)
            else:
                to.emit("RESHAPE", [source, to.ints(target)], [to.output()], version=1, new_shape=list(target))
            return
        at = builtin_version("TRANSPOSE", stored_dtype(node, to), len(perm))
        to.emit("TRANSPOSE", [source, to.ints(perm)], [to.output()], version=at)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].permute(_perm(node))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _shape_constant(rewriter: Rewriter, shape: Sequence[int]) -> ir.Value:
    return rewriter.const(np.asarray(shape, np.int64), "shape")


def _perm(node: ir.Node) -> tuple[int, ...]:
    count = rank(input_of(node, 0))
    return tuple(attribute(node, "perm", tuple(reversed(range(count)))))


_LABELS: Final = {False: Port.FIRST, True: Port.LAST}


def _order(count: int, last: bool) -> tuple[int, ...]:
    """The axes in the order that a layout stores them."""
    return (0, *range(2, count), 1) if last and count >= 3 else tuple(range(count))


def _stored(shape: tuple[int, ...], last: bool) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _order(len(shape), last))


def _stored_perm(node: ir.Node, before: bool, after: bool) -> tuple[int, ...]:
    """The permutation between stored tensors; `before`, `after`: whether input and output are channels-last."""
    perm = _perm(node)
    source = _order(len(perm), before)
    return tuple(source.index(perm[axis]) for axis in _order(len(perm), after))


def _moves(perm: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a permutation of a tensor changes the order of its elements: axes of length 1 move as nothing."""
    kept = [axis for axis in perm if shape[axis] != 1]
    return kept != sorted(kept)


@register
class Identity(Elementwise):
    """The input itself."""

    op_type = "Identity"
    kernel_dtypes = INT8_AND_INT16

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.alias(0, to.input(0))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0]]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


_DTYPES: Final[Mapping[str, str]] = {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64", "BOOL": "bool"}


def _cast_known(node: ir.Node) -> bool:
    """Cast goes between booleans, integers of 8 to 64 bits and floats of 16 to 64 bits, but not between uint64 and floats."""
    dtypes = {_dtype(input_of(node, 0)), _dtype(node.outputs[0])}
    return dtypes <= _CASTS.keys() or dtypes <= {"UINT64", "INT64"}


@register
class Cast(Elementwise):
    """The same numbers in another dtype."""

    op_type = "Cast"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "Cast changes the dtype that an encoding would stand for"}
    constraints = (Constraint("tflite", _cast_known),)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Integers reach uint64, and are reached from it, by way of int64: the bits stay, and what overflows is cut off."""
        x, y = input_of(node, 0), node.outputs[0]
        dtypes = {_dtype(x), _dtype(y)}
        if rewriter.runtime != "tflite" or "UINT64" not in dtypes or "INT64" in dtypes or is_float(x) or is_float(y):
            return None
        signed = rewriter.op("Cast", x, to=int(ir.DataType.INT64))
        return [rewriter.op("Cast", signed, to=int(ir.DataType[_dtype(y)]))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        source, wanted = _dtype(input_of(node, 0)), _dtype(node.outputs[0])
        if source == wanted:
            to.alias(0, to.input(0))
            return
        if "UINT64" in (source, wanted):
            to.emit("BITCAST", [to.input(0)], [to.output()], version=1)
            return
        at = max(_CASTS[source], _CASTS[wanted])
        names = {"in_data_type": _TFLITE.get(source, source), "out_data_type": _TFLITE.get(wanted, wanted)}
        to.emit("CAST", [to.input(0)], [to.output()], version=at, **names)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        name = _dtype(node.outputs[0])
        return [inputs[0].to(getattr(torch, _DTYPES.get(name, name.lower())))]


_TFLITE: Final[Mapping[str, str]] = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}
# The version of CAST that each dtype needs on either side (TensorFlow's op_version.cc; float16 came without one, shortly before version 7).
_CASTS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("FLOAT", "UINT8", "INT16", "INT32", "INT64", "BOOL"), 1),
    "UINT32": 2,
    "INT8": 3,
    "UINT16": 4,
    "DOUBLE": 5,
    "FLOAT16": 7,
}


def _dtype(value: ir.Value) -> str:
    return value.dtype.name if value.dtype is not None else "UNDEFINED"
