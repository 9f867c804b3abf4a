"""What onnxruntime runs slowly, written in a form that it runs fast and that computes the same.

::

    PRelu(x, s)                         Max(x, x * s), or Relu(x) + Min(x, 0) * s     (its kernel is a plain loop)
    Add -> LayerNormalization           Sum -> LayerNormalization             (SkipLayerNormalization is a plain loop)
    MatMul(int8, int8) -> Add(b [n])    MatMul(int8, int8) -> Add(b [1, 1, n])    (Gemm with a float bias has no integer kernel)
    Mul(x [n, 1], a [1])                Mul(x [n, 1], a [1, 1])               (a last axis of length 1 in both is looped over)
    DequantizeLinear(w int8, scale)     Mul(Cast(w), scale)                   (decoded in every inference, where this is folded at loading)

The last where the graph has no integer activations: DequantizeLinear stays beside them, since integer kernels are made of it.
What onnxruntime (1.31) does by itself: SkipLayerNormFusion takes an Add, no Sum; MatMulAddFusion takes a bias of one or two axes, and runs
before the product of integers is recognised.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, consumers, is_constant, name_of, rank, static_shape
from exporter.quantization.costs import SKIPPED_NORMALIZATION, slow_builtins
from targets.schema import Target

__all__ = ["fast_forms"]

_FUSABLE_RANK: Final = 2  # of a bias that onnxruntime makes a Gemm's
_ELEMENTWISE: Final = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min"))
_ZERO: Final = "PRelu/zero"


def fast_forms(graph: ir.Graph, target: Target) -> None:
    """Rewrite a graph in the form that is written, in place, where the target's runtime is onnxruntime."""
    if target.artifact.runtime != "onnxruntime":
        return
    slow = slow_builtins(target)
    for node in list(graph):
        if node.op_type in _ELEMENTWISE:
            _lengthen(graph, node)
        if node.op_type == "PRelu" and "PRelu" in slow and node.outputs[0].dtype == ir.DataType.FLOAT:
            _write_out(graph, node)
        elif node.op_type == "Add":
            if SKIPPED_NORMALIZATION in slow and _is_normalized(node.outputs[0]):
                node.op_type = "Sum"
            _widen_bias(graph, node)
    if not any(node.op_type == "QuantizeLinear" for node in graph):
        for node in list(graph):
            _decode_at_loading(graph, node)
    for name in [name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del graph.initializers[name]


# --- weights ----------------------------------------------------------------------------------------------------------


def _decode_at_loading(graph: ir.Graph, node: ir.Node) -> None:
    """Write the decoding of a constant of 8 bits in operators that onnxruntime folds: those of 4 bits it has product kernels for."""
    stored = node.inputs[0]
    if node.op_type != "DequantizeLinear" or stored is None or stored.const_value is None or attribute(node, "block_size", 0):
        return
    scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or stored.dtype not in (ir.DataType.INT8, ir.DataType.UINT8) or (zero is not None and zero.any()):
        return
    axis = attribute(node, "axis", 1) % max(rank(stored), 1)
    factor = scale.reshape([-1 if other == axis else 1 for other in range(rank(stored))]) if scale.size > 1 else scale
    title = f"{name_of(stored)}_factor"
    graph.register_initializer(ir.val(title, const_value=ir.Tensor(np.ascontiguousarray(factor), name=title)))
    widened = _new("Cast", node, "widened", stored)
    widened.attributes.add(ir.AttrInt64("to", int(ir.DataType.FLOAT)))
    scaled = _new("Mul", node, "", widened.outputs[0], graph.initializers[title])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [widened, scaled], [node.outputs[0]], [scaled.outputs[0]])


