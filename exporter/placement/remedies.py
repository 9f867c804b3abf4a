"""What would bring more of a model onto the first unit of a target: found by asking the target's own rules again about what was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from diagnostics import EdgewrightError
from exporter.graph.alike import named
from exporter.graph.limits import exceeded, measured
from exporter.graph.summary import Placement, placements
from exporter.graph.values import activation_nodes, constant, static_shape
from exporter.placement.substitutes import Substitute, substitutes_of
from targets.precision import choose_precision, precisions_of
from targets.schema import Limit, Measure, Target

__all__ = ["ADVICE", "Remedy", "mending", "remedies"]

Legalize = Callable[[ir.Model, Target], ir.Model]

# Measure -> what a user does about a number that is beyond a limit; {found} and {wanted} are filled in.
ADVICE: Final[Mapping[Measure, str]] = {
    "batch": "bring the first axis from {found} to {wanted} (of a batch: --shape)",
    "dilation": "use a dilation of {wanted}, not {found}",
    "elements": "cut the {found} elements of a tensor to {wanted}",
    "grouped": "convolve groups of {wanted}, not of {found} channels",
    "input_channels": "bring the input channels from {found} to {wanted}",
    "kernel": "bring the window from {found} to {wanted}",
    "kernel_axes": "use windows of {wanted} axes, not {found}",
    "padded_kernel": "bring the window that pads from {found} to {wanted}, or pad before it",
    "padded_stride": "use a stride of {wanted}, not {found}, or pad before it",
    "scale": "resize by {wanted} along each axis",
    "mirrored": "pad with a constant, not with what lies inside of {found} axes",
    "operands": "make {wanted} of the {found} computed operands constant",
    "output_channels": "bring the output channels from {found} to {wanted}",
    "rank": "work on tensors of {wanted} axes, not {found}",
    "size": "bring an axis of length {found} to {wanted}",
    "stride": "use a stride of {wanted}, not {found}",
}


@dataclass(frozen=True)
class Remedy:
    """One change and what it mends.

    Attributes:
        change: what to do, as a sentence without a full stop.
        nodes: names of the nodes that it is about (of the model, or of the legalized graph where a limit is broken).
        gain: what the target's rules say of the model or node so changed.
        exact: whether the model goes on computing the same.
    """

    change: str
    nodes: tuple[str, ...]
    gain: str
    exact: bool


def remedies(
    model: ir.Model, legal: ir.Model, placed: Sequence[Placement], target: Target, legalize: Legalize
) -> tuple[Remedy, ...]:
    """What would mend a placement; empty where all runs on the first unit of the target.

    Precisions, settings and operators are proposed where the rules then take what they did not; limits with the number they ask for.

    Args:
        model: the canonical graph; legal: what `legalize` (`pipeline.legalized`) makes of it for the target; placed: of `legal`.
    """
    first = target.units[0].name
    if all(place.unit == first for place in placed):
        return ()
    return (
        *_precisions(model, placed, target, legalize),
        *_merged(_substituted(_away(model, legal, placed, first), target, legalize)),
        *_merged(_limited(legal, placed, target)),
    )


def mending(model: ir.Model, legal: ir.Model, placed: Sequence[Placement], target: Target, legalize: Legalize) -> tuple[str, ...]:
    """The `remedies` of what runs nowhere, each as a line of an error."""
    refused = [place.node for place in placed if not place.unit]

    def mends(remedy: Remedy) -> bool:
        # What legalizing makes of a node is named after it.
        return not remedy.nodes or any(f"{node}/".startswith(f"{name}/") for name in remedy.nodes for node in refused)

    return tuple(
        f"{remedy.change} ({named(remedy.nodes)})" if remedy.nodes else f"{remedy.change}: {remedy.gain}"
        for remedy in remedies(model, legal, placed, target, legalize)
        if mends(remedy)
    )


def _precisions(model: ir.Model, placed: Sequence[Placement], target: Target, legalize: Legalize) -> Iterator[Remedy]:
    """Other precisions that the target takes, where more nodes then run on the first unit, or fewer run nowhere."""
    now = _standing(placed, target)
    for precision in precisions_of(target)[1:]:
        other = choose_precision(target, precision)
        then = _standing(placements(legalize(model, other), other), other)
        if then[:2] < now[:2]:
            nowhere, elsewhere, count = then
            left = f"{count - nowhere - elsewhere} of {count} nodes run on {target.units[0].name}"
            gain = left + (f", {elsewhere} on another unit" if elsewhere else "") + (f", {nowhere} nowhere" if nowhere else "")
            yield Remedy(f"choose precision {precision}", (), gain, exact=False)


def _standing(placed: Sequence[Placement], target: Target) -> tuple[int, int, int]:
    """Nodes that run nowhere, nodes on another unit than the first, all nodes."""
    nowhere = sum(not place.unit for place in placed)
    return nowhere, sum(place.unit not in ("", target.units[0].name) for place in placed), len(placed)


def _away(model: ir.Model, legal: ir.Model, placed: Sequence[Placement], first: str) -> list[ir.Node]:
    """The nodes of the model, and those that only legalizing made (a hard swish that was written out) and that are not on the first unit."""
    own = {node.op_type for node in model.graph}
    made = [
        node
        for (node, _), place in zip(activation_nodes(legal.graph), placed, strict=True)
        if place.unit != first and node.op_type not in own
    ]
    return [*model.graph, *made]


def _substituted(nodes: Sequence[ir.Node], target: Target, legalize: Legalize) -> Iterator[Remedy]:
    """For each node with substitutes that is not wholly on the first unit: the nearest of them that is."""
    unit = target.units[0].name
    for node in nodes:
        candidates = substitutes_of(node)
        if not candidates or _runs(_alone(node), target, legalize):
            continue
        for candidate in candidates:
            if _runs(_alone(node, candidate), target, legalize):
                yield Remedy(f"replace {node.op_type} by {candidate.name}", (node.name or "",), f"runs on {unit}", exact=False)
                break


def _runs(alone: ir.Model, target: Target, legalize: Legalize) -> bool:
    """Whether all that a model becomes on the target runs on its first unit."""
    try:
        placed = placements(legalize(alone, target), target)
    except EdgewrightError:
        return False
    return all(place.unit == target.units[0].name for place in placed)


def _alone(node: ir.Node, instead: Substitute | None = None) -> ir.Model:
    """A model of that node alone, or of its substitute, with the node's shapes and constants."""
    kept = instead is None or instead.op_type == node.op_type
    taken = list(node.inputs) if kept else list(node.inputs[:1])
    inputs: list[ir.Value | None] = []
    fed, stored = [], []
    for index, value in enumerate(taken):
        if value is None:
            inputs.append(None)
            continue
        array = constant(value)
        copy = ir.Value(name=f"x{index}", shape=ir.Shape(static_shape(value)), type=value.type)
        if array is not None:
            copy.const_value = ir.tensor(array, name=copy.name)
            stored.append(copy)
        else:
            fed.append(copy)
        inputs.append(copy)
    for index, number in enumerate(instead.constants if instead is not None else ()):
        name = f"c{index}"
        scalar = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.FLOAT))
        scalar.const_value = ir.tensor(np.asarray(number, np.float32), name=name)
        stored.append(scalar)
        inputs.append(scalar)
    attributes = dict(node.attributes) if kept else {}
    attributes |= {entry.name: entry for entry in ir.convenience.convert_attributes(dict(instead.attributes))} if instead else {}
    copies = [ir.Value(name=f"y{index}", shape=value.shape, type=value.type) for index, value in enumerate(node.outputs)]
    outputs = copies if kept else copies[:1]
    made = ir.Node(
        node.domain if kept else "",
        instead.op_type if instead is not None else node.op_type,
        inputs,
        list(attributes.values()),
        outputs=outputs,
        name="alone",
    )
    graph = ir.Graph(fed, outputs, nodes=[made], initializers=stored, opset_imports=_opsets(node), name="alone")
    return ir.Model(graph, ir_version=10)


