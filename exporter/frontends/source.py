"""What every frontend gives: the model as a graph, the original to compare with, and what it takes and returns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import onnx_ir as ir

from calibration import Preprocess
from diagnostics import ModelError
from exporter.graph.values import source_line, static_shape

__all__ = ["Array", "Reference", "Signature", "Source", "fingerprint", "refuse_bad_weights", "signatures"]

Array = np.ndarray[Any, Any]

_FLOATS: Final = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Signature:
    """Name, static shape and numpy dtype name of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Reference(Protocol):
    """Runs the original model, untouched: arrays by input name in, arrays by output name out."""

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Source:
    """A loaded model.

    Attributes:
        name: short name, from the file or callable; fit for a file name.
        kind: which frontend read it.
        model: the canonical graph (`exporter.graph.passes.canonicalize`).
        reference: runs the original.
        sha256: of the file's bytes (external data included), or of the traced graph with its weights.
        inputs: in the model's order, float32 NCHW as a rule.
        outputs: in the model's order.
        preprocess: how a sample becomes an input, where the source says so.
        example: example inputs, where the source has them.
        notes: what a user must know of how the graph differs from the file.
    """

    name: str
    kind: Literal["torch", "onnx", "tflite", "keras"]
    model: ir.Model
    reference: Reference
    sha256: str
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    preprocess: Preprocess | None = None
    example: Mapping[str, Array] | None = None
    notes: tuple[str, ...] = ()


def signatures(values: Sequence[ir.Value]) -> tuple[Signature, ...]:
    """Signatures of graph inputs or outputs with static shapes. Raises ModelError EW-M006 for a dynamic or untyped one."""
    found = []
    for value in values:
        try:
            shape = static_shape(value)
        except ValueError as error:
            raise ModelError("EW-M006", str(error), fix="give the inputs' shapes with --shape") from error
        if value.dtype is None:
            raise ModelError("EW-M007", f"the dtype of {value.name!r} is unknown", where="the model's inputs and outputs")
        found.append(Signature(value.name or "", shape, value.dtype.numpy().name))
    return tuple(found)


def refuse_bad_weights(model: ir.Model) -> None:
    """Raise ModelError EW-M005 where a constant of the graph holds NaN, or a tensor of several elements holds infinity.

    A single infinite element is a bound (of a clamp or a mask), not a weight.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            users = [node for node, _ in value.uses()]
            _refuse_bad(value.name or "", value.const_value, users[0] if users else None)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR:
                    _refuse_bad(node.outputs[0].name or "", attribute.value, node)


def _refuse_bad(name: str, tensor: ir.TensorProtocol | None, user: ir.Node | None) -> None:
    if tensor is None or tensor.dtype not in _FLOATS:
        return
    array = np.asarray(tensor.numpy())
    if np.isfinite(array).all():
        return
    nans, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if nans or array.size > 1:
        where = "" if user is None else f"node {user.name or user.op_type} ({user.op_type}) {source_line(user)}".rstrip()
        raise ModelError(
            "EW-M005",
            f"the weight {name!r} holds {nans} NaN and {infinite} infinite values",
            where=where,
            fix="look at the training run or the conversion that wrote this model",
        )


def fingerprint(model: ir.Model) -> str:
    """sha256 of what the graph computes: operators, attributes, names and weights, without metadata such as file paths."""
    digest = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(f"{value.name}:{value.dtype}:{value.shape}\n".encode())
    for node in model.graph.all_nodes():
        names = [value.name if value is not None else None for value in node.inputs]
        attributes = sorted((name, _attribute_text(attribute)) for name, attribute in node.attributes.items())
        digest.update(f"{node.domain}.{node.op_type} {names} {[value.name for value in node.outputs]} {attributes}\n".encode())
    for name, value in sorted(model.graph.initializers.items()):
        if value.const_value is not None:
            digest.update(f"{name}:{value.const_value.dtype}:{value.const_value.shape}\n".encode())
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def _attribute_text(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        return f"{attribute.value.dtype}{attribute.value.shape}{hashlib.sha256(attribute.value.tobytes()).hexdigest()}"
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "graph"  # the nodes of subgraphs are visited themselves
    return str(attribute.value)