# --- PRelu ------------------------------------------------------------------------------------------------------------


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """Slopes of 1 at most make it the greater of two; one of 0 would turn an infinity into NaN there."""
    x, slope = node.inputs
    assert x is not None
    assert slope is not None
    array = slope.const_value.numpy() if slope.const_value is not None else None
    producer, shape = x.producer(), static_shape(x)
    if (
        array is not None
        and array.size > 1
        and producer is not None
        and producer.op_type == "DequantizeLinear"
        and len(shape) == 4
    ):
        # Between integers images lie channels-last: a row of slopes is one run there, where those of a pixel are many.
        slope = _twin(graph, slope, ((1,) * (4 - rank(slope)) + static_shape(slope))[:-1] + shape[-1:])
    if array is not None and bool(((array <= 1) & (array != 0)).all()):
        parts = [_new("Mul", node, "scaled", x, slope)]
        parts.append(_new("Max", node, "", x, parts[0].outputs[0]))
    else:
        parts = [_new("Relu", node, "positive", x), _new("Min", node, "negative", x, _zero(graph))]
        parts.append(_new("Mul", node, "scaled", parts[1].outputs[0], slope))
        parts.append(_new("Add", node, "", parts[0].outputs[0], parts[2].outputs[0]))
    old, new = node.outputs[0], parts[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], parts, [old], [new])


def _new(op_type: str, node: ir.Node, role: str, *inputs: ir.Value) -> ir.Node:
    """A node in place of `node`: named after it, with its type and shape; without a role its last one, which takes its output's name over."""
    old = node.outputs[0]
    tail = f"/{role}" if role else ""
    result = ir.Value(name=f"{old.name}{tail}", shape=old.shape, type=old.type)
    return ir.node(op_type, list(inputs), outputs=[result], name=f"{node.name or old.name}{tail}")


def _zero(graph: ir.Graph) -> ir.Value:
    if _ZERO not in graph.initializers:
        graph.register_initializer(ir.val(_ZERO, const_value=ir.Tensor(np.zeros((), np.float32), name=_ZERO)))
    return graph.initializers[_ZERO]


# --- constants of one element ----------------------------------------------------------------------------------------


def _lengthen(graph: ir.Graph, node: ir.Node) -> None:
    """Let the node read a constant of one element, or the integer behind it, with as many axes as its other input has.

    Elsewhere it stays: onnxruntime looks for scalars in what it fuses.
    """
    for index, value in enumerate(node.inputs if len(node.inputs) == 2 else ()):
        other = node.inputs[1 - index]
        if value is None or other is None or rank(value) >= rank(other) or static_shape(other)[-1] != 1:
            continue
        decoder = value.producer()
        if decoder is not None and (
            decoder.op_type != "DequantizeLinear" or len(value.uses()) > 1 or "axis" in decoder.attributes
        ):
            continue
        user, place, stored = (node, index, value) if decoder is None else (decoder, 0, decoder.inputs[0])
        if stored is None or not is_constant(stored) or stored.const_value is None or stored.const_value.size != 1:
            continue
        user.replace_input_with(place, _twin(graph, stored, (1,) * rank(other)))
        if decoder is not None:
            value.shape = ir.Shape((1,) * rank(other))


def _twin(graph: ir.Graph, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """The constant broadcast to another shape."""
    assert value.const_value is not None
    name = f"{name_of(value)}_as_{'x'.join(map(str, shape))}"
    if name not in graph.initializers:
        tensor = ir.Tensor(np.array(np.broadcast_to(value.const_value.numpy(), shape)), name=name)
        graph.register_initializer(ir.val(name, const_value=tensor))
    return graph.initializers[name]


# --- sums -------------------------------------------------------------------------------------------------------------


def _is_normalized(value: ir.Value) -> bool:
    return any(user.op_type == "LayerNormalization" and user.inputs[0] is value for user in consumers(value))


def _widen_bias(graph: ir.Graph, node: ir.Node) -> None:
    """Give a constant that is added to a product of integers as many axes as the product has."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is None or other is None or value.const_value is None or not _is_integer_product(other.producer()):
            continue
        if not is_constant(value) or rank(value) > _FUSABLE_RANK or rank(other) <= _FUSABLE_RANK:
            continue
        shape = static_shape(value)
        node.replace_input_with(index, _twin(graph, value, (1,) * (rank(other) - len(shape)) + shape))


def _is_integer_product(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "MatMul":
        return False
    sides = [value.producer() if value is not None else None for value in node.inputs]
    return all(side is not None and side.op_type == "DequantizeLinear" for side in sides)