def _opsets(node: ir.Node) -> dict[str, int]:
    return dict(node.graph.opset_imports) if node.graph is not None else {}


def _limited(legal: ir.Model, placed: Sequence[Placement], target: Target) -> Iterator[Remedy]:
    """For each limit of the first unit that a node breaks: the number that would be within."""
    unit = target.units[0]
    for (node, _), place in zip(activation_nodes(legal.graph), placed, strict=True):
        if place.unit == unit.name or not {"*", node.op_type} & {*unit.operators}:
            continue
        for limit in unit.limits:
            if exceeded(limit, node):
                found, wanted = next(
                    (number, _within(limit, number))
                    for number in measured(limit.measure, node)
                    if _within(limit, number) != number
                )
                padded = limit.multiple_of is not None and limit.measure.endswith("channels") and wanted > found
                change = (
                    f"pad {node.op_type}'s {limit.measure.replace('_', ' ')} from {found} to {wanted}"
                    if padded
                    else (f"{node.op_type}: {ADVICE[limit.measure].format(found=found, wanted=wanted)}")
                )
                yield Remedy(change, (place.node,), f"within what {unit.name} takes: {limit.why}", exact=padded)


def _within(limit: Limit, number: int) -> int:
    """The nearest number that a limit allows; up, where a multiple is asked for."""
    if limit.among:
        return min(limit.among, key=lambda allowed: abs(allowed - number))
    step = limit.multiple_of or 1
    wanted = -(-max(number, limit.least if limit.least is not None else number) // step) * step
    return wanted if limit.most is None or wanted <= limit.most else limit.most // step * step


def _merged(found: Iterator[Remedy]) -> tuple[Remedy, ...]:
    """Remedies of the same words as one, with all their nodes."""
    merged: dict[tuple[str, str, bool], tuple[str, ...]] = {}
    for remedy in found:
        key = (remedy.change, remedy.gain, remedy.exact)
        merged[key] = (*merged.get(key, ()), *remedy.nodes)
    return tuple(Remedy(change, nodes, gain, exact) for (change, gain, exact), nodes in merged.items())
