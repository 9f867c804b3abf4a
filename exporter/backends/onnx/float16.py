"""A float graph as a float16 one: weights and activations are float16, graph inputs and outputs stay float32 behind a Cast."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.values import constant, is_constant, name_of

__all__ = ["to_float16"]

_LARGEST: Final = 65504.0
_INFINITE: Final = 1e9  # magnitudes from here on stand for infinity (attention masks): clamping them changes nothing


def to_float16(model: ir.Model) -> None:
    """Rewrite `model` in place. Inputs that an operator's schema has only in float32 (scales of Resize) stay float32.

    Raises:
        ModelError: EW-Q004, constants do not fit float16 (magnitude above 65504, and too small to stand for infinity); all by name.
    """
    graph = model.graph
    narrow: dict[str, ir.Value] = {}
    too_large: list[str] = []
    opset = model.opset_imports.get("", 21)
    nodes = list(graph)
    for given in list(graph.inputs):
        if given.dtype == ir.DataType.FLOAT:
            uses = list(given.uses())
            cast = _cast(given, ir.DataType.FLOAT16, f"{given.name}_float16")
            for node, index in uses:
                if _takes_float16(node, index, opset):
                    node.replace_input_with(index, cast.outputs[0])
            if cast.outputs[0].uses():
                graph.insert_before(nodes[0], cast)
    for node in nodes:
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or not _takes_float16(node, index, opset):
                if value is not None and value.dtype == ir.DataType.FLOAT16 and array is None:
                    wide = _cast(value, ir.DataType.FLOAT, f"{value.name}_for_{node.name}_{index}")
                    graph.insert_before(node, wide)
                    node.replace_input_with(index, wide.outputs[0])
                continue
            if array is None or array.dtype != np.float32:
                continue
            name = name_of(value)
            if name not in narrow:
                if not _fits(array):
                    too_large.append(f"{name} (up to {np.abs(array).max():.6g})")
                half = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
                narrow[name] = ir.val(f"{name}_float16", const_value=ir.tensor(half, name=f"{name}_float16"))
                graph.register_initializer(narrow[name])
            node.replace_input_with(index, narrow[name])
        _outputs(node, opset)
    if too_large:
        raise ModelError(
            "EW-Q004",
            f"{len(too_large)} constants do not fit float16: {', '.join(too_large)}",
            why=f"the greatest float16 is {_LARGEST:g}",
            fix="export as float32 or int8, or rescale these weights in the model",
        )
    _widen_outputs(graph)
    for name in [name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()]:
        del graph.initializers[name]


def _fits(array: np.ndarray[Any, Any]) -> bool:
    magnitude = np.abs(array)
    return not bool(((magnitude > _LARGEST) & (magnitude < _INFINITE)).any())


def _takes_float16(node: ir.Node, index: int, opset: int) -> bool:
    return "tensor(float16)" in _types(node, index, opset, "inputs")


def _types(node: ir.Node, index: int, opset: int, side: str) -> tuple[str, ...]:
    """The types that the operator's schema allows at one input or output (a variadic one repeats the last)."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    parameters = getattr(schema, side)
    return tuple(parameters[min(index, len(parameters) - 1)].types)


def _outputs(node: ir.Node, opset: int) -> None:
    """Give the node's float outputs float16; operators that name their output type are told."""
    target = node.attributes.get("to") or node.attributes.get("dtype")
    if target is not None and target.value == ir.DataType.FLOAT:
        node.attributes[target.name] = ir.AttrInt64(target.name, int(ir.DataType.FLOAT16))
    filled = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (filled is None or filled.value.dtype == ir.DataType.FLOAT):
        array = np.zeros(1, np.float32) if filled is None else filled.value.numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(np.float16)))
    for index, value in enumerate(node.outputs):
        if value.dtype == ir.DataType.FLOAT and "tensor(float16)" in _types(node, index, opset, "outputs"):
            value.type = ir.TensorType(ir.DataType.FLOAT16)  # a new type: a clone shares its original's


def _widen_outputs(graph: ir.Graph) -> None:
    """Outputs keep their name and float32; the float16 value in front is `<name>_float16`."""
    for index, value in enumerate(graph.outputs):
        if value.dtype == ir.DataType.FLOAT16 and not is_constant(value):
            name = name_of(value)
            value.name = f"{name}_float16"
            cast = _cast(value, ir.DataType.FLOAT, name)
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    result = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=f"{name}_Cast")
