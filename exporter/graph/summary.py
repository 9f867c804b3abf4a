"""What a graph needs: operators, shapes, parameters, multiply-accumulates, peak memory, and which unit of a target runs each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.graph.coverage import broken, unsupported
from exporter.graph.limits import exceeded
from exporter.graph.values import activation_nodes, consumers, fused_activation, is_constant, name_of, source_line, static_shape
from exporter.ops.base import Refused, operator_of
from exporter.ops.forms import lacking
from targets.schema import ACTIVATIONS, Target

__all__ = ["NodeFacts", "Placement", "Summary", "TensorFacts", "live_bytes", "place", "placements", "summarize"]


@dataclass(frozen=True)
class TensorFacts:
    """Name, static shape and dtype (numpy name) of one value."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class NodeFacts:
    """One node that runs by itself; `fused` names the activation that its kernel applies as well.

    `macs` is None where the operator has no cost rule; `parameters` counts elements of its constants (those that several nodes
    share count at each); `live_float32` and `live_int8`: bytes of all activations that exist while it runs.
    """

    name: str
    op_type: str
    outputs: tuple[TensorFacts, ...]
    macs: int | None
    parameters: int
    live_float32: int
    live_int8: int
    fused: str = ""
    source: str = ""


@dataclass(frozen=True)
class Summary:
    """A whole graph. Sums leave out what is unknown; `unknown_cost` says for which operators and why.

    `peak_tensors`: what exists while the node `peak` runs, largest first.
    """

    opset: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    nodes: tuple[NodeFacts, ...]
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    unknown_cost: Mapping[str, str]
    peak_tensors: tuple[TensorFacts, ...] = ()

    @property
    def macs(self) -> int:
        return sum(node.macs or 0 for node in self.nodes)

    @property
    def peak(self) -> NodeFacts | None:
        """The node while which most activation bytes exist."""
        return max(self.nodes, key=lambda node: node.live_float32, default=None)

    @property
    def peak_float32(self) -> int:
        return max((node.live_float32 for node in self.nodes), default=0)

    @property
    def peak_int8(self) -> int:
        return max((node.live_int8 for node in self.nodes), default=0)


@dataclass(frozen=True)
class Placement:
    """Where one node of the legalized graph runs: a unit of the target and a precision, or (`unit` empty) why nowhere.

    `reasons` also say why a node of an integer artifact stays in float, and why the units before `unit` do not take it. `output` is the
    name of the value that its kernel writes first.
    """

    node: str
    op_type: str
    unit: str
    precision: str
    reasons: tuple[str, ...] = ()
    output: str = ""


