"""Multiplications and additions of one constant a channel move into the neighbouring convolution or matrix product.

Behind it (Conv, ConvTranspose, Gemm)::

    x -> Conv(w, b) -> Mul(s) -> Add(t) -> y          x -> Conv(w * s, b * s + t) -> y

before it (Conv, Gemm; an Add only where the convolution does not pad, as padding is of zeros *behind* the Add)::

    x -> Mul(s) -> Add(t) -> Conv(w, b) -> y          x -> Conv(w * s, b + sum(w * t)) -> y

before a Gemm also where the samples are laid out as rows between::

    x -> Add(t) -> Transpose -> Reshape -> Gemm(w, b) -> y          x -> Transpose -> Reshape -> Gemm(w, b + w @ t) -> y

Neither fires where the value between the two is used elsewhere or is a graph output, where a constant has more than one element off
the channel axis, or where weight or bias are not constants. Div and Sub are the same with 1/s and -t.

Requires: constants are initializers, ranks are known. Ensures: nothing; folding is an optimization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import add_constant, bypass, only_user, replace_constant
from exporter.graph.values import attribute, constant, name_of, rank, static_shape

__all__ = ["Affine", "affine_of", "fold_affine", "linear_of", "scaled_rows"]

Vector = np.ndarray[Any, Any]

_SHAPES: Final = ("Transpose", "Reshape", "Flatten")


@dataclass(frozen=True)
class Affine:
    """``y = x * scale + shift``, float64 [C] each; `x` is the operand that varies."""

    x: ir.Value
    scale: Vector
    shift: Vector


@dataclass(frozen=True)
class Linear:
    """How weights of a linear node are indexed: axes of its output and input channels, and how many groups share them."""

    out_axis: int
    in_axis: int
    groups: int
    channels_in: int
    channels_out: int


def fold_affine(model: ir.Model) -> int:
    """Fold in place until nothing more folds; returns how many nodes disappeared."""
    total = 0
    while folded := sum(_fold(node) for node in list(model.graph)):
        total += folded
    return total


def _fold(node: ir.Node) -> bool:
    if node.graph is None or node.op_type not in ("Mul", "Add", "Div", "Sub") or node.domain:
        return False
    return _fold_behind(node) or _fold_before(node)


def _fold_behind(node: ir.Node) -> bool:
    """``linear -> node``: scale the rows of the weight, scale and shift the bias."""
    for x in node.inputs:
        linear = x.producer() if x is not None else None
        found = linear_of(linear)
        if linear is None or found is None or x is None or only_user(x) is not node:
            continue
        affine = affine_of(node, x, found.channels_out)
        if affine is None:
            continue
        weight, bias = constant(linear.inputs[1]), _bias(linear, found.channels_out)
        if weight is None or bias is None:
            continue
        if np.any(affine.scale != 1):
            _set_weight(linear, scaled_rows(linear, found, affine.scale))
        _set_bias(linear, (bias * affine.scale + affine.shift).astype(weight.dtype))
        return bypass(node, x)
    return False


def _fold_before(node: ir.Node) -> bool:
    """``node -> linear``: scale the columns of the weight, let the bias take what the shift adds."""
    linear, steps = _reader(node.outputs[0])
    found = linear_of(linear)
    if linear is None or found is None or linear.op_type == "ConvTranspose":
        return False
    for x in node.inputs:
        affine = affine_of(node, x, _channels(x)) if x is not None else None
        if affine is None:
            continue
        scale, shift = (_through(vector, affine.x, steps) for vector in (affine.scale, affine.shift))
        if np.any(shift != 0) and linear.op_type == "Conv" and not _unpadded(linear):
            return False
        weight, bias = constant(linear.inputs[1]), _bias(linear, found.channels_out)
        if weight is None or bias is None or scale.size != found.channels_in:
            return False
        if linear.op_type == "Gemm":
            shape = [1, 1]
            shape[found.in_axis] = -1
            scale, shift = scale.reshape(shape), shift.reshape(shape)
            moved = (weight.astype(np.float64) * shift).sum(axis=found.in_axis)
        else:  # weight [C_out, C_in / groups, ...]: the outputs of group g see the inputs of group g
            spread = (found.groups, 1, weight.shape[1])
            per_out = (found.groups, found.channels_out // found.groups, weight.shape[1])
            tail = (1,) * (weight.ndim - 2)
            scale = np.broadcast_to(scale.reshape(spread), per_out).reshape(*weight.shape[:2], *tail)
            shift = np.broadcast_to(shift.reshape(spread), per_out).reshape(*weight.shape[:2], *tail)
            moved = (weight.astype(np.float64) * shift).sum(axis=tuple(range(1, weight.ndim)))
        if np.any(shift != 0):
            _set_bias(linear, (bias + moved).astype(weight.dtype))
        _set_weight(linear, (weight * scale).astype(weight.dtype))
        return bypass(node, affine.x)
    return False


def _reader(value: ir.Value) -> tuple[ir.Node | None, list[ir.Node]]:
    """The only node that computes with `value`, and what changes its shape on the way there: of each sample apart, to a row of a Gemm."""
    steps: list[ir.Node] = []
    while (user := only_user(value)) is not None and user.inputs[0] is value:
        perm, made = attribute(user, "perm"), user.outputs[0]
        if user.domain or user.op_type not in _SHAPES or (user.op_type == "Transpose" and (perm is None or perm[0] != 0)):
            return (user, steps) if not steps or user.op_type == "Gemm" else (None, [])
        if value.shape is None or made.shape is None or not value.shape or not made.shape or value.shape[0] != made.shape[0]:
            return None, []
        steps.append(user)
        value = made
    return None, []


def _through(vector: Vector, x: ir.Value, steps: Sequence[ir.Node]) -> Vector:
    """What a vector with one entry a channel of `x` is behind changes of shape: one entry for each element of a sample."""
    if not steps:
        return vector
    shape = static_shape(x)
    array = np.broadcast_to(vector.reshape(1, -1, *(1,) * (len(shape) - 2)), (1, *shape[1:]))
    for step in steps:
        moved = array.transpose(attribute(step, "perm")) if step.op_type == "Transpose" else array
        array = moved.reshape(1, *static_shape(step.outputs[0])[1:])
    return array.reshape(-1)


def _channels(x: ir.Value) -> int:
    return static_shape(x)[1] if rank(x) > 1 else 0


def scaled_rows(node: ir.Node, found: Linear, scale: Vector) -> Vector:
    """The weight of a linear node that gives `scale` [C_out] times its output, in the weight's dtype."""
    weight = constant(node.inputs[1])
    assert weight is not None
    if node.op_type == "ConvTranspose":  # weight [C_in, C_out / groups, ...]: each input channel has its group's outputs
        rows = weight.reshape(found.groups, weight.shape[0] // found.groups, weight.shape[1], -1)
        return np.asarray((rows * scale.reshape(found.groups, 1, -1, 1)).reshape(weight.shape).astype(weight.dtype))
    shape = [1] * weight.ndim
    shape[found.out_axis] = -1
    return np.asarray((weight * scale.reshape(shape)).astype(weight.dtype))


def affine_of(node: ir.Node, x: ir.Value, channels: int) -> Affine | None:
    """`node` as an affine map of `x` with one constant a channel (axis 1) of a float value, where it is one."""
    other = node.inputs[1] if node.inputs[0] is x else node.inputs[0]
    array = constant(other)
    if (
        other is x
        or array is None
        or x.shape is None
        or array.dtype.kind != "f"
        or (node.op_type == "Div" and node.inputs[1] is x)
    ):
        return None
    if x.shape != node.outputs[0].shape:  # the constant broadcasts x
        return None
    axes = len(x.shape)
    if array.ndim > axes or axes < 2:
        return None
    full = array.reshape((1,) * (axes - array.ndim) + array.shape)
    if any(length != 1 for axis, length in enumerate(full.shape) if axis != 1) or full.size not in (1, channels):
        return None
    value = np.broadcast_to(full.reshape(-1), (channels,)).astype(np.float64)
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Affine(x, value, zero)
    if node.op_type == "Div":
        return Affine(x, 1 / value, zero) if np.all(value != 0) else None
    if node.op_type == "Add":
        return Affine(x, one, value)
    return Affine(x, one, -value) if node.inputs[0] is x else Affine(x, -one, value)


def linear_of(node: ir.Node | None) -> Linear | None:
    """How `node` uses its weight, where it is a Conv, ConvTranspose or plain Gemm with constant weight."""
    if node is None or node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype.kind != "f":
        return None
    if node.op_type == "Gemm":
        if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0):
            return None
        out_axis = 0 if attribute(node, "transB", 0) else 1
        return Linear(out_axis, 1 - out_axis, 1, weight.shape[1 - out_axis], weight.shape[out_axis])
    groups = attribute(node, "group", 1)
    if node.op_type == "Conv":
        return Linear(0, 1, groups, weight.shape[1] * groups, weight.shape[0])
    return Linear(1, 0, groups, weight.shape[0], weight.shape[1] * groups)


def _bias(node: ir.Node, channels: int) -> Vector | None:
    """The bias as float64 [channels], zeros where it is absent, None where it is not one constant a channel."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    array = constant(value)
    if array is None or array.size not in (1, channels) or any(length != 1 for length in array.shape[:-1]):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)


def _set_weight(node: ir.Node, array: Vector) -> None:
    replace_constant(node, 1, array)


def _set_bias(node: ir.Node, array: Vector) -> None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        replace_constant(node, 2, array)
        return
    assert isinstance(node.graph, ir.Graph)
    weight = node.inputs[1]
    assert weight is not None
    node.resize_inputs(3)
    node.replace_input_with(2, add_constant(node.graph, f"{name_of(weight)}_bias", array))


def _unpadded(node: ir.Node) -> bool:
    return attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(attribute(node, "pads", ()))
