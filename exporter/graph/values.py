"""Small questions asked of `onnx_ir` graphs everywhere, answered in one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx_ir as ir

__all__ = [
    "FLOAT",
    "FUSED",
    "KEPT",
    "REFUSED",
    "activation_nodes",
    "attribute",
    "constant",
    "consumers",
    "fused_activation",
    "fused_into",
    "is_constant",
    "name_of",
    "original",
    "rank",
    "source_line",
    "static_shape",
]

# Metadata key on a node that stays in float (part of a formula that 8 bits cannot hold); its value is the reason.
FLOAT: Final = "edgewright.float"
# Metadata key on an activation node that a producer's kernel applies for free; its value is the TFLite name ("RELU6").
FUSED: Final = "edgewright.fused"
# Metadata key on a QuantizeLinear or DequantizeLinear of the source that becomes an encoding once the graph is legal.
KEPT: Final = "edgewright.kept"
# Metadata key on a node that could not be legalized; its value is the reason.
REFUSED: Final = "edgewright.refused"


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer (not also a graph input)."""
    return value is not None and value.const_value is not None and value.producer() is None


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The array of an initializer, or None where the value is absent or computed."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's plain Python value (ints as int, lists as tuples), or `default`."""
    found = node.attributes.get(name)
    if found is None:
        return default
    value = found.value
    return tuple(value) if isinstance(value, list | tuple) else value


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value as ints. Raises ValueError where a dimension is unknown."""
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        raise ValueError(f"value {value.name} has no static shape: {value.shape}")
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 0


def name_of(value: ir.Value) -> str:
    """A value's name; every value of a canonical graph has one."""
    if not value.name:
        raise ValueError("a value of the graph has no name")
    return value.name


def original(value: ir.Value) -> ir.Value:
    """What a value is a copy of: the input of the Identity nodes that it comes out of, or the value itself."""
    while (
        (node := value.producer()) is not None and node.op_type == "Identity" and not node.domain and node.inputs[0] is not None
    ):
        value = node.inputs[0]
    return value


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """Nodes that use the value, each once, in graph order of use."""
    return tuple(dict.fromkeys(node for node, _ in value.uses()))


def fused_activation(node: ir.Node) -> ir.Node | None:
    """The activation node that is fused behind `node`, where the `fuse_activations` pass marked one."""
    if len(node.outputs) < 1:
        return None
    users = consumers(node.outputs[0])
    if len(users) == 1 and FUSED in users[0].metadata_props and users[0].inputs[0] is node.outputs[0]:
        return users[0]
    return None


def fused_into(node: ir.Node) -> ir.Node | None:
    """The producer whose kernel applies this activation node, or None where the node runs by itself."""
    if FUSED not in node.metadata_props or node.inputs[0] is None:
        return None
    return node.inputs[0].producer()


def activation_nodes(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Each node that runs by itself, with the value its kernel writes first (the fused activation's output where there is one)."""
    for node in graph:
        if fused_into(node) is None:
            behind = fused_activation(node)
            yield node, (behind or node).outputs[0]


def source_line(node: ir.Node) -> str:
    """Where the node comes from: the model's own source line (from the tracer's stack trace) and the module path, where known."""
    trace = node.metadata_props.get("pkg.torch.onnx.stack_trace", "")
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    return lines[-1] if lines else node.metadata_props.get("namespace", "")
