"""Run a plan in torch: each operator's own torch function on many samples at once, each encoded value rounded to its encoding behind it.

The numbers are those of the artifact up to a runtime's own rounding of accumulators. Constants are rounded too, biases corrected.
What runs is a `Form` of the graph: the float one, the one that a plan makes of it (`Planned`), or one whose roundings are being learned.
Needs the `torch` extra.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from exporter.graph.run import Session
from exporter.graph.values import constant, fused_into, is_constant, name_of
from exporter.ops.base import Operator, Refused, operator_of
from exporter.quantization.apply import encode_constant, read_encoding, runs_in_integers, stores_integers
from exporter.quantization.plan import Encoding, Plan, integer_range

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Float", "Form", "Planned", "compute", "fake_quantize", "simulate"]


class Form(Protocol):
    """What becomes of the values of a graph as it runs. Activations are [samples, *shape], constants are of their own shape."""

    def constant(self, node: ir.Node, index: int) -> Tensor:
        """The constant input `index` as the node reads it."""
        ...

    def read(self, node: ir.Node, index: int, tensor: Tensor) -> Tensor:
        """The computed input `index` as the node reads it, from how it is stored."""
        ...

    def store(self, value: ir.Value, tensor: Tensor) -> Tensor:
        """A value as it is stored, from how its node computed it."""
        ...


class Float:
    """The graph as it is."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._constants: dict[ir.Value, Tensor] = {}

    def constant(self, node: ir.Node, index: int) -> Tensor:
        import torch

        value = node.inputs[index]
        assert value is not None
        if value not in self._constants:
            self._constants[value] = torch.from_numpy(np.array(constant(value))).to(self.device)
        return self._constants[value]

    def read(self, node: ir.Node, index: int, tensor: Tensor) -> Tensor:
        return tensor

    def store(self, value: ir.Value, tensor: Tensor) -> Tensor:
        return tensor


class Planned(Float):
    """The graph with all of a plan's roundings in force.

    Attributes:
        plan: the plan; constants are taken from it when they are first read.
    """

    def __init__(self, plan: Plan, device: str = "cpu") -> None:
        super().__init__(device)
        self.plan = plan
        self._encoded: dict[tuple[ir.Node, int], Tensor] = {}

    def constant(self, node: ir.Node, index: int) -> Tensor:
        import torch

        if not stores_integers(node, self.plan) or read_encoding(node, index, self.plan) is None:
            return super().constant(node, index)
        if (node, index) not in self._encoded:
            integers, encoding = encode_constant(node, index, self.plan)
            self._encoded[node, index] = torch.from_numpy(encoding.dequantize(integers)).to(self.device)
        return self._encoded[node, index]

    def read(self, node: ir.Node, index: int, tensor: Tensor) -> Tensor:
        wanted = read_encoding(node, index, self.plan) if runs_in_integers(node, self.plan) else None
        value = node.inputs[index]
        assert value is not None
        if wanted is None or (wanted == self.plan.encodings.get(name_of(value)) and self._is_rounded(value)):
            return tensor
        return fake_quantize(tensor, wanted)

    def store(self, value: ir.Value, tensor: Tensor) -> Tensor:
        encoding = self.plan.encodings.get(name_of(value))
        return tensor if encoding is None or not self._is_rounded(value) else fake_quantize(tensor, encoding)

    def _is_rounded(self, value: ir.Value) -> bool:
        """Whether the node that writes the value runs in integers; what a float node writes is rounded where integers read it."""
        producer = value.producer()
        return producer is not None and runs_in_integers(fused_into(producer) or producer, self.plan)


