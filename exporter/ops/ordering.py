"""Operators that order elements or add them up along an axis: TopK, ArgMax, ArgMin, CumSum, CumProd, ReverseSequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops import hexagon
from exporter.ops.base import (
    Cost,
    InputRule,
    LayoutRule,
    Lowering,
    Port,
    QuantRule,
    Refused,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import (
    INT8_AND_INT16,
    OWN,
    SHARED,
    activation_rule,
    axis_of,
    elementwise_cost,
    input_of,
    input_shape,
    ints_of,
    is_float,
    output_shape,
    uniform_layout,
)
from exporter.ops.indexing import Rigid
from exporter.ops.kernels import builtin_version, dtype_of, in_wider_dtype, stored_dtype, takes

__all__ = ["ArgMax", "ArgMin", "CumProd", "CumSum", "ReverseSequence", "TopK"]


@register
class TopK(Rigid):
    """The k greatest (or least) elements along an axis and their places, in order; of equal ones, the first come first."""

    op_type = "TopK"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("TopK", ("float32", "int8", "uint8", "int16", "int32", "int64")),)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite's takes the greatest along the last axis: other axes are moved there, and the least are the greatest of the opposites."""
        if rewriter.runtime != "tflite":
            return None
        x, axis, largest = input_of(node, 0), axis_of(node, -1), bool(attribute(node, "largest", 1))
        last = rank(x) - 1
        if axis != last:
            perm = tuple({axis: last, last: axis}.get(place, place) for place in range(last + 1))
            top = rewriter.op(
                "TopK", rewriter.op("Transpose", x, perm=perm), node.inputs[1], outputs=2, axis=-1, largest=int(largest)
            )
            return [rewriter.op("Transpose", value, perm=perm) for value in _outputs(top)]
        if not largest:
            top = rewriter.op("TopK", _opposite(rewriter, x), node.inputs[1], outputs=2, axis=-1)
            values, places = _outputs(top)
            return [_opposite(rewriter, values), places]
        return in_wider_dtype(node, rewriter, {"float16": "float32", "uint16": "int32", "uint32": "int64"})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        (count,) = ints_of(node, 1) or (1,)
        places = to.temp(to.ints([0]), output_shape(node, 1))
        at = builtin_version("TOPK_V2", stored_dtype(node, to))
        to.emit("TOPK_V2", [to.input(0), to.ints(np.asarray(count))], [to.output(0), places], version=at)
        to.emit("CAST", [places], [to.output(1)], in_data_type="INT32", out_data_type="INT64")

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        (count,) = ints_of(node, 1) or (1,)
        axis = axis_of(node, -1)
        order = inputs[0].argsort(dim=axis, descending=bool(attribute(node, "largest", 1)), stable=True).narrow(axis, 0, count)
        return [inputs[0].gather(axis, order), order]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=_size(node))


def _opposite(rewriter: Rewriter, x: ir.Value) -> ir.Value:
    """Numbers in the opposite order, exactly and its own inverse: -x for floats, -1 - x for signed integers, 255 - x for uint8."""
    if is_float(x):
        return rewriter.op("Neg", x)
    dtype = np.dtype(dtype_of(x))
    return rewriter.op("Sub", rewriter.const(np.asarray(np.iinfo(dtype).max if dtype.kind == "u" else -1, dtype)), x)


