"""Which nodes of a graph lack a facet or break a constraint: all of them at once, with the reasons that a user reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import onnx_ir as ir

from exporter.graph.values import REFUSED
from exporter.ops.base import FACETS, Operator, Refused, operator_of

__all__ = ["broken", "unsupported"]

# Facets that answer from the node alone; the others need a runtime, a writer or tensors and are asked for presence.
_ASKED: Final[dict[str, Callable[[Operator, ir.Node], Any]]] = {
    "couple": lambda operator, node: operator.couple(node),
    "quantize": lambda operator, node: operator.quantize(node),
    "layout": lambda operator, node: operator.layout(node),
    "cost": lambda operator, node: operator.cost(node),
}


def unsupported(model: ir.Model, facet: str, runtime: str = "") -> list[Refused]:
    """Every reason why `facet` is not to be had for the whole graph, in graph order; an empty list where it is.

    With `runtime` ("tflite" or "onnx") the constraints of that runtime count as well; ask for it on the legalized graph. The facet
    ``lower`` is TFLite's, so its constraints always count there.
    Raises ValueError where `facet` is not one of `FACETS`.
    """
    if facet not in FACETS:
        raise ValueError(f"{facet!r} is not a facet; the facets are {', '.join(FACETS)}")
    runtime = runtime or ("tflite" if facet == "lower" else "")
    found: list[Refused] = []
    for node in model.graph:
        try:
            operator = operator_of(node)
            if not operator.has(facet):
                reason = operator.refuses.get(facet, f"{node.op_type} has no {facet} rule")
                found.append(Refused(node, node.metadata_props.get(REFUSED, reason) if facet == "lower" else reason))
                continue
            if facet in _ASKED:
                _ASKED[facet](operator, node)
            found += _broken(operator, node, runtime)
        except Refused as refused:
            found.append(refused)
    return found


def broken(model: ir.Model, runtime: str) -> list[Refused]:
    """Every constraint of `runtime` that a node of the legalized graph does not keep, in graph order; operators that are not known have none."""
    found: list[Refused] = []
    for node in model.graph:
        try:
            found += _broken(operator_of(node), node, runtime)
        except Refused:
            continue
    return found


def _broken(operator: Operator, node: ir.Node, runtime: str) -> list[Refused]:
    return [
        Refused(node, f"{node.op_type}: {rule.sentence}")
        for rule in operator.constraints
        if rule.runtime == runtime and not rule.holds(node)
    ]
