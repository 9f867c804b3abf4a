"""Sums that only float nodes read run in float themselves, where a float node gives an addend or all but one addend are constants.

::

    LayerNormalization --+--> Gemm --> Add --> LayerNormalization         the Add in integers: two conversions, and 8 bits for the whole
                         +----------> /                                   stream; in float: one conversion, and 8 bits for one addend

    Gather --> Add(constant) --> LayerNormalization                       as many conversions, and 8 bits for one value less

Requires: legalized for a target that has float. Ensures: nothing.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from exporter.graph.values import FLOAT, consumers, is_constant
from exporter.ops.base import Refused, operator_of

__all__ = ["mark_float_sums", "runs_in_float"]

_REASON: Final = "a sum that float nodes read and write: in integers it would be converted more often"


def mark_float_sums(model: ir.Model) -> int:
    """Mark them, in place, with the metadata `FLOAT`; returns how many."""
    count = 0
    for node in reversed(model.graph):
        if node.op_type in ("Add", "Sub") and not runs_in_float(node) and _between_floats(node):
            node.metadata_props[FLOAT] = _REASON
            count += 1
    return count


def runs_in_float(node: ir.Node) -> bool:
    """Whether no plan has this node run in integers."""
    try:
        operator_of(node).quantize(node)
    except Refused:
        return True
    return FLOAT in node.metadata_props


def _between_floats(node: ir.Node) -> bool:
    readers = consumers(node.outputs[0])
    if not readers or node.outputs[0].is_graph_output() or not all(map(runs_in_float, readers)):
        return False
    sources = [value.producer() for value in node.inputs if value is not None and not is_constant(value)]
    return len(sources) == 1 or any(source is not None and runs_in_float(source) for source in sources)
