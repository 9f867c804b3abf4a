"""The plan of a source that came quantized: its own encodings, node by node and value by value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from exporter.graph.encoded import BOUNDARY, constant_encoding, encoding_of, in_int8
from exporter.graph.values import activation_nodes, constant, is_constant, name_of
from exporter.ops.base import QuantRule, Refused, Role
from exporter.quantization.apply import node_name
from exporter.quantization.encoder import is_float
from exporter.quantization.given import integer_rule, outputs_of
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.planner import require_integers
from exporter.quantization.ranges import bias_encoding
from targets.schema import Target

__all__ = ["given_notes", "given_plan"]

# The scale of a bias is the product of two scales; who wrote the source may have rounded it otherwise than float32 does.
_SAME_SCALE = 1e-5


def given_plan(model: ir.Model, target: Target) -> Plan:
    """The plan of a settled graph (`given.settle`): the source's encodings, of constants those that give back their very numbers.

    A node runs in float where the source computes in float, or where no integer kernel has the source's encodings.

    Raises:
        TargetError: EW-Q003, a node runs in float and the target has none.
    """
    rules, reasons = _rules(model.graph)
    require_integers(target, len(rules), reasons, "give the model from before its quantization")
    taken = _Taken()
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if (encoding := encoding_of(value)) is not None:
            taken.encodings[name_of(value)] = encoding
    for node, rule in rules.items():
        taken.inputs(node, rule)
    boundary = (*model.graph.inputs, *model.graph.outputs)
    return Plan(
        target=target.name,
        artifact_precision=target.artifact.precision,
        precision={node_name(node): _precision(node, rules) for node, _ in activation_nodes(model.graph)},
        encodings=taken.encodings,
        requantize=taken.requantize,
        io_layout=target.artifact.io_layout,
        io_dtype=target.artifact.io_dtype,
        io_dtypes={name_of(value): value.metadata_props[BOUNDARY] for value in boundary if BOUNDARY in value.metadata_props},
    )


def given_notes(model: ir.Model) -> tuple[str, ...]:
    """What a user should know of a quantized source that stays so: that it does, and which nodes of the settled graph run in float, and why."""
    said = "the model came quantized and stays so: its own encodings, nothing calibrated"
    reasons = _rules(model.graph)[1]
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return (said, f"{len(reasons)} nodes run in float: {listed}") if reasons else (said,)


def _rules(graph: ir.Graph) -> tuple[dict[ir.Node, QuantRule], dict[str, str]]:
    rules: dict[ir.Node, QuantRule] = {}
    reasons: dict[str, str] = {}
    for node, _ in activation_nodes(graph):
        if any(is_float(value) for value in (*node.inputs, *node.outputs)):
            try:
                rules[node] = integer_rule(node)
            except Refused as refused:
                reasons[node_name(node)] = refused.reason
    return rules, reasons


def _precision(node: ir.Node, rules: Mapping[ir.Node, QuantRule]) -> str:
    """A node that runs in integers does so in those that it writes."""
    if node not in rules:
        return "float32"
    dtypes = {encoding.dtype for value, _ in outputs_of(node, rules[node]) if (encoding := encoding_of(value)) is not None}
    return "int16x8" if "int16" in dtypes else "int8"


class _Taken:
    """Encodings of values and of single reads, as a plan has them."""

    def __init__(self) -> None:
        self.encodings: dict[str, Encoding] = {}
        self.requantize: dict[str, Encoding] = {}

    def inputs(self, node: ir.Node, rule: QuantRule) -> None:
        """What an integer node reads: activations, weights, then biases at the product of their scales."""
        common = next((encoding_of(value) for value, _ in outputs_of(node, rule)), None) if rule.shared else None
        factors: list[Encoding] = []
        biases: list[tuple[int, ir.Value]] = []
        for index, (value, given) in enumerate(zip(node.inputs, rule.inputs, strict=False)):
            if value is None or not is_float(value) or given.role is Role.PARAMETER:
                continue
            if given.role is Role.BIAS:
                biases.append((index, value))
                continue
            own = constant_encoding(value, given.axis) if is_constant(value) else encoding_of(value)
            read = common or (in_int8(own) if own is not None else None)
            assert read is not None
            factors.append(read)
            if is_constant(value) and common is None:
                self._put(node, index, value, read)
            elif own != read:
                self.requantize[f"{node_name(node)}:{index}"] = read
        for index, value in biases:
            self._put(node, index, value, _bias(value, bias_encoding(factors[0], factors[1], len(value.shape or (0,)) - 1)))

    def _put(self, node: ir.Node, index: int, value: ir.Value, encoding: Encoding) -> None:
        if self.encodings.setdefault(name_of(value), encoding) != encoding:
            self.requantize[f"{node_name(node)}:{index}"] = encoding


def _bias(value: ir.Value, product: Encoding) -> Encoding:
    """The source's own encoding of a bias where it is at the product of the scales, as kernels take it to be; else that product."""
    own, array = constant_encoding(value, product.axis), constant(value)
    if own is None or array is None or own.dtype not in ("int32", "int64") or any(own.zero_point):
        return product
    scales = np.broadcast_to(product.scale, len(own.scale)) if len(product.scale) == 1 else np.asarray(product.scale)
    fits = len(scales) == len(own.scale) or len(own.scale) == 1
    return own if fits and np.allclose(own.scale, scales, rtol=_SAME_SCALE, atol=0.0) else product