def summarize(model: ir.Model) -> Summary:
    """Facts of a canonical or legalized graph. Raises ValueError where a value has no static shape."""
    graph = model.graph
    float32, int8 = live_bytes(graph, 4), live_bytes(graph, 1)
    unknown: dict[str, str] = {}
    nodes = []
    for node, _ in activation_nodes(graph):
        behind = fused_activation(node)
        try:
            macs: int | None = operator_of(node).cost(node).macs
        except Refused as refused:
            macs, unknown[node.op_type] = None, refused.reason
        nodes.append(
            NodeFacts(
                name=node.name or "",
                op_type=node.op_type,
                outputs=tuple(_tensor(value) for value in (behind or node).outputs if value.name),
                macs=macs,
                parameters=sum(value.const_value.size for value in _constants(node) if value.const_value is not None),
                live_float32=float32[node],
                live_int8=int8[node],
                fused=behind.op_type if behind is not None else "",
                source=source_line(node),
            )
        )
    weights = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    return Summary(
        opset=model.opset_imports.get("", 0),
        inputs=tuple(_tensor(value) for value in graph.inputs),
        outputs=tuple(_tensor(value) for value in graph.outputs),
        nodes=tuple(nodes),
        operators=dict(sorted(Counter(node.op_type for node in graph).items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(weight.size for weight in weights),
        parameter_bytes=sum(weight.nbytes for weight in weights),
        unknown_cost=unknown,
        peak_tensors=_peak_tensors(graph, float32),
    )


def live_bytes(graph: ir.Graph, float_bytes: int) -> dict[ir.Node, int]:
    """Bytes of activations that exist while each node runs, floating-point elements counted with `float_bytes` each.

    A value exists from its producer (a graph input from the start) to its last reader (a graph output to the end). The value
    between a node and its fused activation never exists. Memory that a runtime reuses in place counts twice: an upper bound of
    what a perfect arena needs without alignment.
    """
    order = [node for node, _ in activation_nodes(graph)]
    change = [0] * (len(order) + 1)
    for value, (first, end) in _lifetimes(graph).items():
        size = _bytes(value, float_bytes)
        change[first] += size
        change[end + 1] -= size
    live, found = 0, {}
    for index, node in enumerate(order):
        live += change[index]
        found[node] = live
    return found


def _lifetimes(graph: ir.Graph) -> dict[ir.Value, tuple[int, int]]:
    """The first and the last position, among the nodes that run by themselves, at which each value exists."""
    position = {node: index for index, (node, _) in enumerate(activation_nodes(graph))}
    born: dict[ir.Value, int] = {value: 0 for value in graph.inputs if not is_constant(value)}
    for node, index in position.items():
        for value in (fused_activation(node) or node).outputs:
            born[value] = index
    spans = {}
    for value, first in born.items():
        readers = [position[user] for user in consumers(value) if user in position]
        spans[value] = (first, len(position) - 1 if value.is_graph_output() else max([first, *readers]))
    return spans


def _peak_tensors(graph: ir.Graph, live: Mapping[ir.Node, int]) -> tuple[TensorFacts, ...]:
    at = max(range(len(live)), key=list(live.values()).__getitem__, default=0)
    held = [value for value, (first, last) in _lifetimes(graph).items() if first <= at <= last]
    return tuple(_tensor(value) for value in sorted(held, key=lambda value: -_bytes(value, 4)) if _bytes(value, 4))


def placements(legal: ir.Model, target: Target) -> tuple[Placement, ...]:
    """Where each node of a graph that is legalized for the target's runtime would run. The first fitting unit takes it."""
    artifact = target.artifact
    without_form = unsupported(legal, "lower", "tflite") if artifact.format == "tflite" else []
    lowering = _reasons([*without_form, *broken(legal, artifact.runtime)])
    integers = _reasons([*unsupported(legal, "quantize"), *_without_kernel(legal, target)]) if target.artifact.calibrated else {}
    found = []
    for node, written in activation_nodes(legal.graph):
        reasons = [*lowering.get(node, ())]
        precision = target.artifact.precision
        if node in integers:
            reasons += integers[node]
            precision = "float32"
        unit, refused = place(node, precision, target)
        reasons += refused
        without_float = node in integers and not target.quantization.float_fallback
        if without_float:
            reasons.append(f"{target.name} has no float")
        if not any({"*", node.op_type} & {*candidate.operators} for candidate in target.units):
            reasons.append(f"no unit of {target.name} runs {node.op_type}")
        elif not unit and not without_float:
            reasons.append(f"no unit of {target.name} runs {node.op_type} in {precision}")
        runs = unit and node not in lowering and not without_float
        where = (unit, precision) if runs else ("", "")
        found.append(Placement(node.name or "", node.op_type, *where, tuple(reasons), written.name or ""))
    return tuple(found)


def _without_kernel(legal: ir.Model, target: Target) -> Iterator[Refused]:
    """The nodes whose operator runs in integers, but not in those of the target's precision."""
    artifact = target.artifact
    for node, _ in activation_nodes(legal.graph):
        try:
            operator = operator_of(node)
        except Refused:
            continue  # `unsupported` has said so
        if operator.has("quantize") and (without := lacking(operator, node, artifact.activations, artifact.format)):
            yield Refused(node, without)


def place(node: ir.Node, precision: str, target: Target) -> tuple[str, list[str]]:
    """The first unit that takes a node in a precision ("" where none does), and why those before it do not.

    Of a node that no unit takes, just the limits are told: that none has the operator in this precision is said once for all.
    """
    dtype = target.quantization.stored(ACTIVATIONS[precision])
    plain: list[str] = []
    limited: list[str] = []
    for unit in target.units:
        without = [f"{unit.name} does not run {node.op_type}"] if not {"*", node.op_type} & {*unit.operators} else []
        without += [f"{unit.name} has no {dtype}"] if dtype not in unit.dtypes else []
        broken = [f"{unit.name}: {sentence}" for limit in unit.limits if (sentence := exceeded(limit, node))]
        if not without and not broken:
            return unit.name, [*limited, *plain]
        plain += without
        limited += broken
    return "", limited


def _reasons(refusals: list[Refused]) -> dict[ir.Node, list[str]]:
    found: dict[ir.Node, list[str]] = {}
    for refused in refusals:
        if refused.node is not None:
            found.setdefault(refused.node, []).append(refused.reason)
    return found


def _constants(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and is_constant(value)]


def _tensor(value: ir.Value) -> TensorFacts:
    return TensorFacts(name_of(value), static_shape(value), value.dtype.numpy().name if value.dtype is not None else "")


def _bytes(value: ir.Value, float_bytes: int) -> int:
    size = 1
    for dim in static_shape(value):
        size *= dim
    if value.dtype is None or value.dtype.is_floating_point():
        return size * float_bytes
    return size * value.dtype.numpy().itemsize
