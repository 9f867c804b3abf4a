"""Constants that nodes use and the graph does not hold: other people's rewriters leave some behind.

Requires: nothing. Ensures: every constant that a node reads is an initializer of the graph.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["adopt_constants"]


def adopt_constants(graph: ir.Graph) -> None:
    """Make initializers of them, in place."""
    adopted: dict[ir.Value, ir.Value] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or value.producer() is not None or value.const_value is None:
                continue
            if value.name and graph.initializers.get(value.name) is value:
                continue
            if value not in adopted:
                name = value.name or "constant"
                while name in graph.initializers:
                    name += "_"
                adopted[value] = ir.val(name, const_value=value.const_value)
                graph.register_initializer(adopted[value])
            node.replace_input_with(index, adopted[value])
