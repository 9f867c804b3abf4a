"""If, Loop and Scan become straight lines of nodes where their structure does not depend on data and the line is short.

::

    Loop(3, true, y) {v = Add(v, x)}          y -> Add(., x) -> Add(., x) -> Add(., x)
    If(c) {Relu(x)} else {Neg(x)}             Where(c, Relu(x), Neg(x))

Requires: shapes where inference can know them. Ensures: no If, no Scan over a static length and no Loop of a known trip count is left, up to
a limit of nodes; what is left computes what it did, by a body that stands by itself (`close_bodies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.close_bodies import close_bodies
from exporter.graph.edit import add_constant
from exporter.graph.fold_constants import evaluate, fold_constants
from exporter.graph.infer_shapes import infer_shapes
from exporter.graph.name_everything import name_everything
from exporter.graph.sequences import resolve_sequences
from exporter.graph.values import attribute, constant, source_line, static_shape

__all__ = ["MOST_NODES", "MOST_NODES_WITHOUT_LOOPS", "inline_control_flow"]

# Nodes that the unrolled iterations of one Loop or Scan may have. Unrolled steps run in integers and without the copies that a loop makes
# of what it carries; converting and loading them takes time and memory by their number.
MOST_NODES: Final = 1 << 12
MOST_NODES_WITHOUT_LOOPS: Final = 1 << 15  # where the device has no float, in which the bodies of loops run
_MOST_ROUNDS: Final = 16  # of nesting


def inline_control_flow(model: ir.Model, canonical: Callable[[ir.Model], ir.Model], most: int = MOST_NODES) -> bool:
    """Inline in place, innermost last; whether anything was. Shapes and constants of the result are as canonicalizing left them.

    `canonical` makes the body of a loop that stays canonical; `most`: nodes that a loop may come to.
    Raises ModelError EW-M007 where the branches of an If give different shapes to a value; EW-M006 as `close_bodies` does.
    """
    changed, rounds = False, 0
    while rounds < _MOST_ROUNDS:
        selected: list[ir.Node] = []
        inlined = [_inline(model, node, selected, most) for node in list(model.graph)]
        if any(inlined) or resolve_sequences(model):
            rounds += 1
        elif not close_bodies(model, canonical):
            break
        changed = True
        name_everything(model)
        infer_shapes(model)
        _check_selected(selected)
        fold_constants(model)
        infer_shapes(model)
    return changed


def _inline(model: ir.Model, node: ir.Node, selected: list[ir.Node], most: int) -> bool:
    if node.domain or node.op_type not in ("If", "Loop", "Scan") or node.graph is not model.graph:
        return False
    site = _Site(model, node, most)
    found = {"If": _if, "Loop": _loop, "Scan": _scan}[node.op_type](site, selected)
    if found is None:
        return False
    for old, new in zip(node.outputs, found, strict=True):
        if old.name or old.uses():
            _take_over(site, old, new)
    model.graph.remove(node, safe=True)
    return True


class _Site:
    """The place of a control-flow node: where the nodes of its bodies go."""

    def __init__(self, model: ir.Model, node: ir.Node, most: int) -> None:
        self.node, self.graph, self.opset, self.most = node, model.graph, model.opset_imports.get("", 0), most
        self.evaluated: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

    def known(self, value: ir.Value | None) -> np.ndarray[Any, Any] | None:
        """The value's array where it follows from constants alone."""
        return None if value is None else evaluate(value, self.opset, self.evaluated)

    def const(self, array: np.ndarray[Any, Any]) -> ir.Value:
        return add_constant(self.graph, f"{self.node.name}/constant", array)

    def op(self, op_type: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> ir.Node:
        """A new node in front of this one."""
        made = ir.node(op_type, list(inputs), attributes, num_outputs=outputs)
        made.metadata_props.update(self.node.metadata_props)
        self.graph.insert_before(self.node, made)
        return made

    def body(self, name: str, inputs: Sequence[ir.Value], where: str) -> list[ir.Value]:
        """Insert a copy of the subgraph attribute `name` on `inputs`; give its outputs."""
        copy = self.node.attributes[name].as_graph().clone(allow_outer_scope_values=True)
        for inner, outer in zip(list(copy.inputs), inputs, strict=True):
            inner.replace_all_uses_with(outer, replace_graph_outputs=True)
        outputs, nodes = list(copy.outputs), list(copy)
        copy.outputs.clear()
        copy.remove(nodes)
        for key, value in list(copy.initializers.items()):
            del copy.initializers[key]
            twin = self.const(np.asarray(value.const_value.numpy())) if value.const_value is not None else value
            outputs = [twin if output is value else output for output in outputs]
            value.replace_all_uses_with(twin)
        for node in nodes:
            node.name = f"{self.node.name}/{where}/{node.name or node.op_type}"
            for value in node.outputs:
                if value.name:
                    value.name = f"{self.node.name}/{where}/{value.name}"
        self.graph.insert_before(self.node, nodes)
        return outputs


def _take_over(site: _Site, old: ir.Value, new: ir.Value) -> None:
    """Let `new` be used for `old`; a graph output keeps its name on a node of its own."""
    if old.is_graph_output():
        new = site.op("Identity", new).outputs[0]
        new.type, new.shape = old.type, old.shape
        title, old.name = old.name, None
        new.name = title
    old.replace_all_uses_with(new, replace_graph_outputs=True)


# --- If ---------------------------------------------------------------------------------------------------------------


def _if(site: _Site, selected: list[ir.Node]) -> list[ir.Value] | None:
    """The branch of a constant condition; else both, as no operator has effects, and a choice of every output."""
    condition = site.node.inputs[0]
    assert condition is not None
    known = site.known(condition)
    if known is not None:
        branch = "then" if bool(known.reshape(())) else "else"
        return site.body(f"{branch}_branch", (), branch)
    if any(not isinstance(value.type, ir.TensorType) for value in site.node.outputs):
        return None
    if condition.shape is None or len(condition.shape) > 0:
        condition = site.op("Reshape", condition, site.const(np.zeros(0, np.int64))).outputs[0]
    branches = [site.body(f"{branch}_branch", (), branch) for branch in ("then", "else")]
    chosen = [site.op("Where", condition, yes, no) for yes, no in zip(*branches, strict=True)]
    selected += chosen
    return [node.outputs[0] for node in chosen]


def _check_selected(selected: Sequence[ir.Node]) -> None:
    for node in selected:
        _, yes, no = node.inputs
        if yes is None or no is None or yes.shape is None or yes.shape != no.shape:
            raise ModelError(
                "EW-M007",
                "the branches of an If give values of different shapes",
                where=f"node {node.name} {source_line(node)}".rstrip(),
                why=f"{yes and yes.shape} and {no and no.shape}",
                fix="make its condition a constant",
            )


# --- Loop -------------------------------------------------------------------------------------------------------------


def _loop(site: _Site, selected: list[ir.Node]) -> list[ir.Value] | None:
    """All iterations; None where their number is not known before they run, or there are too many."""
    count, condition, *first = site.node.inputs
    body = site.node.attributes["body"].as_graph()
    trips = site.known(count) if count is not None else np.asarray(site.most)
    goes_on = site.known(condition) if condition is not None else np.asarray(True)
    if trips is None or goes_on is None or any(value is None for value in first):
        return None
    most, weight = int(trips.reshape(())), _weight(body, site.most)
    if count is not None and most * weight > site.most:
        return None
    before = set(site.graph)
    state: list[ir.Value] = [value for value in first if value is not None]
    scanned: list[list[ir.Value]] = [[] for _ in range(len(site.node.outputs) - len(state))]
    done = 0
    while done < most and bool(goes_on.reshape(())):
        inputs = [site.const(np.asarray(done, np.int64)), site.const(np.asarray(True)), *state]
        proceed, *results = site.body("body", inputs, str(done))
        done += 1
        state, rows = results[: len(state)], results[len(state) :]
        for collected, row in zip(scanned, rows, strict=True):
            collected.append(row)
        known = site.known(proceed)
        if known is None or done * weight > site.most:
            _drop(site.graph, before)
            return None
        goes_on = known
    if not done and any(value.uses() for value in site.node.outputs[len(state) :]):
        return None  # an empty tensor, whose shape nobody knows
    return [*state, *(_joined(site, rows, 0) if done else state[0] for rows in scanned)]


def _weight(body: ir.Graph, most: int) -> int:
    """Nodes of a body once what is inside of it is inlined as well, at least one; what comes to more than `most` stays one node."""
    total = 0
    for node in body:
        inside = sum(
            _weight(entry.as_graph(), most) for entry in node.attributes.values() if entry.type == ir.AttributeType.GRAPH
        )
        inside *= _known_steps(node)
        total += inside if 0 < inside <= most else 1
    return max(total, 1)


def _known_steps(node: ir.Node) -> int:
    """Of a loop inside of a body; one where data decides, and for other nodes."""
    if node.op_type == "Scan":
        axes, scans = attribute(node, "scan_input_axes"), int(attribute(node, "num_scan_inputs"))
        source = node.inputs[len(node.inputs) - scans]
        length = source.shape[axes[0] if axes else 0] if source is not None and source.shape is not None else 1
        return length if isinstance(length, int) else 1
    count = constant(node.inputs[0]) if node.op_type == "Loop" else None
    return 1 if count is None else int(count.reshape(()))


def _drop(graph: ir.Graph, before: set[ir.Node]) -> None:
    """Remove the nodes that were inserted since."""
    for node in reversed([node for node in graph if node not in before]):
        graph.remove(node, safe=True)


# --- Scan -------------------------------------------------------------------------------------------------------------


def _scan(site: _Site, selected: list[ir.Node]) -> list[ir.Value] | None:
    """All iterations; None where the length is not known or too long."""
    node = site.node
    body, scans = node.attributes["body"].as_graph(), int(attribute(node, "num_scan_inputs"))
    values = [value for value in node.inputs if value is not None]
    state, sources = values[: len(values) - scans], values[len(values) - scans :]
    axes = attribute(node, "scan_input_axes") or (0,) * scans
    backward = attribute(node, "scan_input_directions") or (0,) * scans
    try:
        lengths = {static_shape(source)[axis] for source, axis in zip(sources, axes, strict=True)}
    except ValueError:
        return None
    if len(lengths) != 1 or not 0 < min(lengths) * _weight(body, site.most) <= site.most:
        return None
    (length,) = lengths
    rows = [_rows(site, source, axis, length) for source, axis in zip(sources, axes, strict=True)]
    rows = [row[::-1] if flipped else row for row, flipped in zip(rows, backward, strict=True)]
    count = len(node.outputs) - len(state)
    scanned: list[list[ir.Value]] = [[] for _ in range(count)]
    for at in range(length):
        results = site.body("body", [*state, *(row[at] for row in rows)], str(at))
        state = results[: len(state)]
        for collected, result in zip(scanned, results[len(state) :], strict=True):
            collected.append(result)
    axes = attribute(node, "scan_output_axes") or (0,) * count
    backward = attribute(node, "scan_output_directions") or (0,) * count
    joined = [
        _joined(site, collected[::-1] if flipped else collected, axis)
        for collected, axis, flipped in zip(scanned, axes, backward, strict=True)
    ]
    return [*state, *joined]


def _rows(site: _Site, source: ir.Value, axis: int, length: int) -> list[ir.Value]:
    """The slices of `source` along `axis`, without it."""
    parts = [source] if length == 1 else site.op("Split", source, outputs=length, axis=axis, num_outputs=length).outputs
    axes = site.const(np.asarray([axis], np.int64))
    return [site.op("Squeeze", part, axes).outputs[0] for part in parts]


def _joined(site: _Site, rows: Sequence[ir.Value], axis: int) -> ir.Value:
    """`rows` stacked along a new axis."""
    axes = site.const(np.asarray([axis], np.int64))
    parts = [site.op("Unsqueeze", row, axes).outputs[0] for row in rows]
    return parts[0] if len(parts) == 1 else site.op("Concat", *parts, axis=axis).outputs[0]
