"""Weights in 4 bits beside activations in 8: which ones, and at which scale.

All weights whose kernel takes 4 bits get them, but for a quarter of them, counted in elements: those whose rounding disturbs the outputs
most for the bytes that it saves. In convolutional networks these are the few weights of the first and of the narrow layers. Rounding the
weights of a layer together takes up to 10 dB off what rounding them to nearest does, and of some layers nothing: what is measured is rounded
as it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, name_of
from exporter.ops.base import Role, operator_of
from exporter.ops.forms import narrow_version
from exporter.quantization.apply import node_name, read_encoding, runs_in_integers
from exporter.quantization.mixing.sensitivity import Judge, judges_of
from exporter.quantization.mixing.switches import Switch
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.ranges import bias_encoding, greatest_weight, weight_encoding
from exporter.quantization.refinement.sequential import CLOSE, round_weights
from targets.floor import Floor, floor_of
from targets.releases.tflite import release_of
from targets.schema import Target

__all__ = ["narrowed"]

_WIDE: Final = 0.25  # share of the weights that stays in 8 bits
_PROBES: Final = 6  # samples on which the rounding of each weight is measured alone
_FACTORS: Final = np.linspace(
    1.0, 0.5, 26
)  # of the scale that covers all of a channel: clipping some of it rounds the rest more finely


def narrowed(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    together: bool = False,
) -> Plan:
    """`plan`, of int8, with int4 encodings for the weights that shall have them, and those of their biases.

    Args:
        model: the graph that the plan was made for.
        samples: inputs by name; some of them say what each rounding costs.
        together: whether weights will be rounded by `round_weights`; then every other sample rounds them, and the rest judge.
    """
    sizes: dict[str, int] = {}
    narrow = plan
    for node in model.graph:
        index = _weight(node, plan, target)
        if index is not None:
            array = constant(node.inputs[index])
            assert array is not None
            sizes[node_name(node)] = array.size
            narrow = _narrow(node, index, narrow)
    if not sizes:
        return plan
    held = list(samples)
    if together and len(held) > 1:
        narrow, held = round_weights(model, narrow, target, held[1::2], look=CLOSE).plan, held[::2]
    judge = Judge(model, narrow, judges_of(model, held))
    noises = {name: judge.noise(partial(_is_constant_of, name), _PROBES) for name in sizes}
    left, wide = int(_WIDE * sum(sizes.values())), set()
    for name in sorted(sizes, key=lambda name: (-noises[name] / sizes[name], name)):
        if sizes[name] <= left:
            left -= sizes[name]
            wide.add(name)
    for node in model.graph:
        index = _weight(node, plan, target)
        if index is not None and node_name(node) not in wide:
            plan = _narrow(node, index, plan)
    return plan


def _is_constant_of(name: str, switch: Switch) -> bool:
    return switch.kind == "constant" and switch.node == name


def _weight(node: ir.Node, plan: Plan, target: Target) -> int | None:
    """Index of the node's weight where its kernel takes 4 bits of it, on every allowed runtime, and no other node reads it."""
    if not runs_in_integers(node, plan):
        return None
    operator = operator_of(node)
    if target.artifact.format == "tflite" and not _has_kernel(operator.hybrid(node), floor_of(target)):
        return None
    for index, (rule, value) in enumerate(zip(operator.quantize(node).inputs, node.inputs, strict=False)):
        if rule.role is Role.WEIGHT and value is not None and constant(value) is not None:
            return index if len(value.uses()) == 1 else None
    return None


def _has_kernel(builtin: str, floor: Floor | None) -> bool:
    version = narrow_version(builtin)
    return version is not None and (floor is None or floor.covers(release_of(builtin, version)))


def _narrow(node: ir.Node, index: int, plan: Plan) -> Plan:
    value, wide = node.inputs[index], read_encoding(node, index, plan)
    array = constant(value)
    assert value is not None
    assert wide is not None
    assert array is not None
    encoding = _encoding(array, wide)
    encodings = {**plan.encodings, name_of(value): encoding}
    rules = operator_of(node).quantize(node).inputs
    given = read_encoding(node, 0, plan)
    for place, (rule, bias) in enumerate(zip(rules, node.inputs, strict=False)):
        if rule.role is Role.BIAS and bias is not None and given is not None:
            assert f"{node_name(node)}:{place}" not in plan.requantize
            dtype = plan.encodings[name_of(bias)].dtype
            encodings[name_of(bias)] = bias_encoding(given, encoding, len(bias.shape or (0,)) - 1, dtype)
    return replace(plan, encodings=encodings)


def _encoding(array: np.ndarray[Any, Any], wide: Encoding) -> Encoding:
    """The int4 encoding with the least squared error of each channel, at scales no less than those of the int8 one."""
    whole = weight_encoding(array, wide.axis, dtype="int4")
    scale, limit = np.asarray(whole.scale), greatest_weight("int4")
    rows = array.reshape(1, -1) if wide.axis is None else np.moveaxis(array, wide.axis, 0).reshape(scale.size, -1)
    found = [
        np.square(np.clip(np.rint(rows / (f * scale)[:, None]), -limit, limit) * (f * scale)[:, None] - rows).sum(axis=1)
        for f in _FACTORS
    ]
    best = np.maximum(scale * _FACTORS[np.argmin(found, axis=0)], np.asarray(wide.scale)).astype(np.float32)
    return replace(whole, scale=tuple(best.tolist()))
