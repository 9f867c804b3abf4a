"""Give activations other scales after planning: the encodings of the biases behind them follow."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, constant, fused_activation, fused_into, is_constant, name_of
from exporter.ops.base import Role, operator_of
from exporter.quantization.apply import apply_corrections, encode_constant, node_name, read_encoding, runs_in_integers
from exporter.quantization.encoder import LEAST_RATIO
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.ranges import MAX_BIAS, bias_encoding
from exporter.quantization.refinement.rounding import pack_offsets

__all__ = ["free_groups", "rescaled"]


def free_groups(
    graph: ir.Graph, plan: Plan, nodes: Collection[ir.Node], inputs: Collection[ir.Value] = ()
) -> dict[str, tuple[str, ...]]:
    """The values of one encoding whose scale may change on its own: names by one of them.

    All are written by integer kernels of `nodes`, whose encoding is not fixed, or are of `inputs`, and no constant is encoded along with
    them.
    """
    parent: dict[str, str] = {}
    bound: set[str] = set()

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    writers = {value: fused_into(node) or node for node in nodes for value in node.outputs}
    for node, written in activation_nodes(graph):
        if not runs_in_integers(node, plan):
            continue
        rule = operator_of(node).quantize(node)
        outputs = [written, *node.outputs[1:]]
        bound |= {value.name for value, given in zip(outputs, rule.outputs, strict=False) if given.kind == "fixed" and value.name}
        if not rule.shared:
            continue
        names = [name_of(value) for value in (*node.inputs, *outputs) if value is not None and value.name in plan.encodings]
        for name in names:
            parent[root(name)] = root(names[-1])
        if any(f"{node_name(node)}:{index}" in plan.requantize for index in range(len(node.inputs))):
            bound.update(names)
    groups: dict[str, list[str]] = {}
    for name in parent.keys() | plan.encodings.keys():
        groups.setdefault(root(name), []).append(name)
    inside = {name_of(value) for value, writer in writers.items() if value.name and runs_in_integers(writer, plan)}
    inside |= {name_of(value) for value in inputs}
    free = [sorted(names) for names in groups.values() if inside.issuperset(names) and bound.isdisjoint(names)]
    same = [names for names in free if len({plan.encodings[name] for name in names}) == 1]
    return {names[0]: tuple(names) for names in sorted(same)}


def rescaled(graph: ir.Graph, plan: Plan, encodings: Mapping[str, Encoding]) -> Plan:
    """`plan` with other encodings of activations, and those of biases that follow.

    Where a bias or a kernel's multiplier would not fit any more, its channel of the weight gets a greater scale, and the same numbers
    as near as that has them.
    """
    changed = replace(plan, encodings={**plan.encodings, **encodings})
    for node in graph:
        if runs_in_integers(node, plan) and _touches(node, encodings):
            changed = _mended(node, plan, changed)
    return changed


def _mended(node: ir.Node, plan: Plan, changed: Plan) -> Plan:
    """`changed` with the encodings of this node's weight and bias as its activations' encodings want them; those of `plan` fitted."""
    roles = {given.role: index for index, given in enumerate(operator_of(node).quantize(node).inputs[: len(node.inputs)])}
    bias = constant(node.inputs[roles[Role.BIAS]]) if Role.BIAS in roles else None
    if Role.WEIGHT not in roles or bias is None:
        return changed
    first, second = (read_encoding(node, roles[role], changed) for role in (Role.ACTIVATION, Role.WEIGHT))
    assert first is not None
    assert second is not None
    output = changed.encodings.get(name_of((fused_activation(node) or node).outputs[0]))
    amounts = np.abs(apply_corrections(bias, plan, name_of(node.inputs[roles[Role.BIAS]]))).astype(np.float64).ravel()  # type: ignore[arg-type]
    has = read_encoding(node, roles[Role.BIAS], plan)
    assert has is not None
    bits = has.dtype
    least = np.maximum(amounts / MAX_BIAS[bits], LEAST_RATIO * output.scale[0] if output is not None else 0.0) / first.scale[0]
    least = least if second.axis is not None else least.max(initial=0.0, keepdims=True)
    scale = np.asarray(second.scale, np.float64)
    if (least > scale).any():
        wider = replace(second, scale=tuple(np.maximum(scale, least * (1 + 2**-20)).astype(np.float32).tolist()))
        changed = _reencoded(node, roles[Role.WEIGHT], wider, plan, changed)
        second = wider
    return _put(node, roles[Role.BIAS], bias_encoding(first, second, bias.ndim - 1, bits), changed)


def _reencoded(node: ir.Node, index: int, wider: Encoding, plan: Plan, changed: Plan) -> Plan:
    integers, encoding = encode_constant(node, index, plan)
    changed = _put(node, index, wider, changed)
    value = node.inputs[index]
    if value is None or name_of(value) not in plan.roundings:
        return changed
    packed = pack_offsets(wider.quantize(encoding.dequantize(integers)), wider.quantize(np.asarray(constant(value))))
    return replace(changed, roundings={**changed.roundings, name_of(value): packed})


def _put(node: ir.Node, index: int, encoding: Encoding, plan: Plan) -> Plan:
    """`plan` with another encoding of a constant, for all its readers or for this one alone as it was."""
    value, key = node.inputs[index], f"{node_name(node)}:{index}"
    assert value is not None
    if key in plan.requantize:
        return replace(plan, requantize={**plan.requantize, key: encoding})
    return replace(plan, encodings={**plan.encodings, name_of(value): encoding})


def _touches(node: ir.Node, names: Container[str | None]) -> bool:
    written = (fused_activation(node) or node).outputs
    return any(value is not None and not is_constant(value) and value.name in names for value in (*node.inputs, *written))
