"""What a plan says at one input of one node, and the integers of constants: the one place that both writers ask.

So the ONNX and the TFLite artifact of one plan hold the same integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.values import constant, name_of
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.refinement.rounding import unpack_offsets

__all__ = [
    "apply_corrections",
    "encode_constant",
    "node_name",
    "precision_of",
    "quantized_parameters",
    "read_encoding",
    "runs_in_integers",
    "stores_integers",
]


def node_name(node: ir.Node) -> str:
    """The name under which a plan knows a node: its own, or that of its first output where it has none."""
    return node.name or name_of(node.outputs[0])


def precision_of(node: ir.Node, plan: Plan) -> str:
    """The plan's precision of a node. One that is not in the plan (a fused activation) does not run by itself: "float32"."""
    return plan.precision.get(node_name(node), "float32")


def runs_in_integers(node: ir.Node, plan: Plan) -> bool:
    """Whether the plan has this node run in integers: it reads and writes them."""
    return precision_of(node, plan) in ("int8", "int16x8")


def stores_integers(node: ir.Node, plan: Plan) -> bool:
    """Whether the constants of this node that have an encoding are held as integers, whatever its activations are."""
    return precision_of(node, plan) not in ("float32", "float16")


def read_encoding(node: ir.Node, index: int, plan: Plan) -> Encoding | None:
    """The encoding in which `node` reads its input `index`; None where that input is absent or not encoded."""
    override = plan.requantize.get(f"{node_name(node)}:{index}")
    value = node.inputs[index]
    if override is not None or value is None:
        return override
    return plan.encodings.get(name_of(value))


def apply_corrections(array: np.ndarray[Any, Any], plan: Plan, name: str) -> np.ndarray[Any, Any]:
    """The float values of initializer `name` with the plan's bias correction added.

    Raises:
        ModelError: EW-Q002, the plan corrects another number of channels.
    """
    amounts = plan.corrections.get(name)
    if amounts is None:
        return array
    if len(amounts) != array.size:
        raise ModelError("EW-Q002", f"the plan corrects {len(amounts)} channels of {name}, which has {array.size}", where=name)
    return np.asarray(array + np.asarray(amounts, np.float32).reshape(array.shape), np.float32)


def encode_constant(node: ir.Node, index: int, plan: Plan) -> tuple[np.ndarray[Any, Any], Encoding]:
    """The integers of the constant input `index` of a node that holds its constants so, with their encoding (axes in the canonical order).

    Raises:
        ModelError: EW-Q002, the input is not a constant, or the plan has no encoding for it.
    """
    value = node.inputs[index]
    array, encoding = constant(value), read_encoding(node, index, plan)
    if value is None or array is None or encoding is None:
        what = f"input {index} of node {node_name(node)} has no encoding in the plan or is no constant"
        raise ModelError("EW-Q002", what, where=node_name(node), fix="make the plan again for this graph")
    nearest = encoding.quantize(apply_corrections(array, plan, name_of(value)))
    rounding = plan.roundings.get(name_of(value))
    return nearest if rounding is None else unpack_offsets(rounding, nearest), encoding


def quantized_parameters(model: ir.Model, plan: Plan) -> dict[str, tuple[np.ndarray[Any, Any], Encoding]]:
    """All encoded constants of the nodes that hold them as integers, by "node:input_index"."""
    found = {}
    for node in model.graph:
        if stores_integers(node, plan):
            for index, value in enumerate(node.inputs):
                if constant(value) is not None and read_encoding(node, index, plan) is not None:
                    found[f"{node_name(node)}:{index}"] = encode_constant(node, index, plan)
    return found
