"""Finding x * relu6(x + 3) / 6 however it is spelled, so that one HARD_SWISH kernel runs it; any constant multiple of it as well.

Frameworks write the product in any order, with the sixth as a quotient or a factor, at either operand or
behind the product, or around HardSigmoid::

    x --+--> Add 3 --> Clip 0..6 --> Mul --> Div 6        x --+--> HardSigmoid 1/6, 1/2 --> Mul
        +--------------------------> /                        +---------------------------> /
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as product_of

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops.common import scalar_of

__all__ = ["gatings", "hard_swish_of", "unscaled"]


def gatings(value: ir.Value) -> Iterator[tuple[ir.Value, ir.Value, float]]:
    """Every x, gate and number for which `value` is their product, with x of the value's rank; which factor gates the other is not asked."""
    for product, outer in unscaled(value):
        node = product.producer()
        if node is None or node.op_type != "Mul" or None in node.inputs:
            continue
        left, right = (list(unscaled(operand)) for operand in node.inputs if operand is not None)
        for some, others in ((left, right), (right, left)):
            for (x, x_factor), (gate, gate_factor) in product_of(some, others):
                if rank(x) == rank(value):
                    yield x, gate, outer * x_factor * gate_factor


def hard_swish_of(value: ir.Value) -> tuple[ir.Value, float] | None:
    """The x and the number c for which `value` is c * HardSwish(x) = c * x * clip(x + 3, 0, 6) / 6 (within float32 rounding), or None."""
    for x, gate, scale in gatings(value):
        if (height := _height_of(gate, x)) is not None:
            return x, float(np.float32(scale * height))
    return None


def _height_of(gate: ir.Value, x: ir.Value) -> float | None:
    """What the gate of `x` grows to, where it is one of hard swish; else None."""
    if _is_shifted_relu6(gate, x):
        return 6.0
    return 1.0 if _is_hard_sigmoid(gate, x) else None


def unscaled(value: ir.Value) -> Iterator[tuple[ir.Value, float]]:
    """Values of which `value` is a constant multiple, with the factor: itself first, then through each scaling before it."""
    factor = 1.0
    while True:
        yield value, factor
        node = value.producer()
        if node is None or node.op_type not in ("Mul", "Div") or None in node.inputs:
            return
        left, right = node.inputs
        number = scalar_of(right)
        if number is None and node.op_type == "Mul":
            left, right, number = right, left, scalar_of(left)
        if left is None or not number:
            return
        value, factor = left, factor / number if node.op_type == "Div" else factor * number


def _is_shifted_relu6(gate: ir.Value, x: ir.Value) -> bool:
    clip = gate.producer()
    if clip is None or clip.op_type != "Clip" or len(clip.inputs) != 3 or clip.inputs[0] is None:
        return False
    add = clip.inputs[0].producer()
    if add is None or add.op_type != "Add" or [scalar_of(bound) for bound in clip.inputs[1:]] != [0.0, 6.0]:
        return False
    left, right = add.inputs
    return (left is x and scalar_of(right) == 3.0) or (right is x and scalar_of(left) == 3.0)


def _is_hard_sigmoid(gate: ir.Value, x: ir.Value) -> bool:
    node = gate.producer()
    if node is None or node.op_type != "HardSigmoid" or node.inputs[0] is not x:
        return False
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return bool(np.float32(alpha) == np.float32(1 / 6) and beta == 0.5)