def simulate(model: ir.Model, plan: Plan, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """All computed values of one sample as the plan rounds them, dequantized, by value name.

    Args:
        model: the graph that the plan was made for.
        inputs: float inputs by name.
    """
    import torch

    values = {name: torch.from_numpy(np.ascontiguousarray(array))[None] for name, array in inputs.items()}
    with torch.no_grad():
        compute(model.graph, values, Planned(plan))
    return {name: np.asarray(tensor[0]) for name, tensor in values.items()}


def compute(nodes: Iterable[ir.Node], values: MutableMapping[str, Tensor], form: Form) -> None:
    """Run nodes in their order on many samples at once; `values`, [samples, *shape] by name, takes in what they compute.

    A node whose operator has no torch facet runs in onnxruntime, and no gradient goes through it.
    """
    for node in nodes:
        given = [
            None
            if value is None
            else form.constant(node, i)
            if is_constant(value)
            else form.read(node, i, values[name_of(value)])
            for i, value in enumerate(node.inputs)
        ]
        moving = [index for index, value in enumerate(node.inputs) if value is not None and not is_constant(value)]
        count = len(next(iter(values.values())))
        for value, result in zip(node.outputs, _outputs(node, given, moving, count), strict=False):
            if value.name:
                values[value.name] = form.store(value, result)


def fake_quantize(tensor: Tensor, encoding: Encoding, factor: Tensor | None = None) -> Tensor:
    """The tensor rounded to an encoding of one scale (ties to even) and back, its scale times `factor`.

    Gradients pass where nothing is clipped; that of the factor is the one of Esser et al. 2020, "Learned Step Size Quantization".
    """
    import torch

    low, high = (bound - encoding.zero_point[0] for bound in integer_range(encoding.dtype))
    scale = torch.tensor(encoding.scale[0], dtype=torch.float32, device=tensor.device)
    scale = scale if factor is None else scale * factor
    steps = torch.clamp(tensor / scale, low, high)
    return (steps + (torch.round(steps) - steps).detach()) * scale


def _outputs(node: ir.Node, given: Sequence[Tensor | None], moving: Sequence[int], count: int) -> Sequence[Tensor]:
    """Outputs of a node, [samples, *shape]; the inputs `moving` have that axis in front."""
    import torch

    operator = _operator(node)
    if operator is None:
        return _elsewhere(node, given, moving, count)

    def once(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = list(given)
        for index, tensor in zip(moving, tensors, strict=True):
            inputs[index] = tensor
        return tuple(operator.torch(node, inputs))

    batches: list[Any] = [given[index] for index in moving]
    if not batches:
        return [result.expand(count, *result.shape) for result in once()]
    try:
        return torch.func.vmap(once)(*batches)
    except RuntimeError:  # a function that looks at the numbers themselves takes one sample at a time
        results = [once(*sample) for sample in zip(*batches, strict=True)]
        return [torch.stack(parts) for parts in zip(*results, strict=True)]


def _operator(node: ir.Node) -> Operator | None:
    try:
        found = operator_of(node)
    except Refused:
        return None
    return found if found.has("torch") else None


def _elsewhere(node: ir.Node, given: Sequence[Tensor | None], moving: Sequence[int], count: int) -> Sequence[Tensor]:
    """The node run by onnxruntime, sample by sample."""
    import torch

    session, names = _session(node), [value.name for value in node.outputs if value.name]
    results = []
    for sample in range(count):
        feed = {
            name_of(value): np.asarray((tensor[sample] if index in moving else tensor).detach().cpu())
            for index, (value, tensor) in enumerate(zip(node.inputs, given, strict=True))
            if value is not None and tensor is not None
        }
        results.append(dict(zip(names, session(names, feed), strict=True)))
    device = next((tensor.device for tensor in given if tensor is not None), None)
    found = {name: torch.from_numpy(np.stack([np.asarray(result[name]) for result in results])) for name in names}
    return [found[value.name].to(device) if value.name else torch.empty(0) for value in node.outputs]


@cache
def _session(node: ir.Node) -> Session:
    proto = onnx.GraphProto(name="node")
    proto.node.append(ir.serde.serialize_node(node))
    given = {name_of(value): value for value in node.inputs if value is not None}
    proto.input.extend(ir.serde.serialize_value(value) for value in given.values())
    proto.output.extend(ir.serde.serialize_value(value) for value in node.outputs if value.name)
    opset = onnx.helper.make_opsetid("", 21 if node.version is None else node.version)
    return Session(onnx.helper.make_model(proto, opset_imports=[opset], ir_version=10).SerializeToString())