class _ArgExtreme(Rigid):
    """The first place (the last, with `select_last_index`) of the extreme along an axis."""

    builtin: ClassVar[str] = ""

    def quantize(self, node: ir.Node) -> QuantRule:
        """Order is kept by every encoding; the places are no numbers to encode."""
        return QuantRule((InputRule(Role.ACTIVATION),), (OWN,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: without the axis, and the last place as the first one from behind."""
        if rewriter.runtime != "tflite":
            return None
        x, axis = input_of(node, 0), axis_of(node, 0)
        axes = rewriter.const(np.asarray([axis], np.int64), "axes")
        if attribute(node, "keepdims", 1):
            last = attribute(node, "select_last_index", 0)
            places = rewriter.op(self.op_type, x, axis=axis, keepdims=0, select_last_index=last)
            return [rewriter.op("Unsqueeze", places, axes)]
        if attribute(node, "select_last_index", 0):
            start, end, step = (rewriter.const(np.asarray([number], np.int64)) for number in (-1, -(2**31), -1))
            behind = rewriter.op(self.op_type, rewriter.op("Slice", x, start, end, axes, step), axis=axis, keepdims=0)
            return [rewriter.op("Sub", rewriter.const(np.asarray(input_shape(node)[axis] - 1, np.int64), "last"), behind)]
        return in_wider_dtype(node, rewriter, {"int16": "int32", "uint16": "int32", "float16": "float32"})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axis = to.ints(np.asarray(axis_of(node, 0)))
        at = builtin_version(self.builtin, stored_dtype(node, to))
        to.emit(self.builtin, [to.input(0), axis], [to.output()], version=at, output_type="INT64")

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        axis, last = axis_of(node, 0), bool(attribute(node, "select_last_index", 0))
        x = inputs[0].flip(axis) if last else inputs[0]
        # torch's own argmax leaves open which of equal places it gives.
        places = x.argsort(dim=axis, descending=self.builtin == "ARG_MAX", stable=True).narrow(axis, 0, 1)
        places = x.shape[axis] - 1 - places if last else places
        return [places if attribute(node, "keepdims", 1) else places.squeeze(axis)]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=_size(node))


_ARG_DTYPES: Final = ("float32", "int8", "uint8", "int32", "bool")


@register
class ArgMax(_ArgExtreme):
    """Place of the greatest element along an axis."""

    op_type, builtin = "ArgMax", "ARG_MAX"
    constraints = (takes("ArgMax", _ARG_DTYPES), *hexagon.ARG_EXTREME)


@register
class ArgMin(_ArgExtreme):
    """Place of the least element along an axis."""

    op_type, builtin = "ArgMin", "ARG_MIN"
    constraints = (takes("ArgMin", _ARG_DTYPES), *hexagon.ARG_EXTREME)


class _Cumulative(Rigid):
    """Base of the running sums and products along an axis: `exclusive` of the element itself, `reverse` from the end."""

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, f"{self.op_type} has no int8 kernel")

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node)


@register
class CumSum(_Cumulative):
    """Running sums along an axis."""

    op_type = "CumSum"
    constraints = (takes("CumSum", ("float32", "int32", "int64")),)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Exact in wider integers: what overflows wraps alike when it is cut."""
        return in_wider_dtype(node, rewriter, {"uint32": "int64"})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axis = to.ints(np.asarray(_constant_axis(node)))
        exclusive, reverse = bool(attribute(node, "exclusive", 0)), bool(attribute(node, "reverse", 0))
        to.emit("CUMSUM", [to.input(0), axis], [to.output()], exclusive=exclusive, reverse=reverse)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_running(node, inputs[0], lambda x, axis: x.cumsum(axis).to(x.dtype), 0)]


@register
class CumProd(_Cumulative):
    """Running products along an axis."""

    op_type = "CumProd"
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "TFLite has no running product; legalize makes it products of shifted tensors"
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: each of log2(length) steps multiplies by the tensor shifted by 1, 2, 4, ... places (Hillis and Steele 1986)."""
        if rewriter.runtime != "tflite":
            return None
        x, axis = input_of(node, 0), _constant_axis(node)
        length, reverse = input_shape(node)[axis], bool(attribute(node, "reverse", 0))
        if attribute(node, "exclusive", 0):
            x = _shifted(rewriter, x, axis, min(1, length), reverse)
        shift = 1
        while shift < length:
            x = rewriter.op("Mul", x, _shifted(rewriter, x, axis, shift, reverse))
            shift *= 2
        return [x]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_running(node, inputs[0], lambda x, axis: x.cumprod(axis).to(x.dtype), 1)]


def _running(node: ir.Node, x: Any, accumulate: Callable[[Any, int], Any], neutral: int) -> Any:
    import torch

    axis, reverse = _constant_axis(node), bool(attribute(node, "reverse", 0))
    total = accumulate(x.flip(axis) if reverse else x, axis)
    if attribute(node, "exclusive", 0):
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        total = torch.cat([first, total.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return total.flip(axis) if reverse else total


def _shifted(rewriter: Rewriter, x: ir.Value, axis: int, places: int, reverse: bool) -> ir.Value:
    """`x` moved along an axis (backward with `reverse`), ones in the places that become free."""
    shape = [int(length) for length in x.shape or ()]  # type: ignore[arg-type]
    length = shape[axis]
    start, end = (places, length) if reverse else (0, length - places)
    bounds = [rewriter.const(np.asarray([number], np.int64), "bound") for number in (start, end, axis)]
    shape[axis] = places
    ones = rewriter.const(np.ones(shape, np.dtype(dtype_of(x))), "ones")
    if places == length:
        return ones
    kept = rewriter.op("Slice", x, *bounds)
    return rewriter.op("Concat", *((kept, ones) if reverse else (ones, kept)), axis=axis)


@register
class ReverseSequence(Rigid):
    """The first elements along the time axis in reverse, as many as input 1 says for each entry of the batch axis."""

    op_type = "ReverseSequence"
    constraints = (takes("ReverseSequence", ("float32", "uint8", "int16", "int32", "int64")),)
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "TFLite's REVERSE_SEQUENCE has no int8 kernel"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        return in_wider_dtype(
            node, rewriter, {"int8": "int16", "bool": "uint8", "float16": "float32", "uint16": "int32", "uint32": "int64"}
        )

    def lower(self, node: ir.Node, to: Lowering) -> None:
        time, batch = int(attribute(node, "time_axis", 0)), int(attribute(node, "batch_axis", 1))
        to.emit("REVERSE_SEQUENCE", [to.input(0), to.input(1)], [to.output()], seq_dim=time, batch_dim=batch)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        x, lengths = inputs
        time, batch = int(attribute(node, "time_axis", 0)), int(attribute(node, "batch_axis", 1))
        steps = torch.arange(x.shape[time], device=x.device).unsqueeze(1)
        order = torch.where(steps < lengths, lengths - 1 - steps, steps)  # [time, batch]
        order = order if time < batch else order.T
        shape = [x.shape[axis] if axis in (time, batch) else 1 for axis in range(x.dim())]
        return [x.gather(time, order.reshape(shape).expand_as(x))]


def _constant_axis(node: ir.Node) -> int:
    (axis,) = ints_of(node, 1) or (0,)
    return axis % rank(input_of(node, 0))


def _size(node: ir.Node) -> int:
    return int(np.prod(input_shape(node)))


def _outputs(first: ir.Value) -> Sequence[ir.Value]:
    producer = first.producer()
    assert producer is not None
    return producer.outputs
