"""The legalize stage: every operator that a runtime lacks becomes ones that it has, exactly, before calibration sees the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from diagnostics import ModelError
from exporter.graph.coverage import unsupported
from exporter.graph.fuse_activations import fuse_activations
from exporter.graph.pointwise import connected_as_convolutions
from exporter.graph.rewriter import NOTHING, GraphRewriter, Names
from exporter.graph.simplify import RULES
from exporter.graph.sink_scales import sink_scales
from exporter.graph.values import REFUSED
from exporter.ops.base import Refused, Role, operator_of
from targets.floor import Floor

__all__ = ["legalize", "unshare", "unsupported"]

# More rounds than any chain of rewrites needs: reaching it means that two rewrites undo each other.
_MOST_ROUNDS = 64


def legalize(
    model: ir.Model, runtime: str, floor: Floor | None = None, loops: bool = True, avoid: Mapping[str, int] = NOTHING
) -> ir.Model:
    """A copy of the canonical `model` in the operators and forms of `runtime` ("tflite" or "onnx").

    Runs every operator's `legalize` and the rules of `simplify` until nothing changes, sinks the factors that this left, gives each weight
    and bias to one node alone, and marks fused activations. Names of graph inputs, graph outputs and rewritten values stay; new nodes
    inherit the stack trace of the node they replace. Operators that are not known stay: `coverage.unsupported` names them all. What the
    oldest release that `floor` allows lacks, and the TFLite builtins in `avoid` from the version on that it maps them to, become other operators
    where they can. Without `loops`
    steps are unrolled rather than left to a loop.
    Raises ModelError EW-M007 where the rewriting does not end or a rewrite is invalid; ValueError where `runtime` is not known.
    """
    if runtime not in ("tflite", "onnx"):
        raise ValueError(f"runtime {runtime!r} is neither 'tflite' nor 'onnx'")
    model = model.clone()
    names = Names(model.graph)

    def rewriter_of(node: ir.Node) -> GraphRewriter:
        return GraphRewriter(model.graph, node, runtime, names, floor, loops, avoid)

    _settle(model.graph, rewriter_of)
    # Not before: a sum behind a layer that becomes its bias does so by a rule about Gemm.
    if runtime == "tflite" and "FULLY_CONNECTED" in avoid and connected_as_convolutions(model.graph, names):
        _settle(model.graph, rewriter_of)
    sink_scales(model)
    unshare(model.graph, names)
    return fuse_activations(model)


def _settle(graph: ir.Graph, rewriter_of: Callable[[ir.Node], GraphRewriter]) -> None:
    for _ in range(_MOST_ROUNDS):
        if not _round(graph, rewriter_of):
            return
    raise ModelError("EW-M007", "legalizing did not end", why=f"still rewriting after {_MOST_ROUNDS} rounds")


def _round(graph: ir.Graph, rewriter_of: Callable[[ir.Node], GraphRewriter]) -> bool:
    """Visit every node once, in graph order; whether anything was rewritten."""
    changed = False
    for node in list(graph):
        if node.graph is graph and _rewrite(node, rewriter_of(node)):
            changed = True
    if changed:
        _sweep(graph)
    return changed


def _rewrite(node: ir.Node, rewriter: GraphRewriter) -> bool:
    values: Sequence[ir.Value] | None = None
    node.metadata_props.pop(REFUSED, None)
    try:
        values = operator_of(node).legalize(node, rewriter)
    except Refused as refused:
        node.metadata_props[REFUSED] = refused.reason
    for rule in RULES:
        values = rule(node, rewriter) if values is None else values
    if values is None:
        return False
    rewriter.replace(values)
    return True


def _sweep(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing uses."""
    holder = ir.Model(graph, ir_version=10)
    common.RemoveUnusedNodesPass()(holder)


def unshare(graph: ir.Graph, names: Names) -> None:
    """Give every WEIGHT and BIAS initializer to one input of one node: its encoding depends on that node's input and output.

    ::

        w -> Conv a, w -> Conv b        w -> Conv a, w/b -> Conv b
    """
    for node in graph:
        try:
            rules = operator_of(node).quantize(node).inputs
        except Refused:
            continue
        for index, rule in enumerate(rules):
            value = node.inputs[index]
            if rule.role not in (Role.WEIGHT, Role.BIAS) or value is None or not value.is_initializer() or len(value.uses()) < 2:
                continue
            name = names.fresh(f"{value.name}/{node.name}")
            twin = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            graph.register_initializer(twin)
            node.replace_input_with(index, twin)
