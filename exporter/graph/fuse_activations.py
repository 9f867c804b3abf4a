"""Marks activations that the kernel of the node before them applies for free.

::

    Conv -> Relu6 -> Add        Conv -> Relu6[fused: RELU6] -> Add

The node stays in the graph: simulation and the ONNX writer run it, the TFLite writer passes its name to the producer's kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.values import FUSED
from exporter.ops.base import Refused, operator_of

__all__ = ["fusable", "fuse_activations"]


def fuse_activations(model: ir.Model) -> ir.Model:
    """Mark, in place, every activation node that its producer's kernel can apply, with the metadata `FUSED`. Gives `model` back.

    A node is marked where its operator names a TFLite activation for it, its input is used nowhere else (nor an output of the graph),
    and the producer's operator has `fuses_activation`. Marks of an earlier run that no longer hold are removed.
    """
    for node in model.graph:
        name = fusable(node)
        if name is None:
            node.metadata_props.pop(FUSED, None)
        else:
            node.metadata_props[FUSED] = name
    return model


def fusable(node: ir.Node) -> str | None:
    """The TFLite name under which `node` disappears into its producer, or None where it runs by itself."""
    value = node.inputs[0] if node.inputs else None
    producer = value.producer() if value is not None else None
    if value is None or producer is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    try:
        name = operator_of(node).activation(node)
        return name if name != "NONE" and operator_of(producer).fuses_activation else None
    except Refused:
        return None
