"""Decide the integer form of a graph's weights alone: activations stay float, so nothing needs calibration.

Three forms, as the target's precision asks for and the runtime has them:

- dynamic_int8: the kernel takes float activations and int8 weights, and quantizes the activations as it runs;
- dynamic_int4: the same with int4 weights in blocks, where a kernel has that; other nodes are dynamic_int8;
- weight_int8, weight_int4: the weights are widened to float by a DEQUANTIZE (DequantizeLinear) in front of the kernel.

A node whose kernel has no dynamic form has its weights widened. Weights of fewer than `LEAST` elements stay float.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, constant, name_of
from exporter.ops.base import Operator, Refused, Role, operator_of
from exporter.ops.forms import BLOCK, hybrid_version
from exporter.quantization.apply import node_name
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.ranges import block_encoding, weight_encoding
from targets.floor import Floor, floor_of
from targets.releases.tflite import release_of
from targets.schema import Target

__all__ = ["LEAST", "holds_much", "weight_plan"]

LEAST: Final = 1024  # elements: below, integers save next to nothing, and a dynamic kernel costs more than it gains


def holds_much(node: ir.Node) -> bool:
    """Whether a constant of floats that `node` reads, a weight or a table, is long enough for 8 bits to make the artifact smaller."""
    arrays = [constant(value) for value in node.inputs]
    return any(array is not None and array.dtype.kind == "f" and array.size >= LEAST for array in arrays)


def weight_plan(model: ir.Model, target: Target) -> Plan:
    """The plan of a legalized graph whose target's precision is dynamic_int8, dynamic_int4, weight_int8 or weight_int4.

    A weight that two nodes hold in different forms has the second one in `Plan.requantize`.
    """
    floor = floor_of(target)
    precision: dict[str, str] = {}
    encodings: dict[str, Encoding] = {}
    requantize: dict[str, Encoding] = {}
    for node, _ in activation_nodes(model.graph):
        name = node_name(node)
        precision[name] = "float32"
        for index, axis in _weights(node):
            value = node.inputs[index]
            array = constant(value)
            if value is None or array is None or array.size < LEAST or array.dtype != np.float32:
                continue
            precision[name], encoding = _form(operator_of(node), node, array, axis, target, floor)
            if encodings.setdefault(name_of(value), encoding) != encoding:
                requantize[f"{name}:{index}"] = encoding
    return Plan(
        target=target.name,
        artifact_precision=target.artifact.precision,
        precision=precision,
        encodings=encodings,
        requantize=requantize,
        io_layout=target.artifact.io_layout,
    )


def _weights(node: ir.Node) -> Iterator[tuple[int, int | None]]:
    """Inputs of a node that are weights, with their channel axis."""
    try:
        operator = operator_of(node)
    except Refused:  # an operator without rules keeps its constants
        return
    try:
        rules = operator.quantize(node).inputs[: len(node.inputs)]
    except Refused:
        rules = ()
    found = {index: rule.axis for index, rule in enumerate(rules) if rule.role is Role.WEIGHT}
    yield from (found or operator.weight_only).items()


def _form(
    operator: Operator, node: ir.Node, array: np.ndarray[Any, Any], axis: int | None, target: Target, floor: Floor | None
) -> tuple[str, Encoding]:
    """Precision of the node, and encoding of its weight."""
    wanted = target.artifact.precision
    dynamic, narrow = wanted.startswith("dynamic"), wanted.endswith("int4")
    builtin = operator.hybrid(node) if dynamic else ""
    if narrow and axis is not None and (target.artifact.format == "onnx" or _runs(builtin, floor, per_channel=True, blocks=True)):
        blocks = block_encoding(array, axis, BLOCK)
        if blocks is not None:
            return wanted, blocks
    for channels in (axis, None):
        if _runs(builtin, floor, per_channel=channels is not None):
            return "dynamic_int8", weight_encoding(array, channels)
    kept = "weight_int8" if dynamic else wanted
    return kept, weight_encoding(array, axis, dtype="int4" if kept == "weight_int4" else "int8")


def _runs(builtin: str, floor: Floor | None, *, per_channel: bool, blocks: bool = False) -> bool:
    """Whether every allowed runtime has a builtin's kernel for float activations with integer weights of that form."""
    version = hybrid_version(builtin, per_channel=per_channel, blocks=blocks)
    return version is not None and (floor is None or floor.covers(release_of(builtin, version)))
