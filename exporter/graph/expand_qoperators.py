"""onnxruntime's own quantized operators (domain com.microsoft) in standard ones.

::

    QLinearAdd(a, sa, za, b, sb, zb, sc, zc)        QuantizeLinear(Add(DequantizeLinear(a), DequantizeLinear(b)))

They are what `onnxruntime.quantization` writes in its QOperator format. Each is defined as its float operator between these (onnxruntime,
docs/ContribOperators.md).

Requires: constants are initializers. Ensures: of the operators below none is left, but for forms that are not in their definition by floats
(channels-last, a Gemm with alpha, the Softmax of opsets before 13), which stay and are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import add_constant
from exporter.graph.values import attribute, constant

__all__ = ["expand_qoperators"]

_DOMAIN: Final = "com.microsoft"
_PAIR: Final = frozenset(("DequantizeLinear", "QuantizeLinear"))
# Operator -> (its float operator, how many of its inputs are triples of integers, scale and zero point in front of the output's pair).
_PLAIN: Final = {
    "QLinearAdd": ("Add", 2),
    "QLinearAveragePool": ("AveragePool", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1),
    "QLinearMul": ("Mul", 2),
    "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearSoftmax": ("Softmax", 1),
}
_OWN: Final = frozenset(("channels_last", "opset"))  # attributes that the float operator lacks
_SOFTMAX_OF_ONE_AXIS: Final = 13  # opset


def expand_qoperators(model: ir.Model) -> int:
    """Replace in place; returns how many nodes."""
    count = 0
    for node in list(model.graph):
        if node.domain != _DOMAIN:
            continue
        if node.op_type in _PAIR:
            node.domain = ""
            count += 1
            continue
        made = _Expansion(model.graph, node).made()
        if made is not None:
            old = node.outputs[0]
            name, old.name = old.name, None
            old.replace_all_uses_with(made, replace_graph_outputs=True)
            made.name, made.shape, made.type = name, old.shape, old.type
            model.graph.remove(node, safe=True)
            count += 1
    return count


class _Expansion:
    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph, self._node = graph, node
        self._inputs = list(node.inputs)

    def made(self) -> ir.Value | None:
        """The value that replaces the node's output, or None where the node is of no known form."""
        node, kind = self._node, self._node.op_type
        if attribute(node, "channels_last", 0):
            return None
        if kind in _PLAIN and (kind != "QLinearSoftmax" or attribute(node, "opset", 0) >= _SOFTMAX_OF_ONE_AXIS):
            op_type, count = _PLAIN[kind]
            return self._between(op_type, self._inputs[: 3 * count], self._inputs[3 * count :])
        if kind == "QLinearConcat":
            return self._between("Concat", self._inputs[2:], self._inputs[:2])
        return self._gemm() if kind == "QGemm" else None

    def _between(self, op_type: str, triples: Sequence[ir.Value | None], output: Sequence[ir.Value | None]) -> ir.Value:
        reals = [self._op("DequantizeLinear", triples[at : at + 3]) for at in range(0, len(triples), 3)]
        attributes = {name: attribute(self._node, name) for name in self._node.attributes if name not in _OWN}
        return self._op("QuantizeLinear", [self._op(op_type, reals, attributes), *output])

    def _gemm(self) -> ir.Value | None:
        """``Y = alpha * (A' B' + C)``: the integers of C count in steps of both scales' product."""
        node, inputs = self._node, [*self._inputs, *(None,) * (9 - len(self._inputs))]
        scales, addend = [constant(inputs[index]) for index in (1, 4)], inputs[6]
        if attribute(node, "alpha", 1.0) != 1.0 or any(scale is None for scale in scales):
            return None
        transposed = int(attribute(node, "transB", 0))
        reals = [self._op("DequantizeLinear", inputs[:3])]
        reals.append(self._op("DequantizeLinear", inputs[3:6], self._axis(scales[1], 0 if transposed else 1)))
        if addend is not None:
            product = np.asarray(scales[0], np.float32).reshape(()) * np.asarray(scales[1], np.float32)
            product = product.reshape(()) if product.size == 1 else product.reshape(-1)
            scale = add_constant(self._graph, f"{node.name or 'QGemm'}_bias_scale", product)
            reals.append(self._op("DequantizeLinear", [addend, scale], self._axis(product, -1)))
        y = self._op("Gemm", reals, {"transA": int(attribute(node, "transA", 0)), "transB": transposed})
        return y if inputs[7] is None else self._op("QuantizeLinear", [y, *inputs[7:9]])

    @staticmethod
    def _axis(scale: Any, axis: int) -> dict[str, int]:
        return {"axis": axis} if np.size(scale) > 1 else {}

    def _op(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None) -> ir.Value:
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in (attributes or {}).items()}
        made = ir.node(op_type, list(inputs), given)
        made.metadata_props.update(self._node.metadata_props)
        self._graph.insert_before(self._node, made)
        return made.outputs[0]
