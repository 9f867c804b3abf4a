"""Gates: what a value is multiplied with that is 0 wherever the value is small enough, so that no smaller number matters of it.

::

    x --+--> Sigmoid -----------------> Mul            x --+--> Add c --> Clip 0..h (--> Mul k) --> Mul
        +-----------------------------> /                  +--------------------------------------> /

An encoding of x that ends at that floor has its steps where they count: of hard swish at -3, be x as low as -30.
"""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops.common import scalar_of
from exporter.ops.hard_swish import unscaled

__all__ = ["SIGMOID_FLOOR", "gate_floor", "hard_sigmoid_floor"]

# Below, 1 / (1 + exp(-x)) is less than half a step of its fixed 8-bit encoding (1/256).
SIGMOID_FLOOR: Final = -log(511)


def hard_sigmoid_floor(node: ir.Node) -> float:
    """The greatest x with ``clip(alpha * x + beta, 0, 1) = 0`` of a HardSigmoid; -inf where it falls."""
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    return -beta / alpha if alpha > 0 else -np.inf


def gate_floor(gate: ir.Value, x: ir.Value) -> float:
    """The number up to which `gate`, computed from `x`, is 0 in 8 bits; -inf where none is known."""
    for value, _ in unscaled(gate):
        node = value.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        if node is None or source is None:
            continue
        if node.op_type in ("Sigmoid", "HardSigmoid") and source is x:
            return SIGMOID_FLOOR if node.op_type == "Sigmoid" else hard_sigmoid_floor(node)
        if node.op_type == "Relu" or (node.op_type == "Clip" and len(node.inputs) > 1 and scalar_of(node.inputs[1]) == 0.0):
            return _root(source, x)
    return -np.inf


def _root(value: ir.Value, x: ir.Value) -> float:
    """The number up to which `value` = a * x + c with a > 0 is 0 or less; -inf where it is no such function of `x`."""
    node = value.producer()
    if node is None or node.op_type != "Add" or None in node.inputs:
        return 0.0 if value is x else -np.inf
    for side, other in (node.inputs, reversed(node.inputs)):
        offset = scalar_of(other)
        if side is None or offset is None:
            continue
        for source, factor in unscaled(side):
            if source is x and factor > 0:
                return -offset / factor
    return -np.inf
