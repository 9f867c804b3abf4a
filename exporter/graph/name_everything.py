"""Unique, stable names on all nodes and values: plans and reports are keyed by them.

::

    Conv "" -> ""                Conv "Conv_0" -> "Conv_0:0"

Requires: nothing. Ensures: every node and every value that exists has a name, no two nodes and no two values share one;
graph inputs and outputs keep theirs. The same graph gets the same names.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from diagnostics import ModelError

__all__ = ["name_everything"]


def name_everything(model: ir.Model) -> None:
    """Name in place. Raises ModelError EW-M007 where two graph inputs or outputs have one name."""
    graph = model.graph
    taken: set[str] = set()
    interface = dict.fromkeys([*graph.inputs, *graph.outputs])
    for value in interface:
        if not value.name or value.name in taken:
            raise ModelError(
                "EW-M007", f"two inputs or outputs are named {value.name!r}, or one has no name", where="the model's interface"
            )
        taken.add(value.name)
    for value in list(graph.initializers.values()):
        if value not in interface:
            _name(value, value.name or "constant", taken)
    for index, node in enumerate(graph):
        for position, value in enumerate(node.outputs):
            absent = not value.name and not value.uses()
            if value not in interface and not absent:
                _name(value, value.name or f"{node.name or f'{node.op_type}_{index}'}:{position}", taken)
    taken = set()
    for index, node in enumerate(graph):
        wanted = node.name or f"{node.op_type}_{index}"
        node.name = next(name for name in _candidates(wanted) if name not in taken)
        taken.add(node.name)


def _name(value: ir.Value, wanted: str, taken: set[str]) -> None:
    name = next(name for name in _candidates(wanted) if name not in taken)
    taken.add(name)
    if value.name != name:
        value.name = name


def _candidates(wanted: str) -> Iterator[str]:
    yield wanted
    number = 2
    while True:
        yield f"{wanted}.{number}"
        number += 1
