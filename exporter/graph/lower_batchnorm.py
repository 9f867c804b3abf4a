"""BatchNormalization in inference form is one multiplication and one addition a channel.

::

    x -> BatchNormalization(scale, b, mean, var, eps) -> y

    x -> Mul(s) -> Add(t) -> y        s = scale / sqrt(var + eps)     t = b - mean * s      both [C, 1, 1]

`fold_affine` then moves both into the neighbouring convolution. (Ioffe & Szegedy 2015, algorithm 2.)

Requires: constants are initializers. Ensures: no BatchNormalization with constant parameters in inference mode is left.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import add_constant
from exporter.graph.values import attribute, constant, name_of

__all__ = ["lower_batchnorm"]


def lower_batchnorm(model: ir.Model) -> int:
    """Replace BatchNormalization nodes in place; returns how many. A rank that is not known leaves the node as it is."""
    graph, count = model.graph, 0
    for node in list(graph):
        x = node.inputs[0] if node.inputs else None
        if node.op_type != "BatchNormalization" or node.domain or x is None or x.shape is None:
            continue
        parameters = [constant(value) for value in node.inputs[1:5]]
        in_training = attribute(node, "training_mode", 0) or any(output.uses() for output in node.outputs[1:])
        if in_training or any(array is None for array in parameters):
            continue
        scale, offset, mean, variance = (np.asarray(array, np.float64) for array in parameters)
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shift = offset - mean * factor
        y, shape = node.outputs[0], (-1, *(1,) * (len(x.shape) - 2))
        stem, dtype = name_of(y), np.asarray(parameters[0]).dtype
        mul = ir.node(
            "Mul", [x, add_constant(graph, f"{stem}_scale", factor.reshape(shape).astype(dtype))], name=f"{node.name}_scale"
        )
        add = ir.node(
            "Add", [mul.outputs[0], add_constant(graph, f"{stem}_shift", shift.reshape(shape).astype(dtype))], name=node.name
        )
        for new in (mul, add):
            new.outputs[0].shape, new.outputs[0].type = x.shape.copy(), x.type
            new.metadata_props.update(node.metadata_props)
        mul.outputs[0].name = f"{stem}_scaled"
        graph.insert_before(node, [mul, add])
        ir.convenience.replace_all_uses_with(y, add.outputs[0], replace_graph_outputs=True)
        y.name, add.outputs[0].name = None, stem
        graph.remove(node, safe=True)
        count += 1
    return count
