"""What a reader of one TFLite operator is given: its inputs as ONNX values, and how to append nodes and give outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.backends.tflite.layout import to_channels_first
from exporter.frontends.source import Array
from exporter.frontends.tflite.builder import GraphBuilder
from exporter.frontends.tflite.counting import needed
from exporter.frontends.tflite.file import Operator, Subgraph, Tensor, runs
from exporter.frontends.tflite.registry import readers
from exporter.graph.values import constant

__all__ = ["Reading", "first_axis", "read_operators", "same_padding"]

_RANKS: Final = (4, 5)  # tensors of these ranks may be channels-first
_ACTIVATIONS: Final = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}  # what the kernels of these operators apply
_BOUNDS: Final = {"RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0)}


class Reading:
    """One operator as its reader sees it: inputs as ONNX values, nodes to append, outputs to give.

    Raises ModelError EW-M009 from `refuse`, and where a parameter must be constant and is not.
    """

    def __init__(self, graph: GraphBuilder, operator: Operator, name: str) -> None:
        self._graph, self._operator, self._name = graph, operator, name
        self.kind, self.inputs, self.outputs = operator.kind, operator.inputs, operator.outputs

    def option(self, name: str, default: Any = 0) -> Any:
        """A field of the options table, `default` where the file has no table."""
        found = getattr(self._operator.options, name, default)
        return default if found is None else found

    def present(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] >= 0

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input as stored."""
        return self._tensor(index).shape

    def dtype(self, index: int = 0) -> str:
        """Stored dtype of an input, a numpy name."""
        return self._tensor(index).dtype

    def input_tensor(self, index: int) -> Tensor:
        return self._tensor(index)

    def output_tensor(self, index: int = 0) -> Tensor:
        return self._graph.tensor(self.outputs[index])

    def input(self, index: int, first: bool = False) -> ir.Value:
        """The real numbers of an input, in the stored order of axes or channels-first."""
        self._tensor(index)
        return self._graph.real(self.inputs[index], first)

    def prefers_first(self, index: int = 0) -> bool:
        """Whether an input was written channels-first."""
        handle = self.inputs[index]
        return self._graph.has(handle, True) and not self._graph.has(handle, False)

    def loose(self, index: int = 0) -> tuple[ir.Value, bool]:
        """An input in the order that it was written in, and whether that is channels-first."""
        first = self.prefers_first(index)
        return self.input(index, first), first

    def constant(self, index: int) -> Array | None:
        """The stored values of an input that is known now, or None."""
        if not self.present(index):
            return None
        stored = self._tensor(index).data
        return constant(self._graph.value(self.inputs[index])) if stored is None else stored

    def parameter(self, index: int) -> Array:
        """As `constant`, for an input that must be known."""
        found = self.constant(index)
        if found is None:
            raise self.refuse(f"its input {index} ({self._tensor(index).name}) is computed; only a constant is read")
        return found

    def ints(self, index: int) -> list[int]:
        return [int(value) for value in self.parameter(index).reshape(-1)]

    def weight(self, index: int, perm: Sequence[int]) -> ir.Value:
        """Input `index` transposed: at once where it is constant."""
        encoding, known = self._tensor(index).encoding, self.constant(index)
        if known is None:
            return self.op("Transpose", self.input(index), perm=tuple(perm))
        value = self._graph.constant(known.transpose(perm), self._tensor(index).name)
        if encoding is None:
            return value
        return self._graph.dequantized(value, encoding, None if encoding.axis is None else list(perm).index(encoding.axis))

    def aligned(self, *indices: int) -> tuple[list[ir.Value], bool]:
        """Inputs that are broadcast with each other, in one order of axes: channels-first where one was written so, if all can be."""
        rank = max(len(self.shape(index)) for index in indices)
        first = rank in _RANKS and any(self.prefers_first(index) for index in indices)
        first = first and all(len(self.shape(index)) in (0, rank) or self.constant(index) is not None for index in indices)
        return [self._lined_up(index, rank) if first else self.input(index) for index in indices], first

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Append an ONNX node of one output."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: ir.Value | None, outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Append an ONNX node of several outputs."""
        return self._graph.node(op_type, inputs, attributes, self._name, outputs)

    def const(self, array: Array) -> ir.Value:
        return self._graph.constant(array, f"{self._name}_constant")

    def int64(self, values: Sequence[int] | int) -> ir.Value:
        return self.const(np.asarray(values, np.int64))

    def give(self, value: ir.Value, index: int = 0, first: bool = False) -> None:
        """Output `index` is `value` behind the operator's fused activation, channels-first or in the stored order."""
        name = _ACTIVATIONS.get(int(self.option("fusedActivationFunction")))
        if name is None:
            raise self.refuse(f"its fused activation {self.option('fusedActivationFunction')} is not read")
        self._graph.give(self.outputs[index], self.activated(value, name), first, self._name)

    def activated(self, value: ir.Value, name: str) -> ir.Value:
        """`value` behind an activation by its TFLite name, NONE included."""
        if name in _BOUNDS:
            low, high = (self.const(np.asarray(bound, np.float32)) for bound in _BOUNDS[name])
            return self.op("Clip", value, low, high)
        return value if name == "NONE" else self.op("Relu", value)

    def subgraphs(self) -> tuple[Subgraph, ...]:
        """What the operator runs: condition and body, or both branches."""
        return tuple(self._graph.subgraphs[index] for index in runs(self._operator))

    def stored(self, index: int) -> ir.Value:
        """An input as it is stored, integers as such."""
        self._tensor(index)
        return self._graph.value(self.inputs[index])

    def entering(self, name: str, shape: Sequence[int], dtype: str) -> ir.Value:
        """A new input of a graph inside of this one."""
        return self._graph.entering(f"{self._name}/{name}", shape, dtype)

    def within(
        self, number: int, given: Sequence[ir.Value], nodes: list[ir.Node] | None = None, ends: Sequence[int] | None = None
    ) -> GraphBuilder:
        """Subgraph `number` of `subgraphs`, read on the values `given`, as far as its outputs or its tensors `ends` need it.

        Its nodes go into `nodes`, or here.
        """
        name = f"{self._name}/{number}"
        inner = self._graph.within(runs(self._operator)[number], given, name, self._graph.nodes if nodes is None else nodes)
        inner.graph = needed(inner.graph, inner.graph.outputs if ends is None else ends)
        read_operators(inner, f"{name}/")
        return inner

    def give_stored(self, value: ir.Value, index: int) -> None:
        """Output `index` is `value`, integers as such."""
        self._graph.give_stored(self.outputs[index], value, self._name)

    def refuse(self, why: str) -> ModelError:
        """The error that says why this operator cannot be read."""
        where = f"operator {self._name}, which writes {self.output_tensor().name}"
        return ModelError("EW-M009", f"the TFLite operator {self.kind} cannot be read in this form", where=where, why=why)

    def _tensor(self, index: int) -> Tensor:
        if not self.present(index):
            raise self.refuse(f"its input {index} is absent")
        return self._graph.tensor(self.inputs[index])

    def _lined_up(self, index: int, rank: int) -> ir.Value:
        """An input channels-first, a constant of fewer axes with all of them."""
        tensor = self._tensor(index)
        if len(tensor.shape) in (0, rank):
            return self.input(index, len(tensor.shape) == rank)
        full, known = (1,) * (rank - len(tensor.shape)) + tensor.shape, self.constant(index)
        if known is None or tensor.encoding is not None:
            return self.op("Transpose", self.op("Reshape", self.input(index), self.int64(full)), perm=to_channels_first(rank))
        return self._graph.constant(known.reshape(full).transpose(to_channels_first(rank)), tensor.name)


def read_operators(graph: GraphBuilder, prefix: str = "") -> None:
    """Read every operator of a builder's graph; names of nodes start with `prefix`. Raises ModelError EW-M009 for forms without a reader."""
    for index, operator in enumerate(graph.graph.operators):
        readers()[operator.kind](Reading(graph, operator, f"{prefix}{operator.kind.lower()}_{index}"))


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding before and behind of TensorFlow's SAME: the output has ceil(size / stride) entries, the odd one goes behind."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def first_axis(axis: int, rank: int) -> int:
    """An axis of a stored tensor as an axis of the same tensor channels-first."""
    return to_channels_first(rank).index(axis % rank)
