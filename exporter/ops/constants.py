"""Operators whose output is known before a sample is seen: the legalize stage makes them constants.

Most are folded earlier; these rules are for what is left (a graph output, or what another rewrite makes constant).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Operator, QuantRule, Rewriter, register
from exporter.ops.common import activation_rule, input_shape, output_shape
from exporter.ops.indexing import Rigid
from exporter.ops.kernels import dtype_of

__all__ = ["ConstantOfShape", "Det", "EyeLike", "NonZero", "Range", "Shape", "Size", "Unique"]


class _Known(Rigid):
    """Base of the operators that shapes and constants alone decide."""

    refuses: ClassVar[Mapping[str, str]] = {"lower": "its output depends on constants alone: legalize makes it one"}

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, parameters=tuple(range(len(node.inputs))))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        array = self._array(node)
        return None if array is None else [rewriter.const(array, node.op_type)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        array = self._array(node)
        if array is None:
            raise ValueError(f"{node.op_type} of computed inputs has no static shape")
        return [torch.from_numpy(np.array(array))]

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        raise NotImplementedError


@register
class ConstantOfShape(_Known):
    """A tensor of one number everywhere."""

    op_type = "ConstantOfShape"

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any]:
        value = attribute(node, "value")
        number = np.zeros(1, np.float32) if value is None else value.numpy()
        return np.full(output_shape(node), number.reshape(-1)[0], number.dtype)


@register
class EyeLike(_Known):
    """Ones on a diagonal of a matrix, in the shape of the input."""

    op_type = "EyeLike"

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any]:
        rows, columns = input_shape(node)
        return np.eye(rows, columns, int(attribute(node, "k", 0)), np.dtype(dtype_of(node.outputs[0])))


@register
class Range(_Known):
    """Numbers from a start up to a limit, by a step."""

    op_type = "Range"

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any] | None:
        start, limit, step = (constant(value) for value in node.inputs)
        if start is None or limit is None or step is None:
            return None
        count = max(int(np.ceil((limit.item() - start.item()) / step.item())), 0)
        return np.asarray(start.item() + np.arange(count) * step.item(), start.dtype)


@register
class Shape(_Known):
    """The lengths of the input's axes, from `start` to `end`."""

    op_type = "Shape"

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any]:
        return np.asarray(input_shape(node)[attribute(node, "start", 0) : attribute(node, "end")], np.int64)


@register
class Size(_Known):
    """The number of the input's elements."""

    op_type = "Size"

    def _array(self, node: ir.Node) -> np.ndarray[Any, Any]:
        return np.asarray(prod(input_shape(node)), np.int64)


def _refused(reason: str) -> dict[str, str]:
    return dict.fromkeys(("couple", "quantize", "layout", "lower", "torch", "cost"), reason)


@register
class NonZero(Operator):
    """Places of the elements that are not zero."""

    op_type = "NonZero"
    refuses: ClassVar[Mapping[str, str]] = _refused(
        "the number of places that NonZero finds depends on data, and artifacts have static shapes"
    )


@register
class Unique(Operator):
    """The different elements of a tensor."""

    op_type = "Unique"
    refuses: ClassVar[Mapping[str, str]] = _refused(
        "the number of elements that Unique finds depends on data, and artifacts have static shapes"
    )


@register
class Det(Operator):
    """Determinants of square matrices."""

    op_type = "Det"
    refuses: ClassVar[Mapping[str, str]] = _refused(
        "no TFLite kernel computes determinants, and an expansion of one is not stable in float32"
    )
