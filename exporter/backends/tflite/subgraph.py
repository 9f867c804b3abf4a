"""A subgraph beside the main one, as an operator's `lower` facet writes it: the condition or the body of a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.backends.tflite.container import Container
from exporter.backends.tflite.floor import Emitted
from exporter.quantization.apply import node_name

if TYPE_CHECKING:
    from exporter.backends.tflite.writer import Writer

__all__ = ["WrittenSubgraph"]


class WrittenSubgraph:
    """Implements the `exporter.ops.base.Subgraph` protocol."""

    def __init__(self, parent: Writer, node: ir.Node, container: Container) -> None:
        self._parent, self._node, self._container = parent, node, container

    def constant(self, array: np.ndarray[Any, Any]) -> int:
        return self._container.tensor("const", array.shape, array.dtype.name, None, array)

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        return self._container.tensor(f"{node_name(self._node)}_part", shape, dtype)

    def emit(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        self._container.operator(op, inputs, outputs, version, options)
        read = tuple(self._container.tensors[handle] for handle in inputs if handle >= 0)
        self._parent.emitted.append(Emitted(node_name(self._node), op, version, read))

    def graph(self, body: ir.Graph, inputs: Sequence[int], outputs: Sequence[ir.Value]) -> list[int]:
        writer = type(self._parent)(body, self._parent.plan, self._container, inputs)
        writer.write()
        given: list[int] = []
        for value in outputs:
            given.append(writer.output(value, given))
        self._parent.emitted += writer.emitted
        return given

    def close(self, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        return self._container.close(inputs, outputs)
