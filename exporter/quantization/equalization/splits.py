"""Hidden channels far wider than the others get a branch of their own, in float.

::

    x -> Gemm -> Gelu -> Gemm -> y        x --+--> Gemm(rows of K are 0) -> Gelu -> Gemm(columns of K are 0) --> Add -> y
                                              +--> Gemm(rows K) ----------> Gelu -> Gemm(columns K) ---------> /

Transformers have hidden channels that are a hundred times as wide as the rest at one token, and carry it to one channel of the residual stream
(Sun et al. 2024, "Massive Activations in Large Language Models"; Dettmers et al. 2022, "LLM.int8()", takes them out of the product). One
encoding for all has no steps left for the others; no scale mends that, as the activation between the products lets none through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.edit import replace_constant
from exporter.graph.float_sums import mark_float_sums, runs_in_float
from exporter.graph.rewriter import Names
from exporter.graph.values import FLOAT, attribute, constant, consumers, is_constant, name_of, rank, static_shape
from exporter.quantization.equalization.restated import Change, Rewritten

__all__ = ["Bottleneck", "bottlenecks", "split"]

Array = np.ndarray[Any, Any]

_REASON: Final = "a branch for hidden channels far wider than the others"
_UNARY: Final = frozenset(
    ("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Erf", "Identity")
)
_SHAPES: Final = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


@dataclass(frozen=True)
class Bottleneck:
    """Two products with nothing but functions of single elements between them.

    Attributes:
        name: of the value that the second one reads.
        first, second: the products.
        between: the functions in order, among them sums with a constant a channel.
        axis: of the channels in what the second one reads; count: how many there are.
    """

    name: str
    first: ir.Node
    second: ir.Node
    between: tuple[ir.Node, ...]
    axis: int
    count: int


def bottlenecks(graph: ir.Graph) -> list[Bottleneck]:
    """Those whose second product is read in float alone: what a branch adds to it needs no encoding then."""
    return [found for node in graph if (found := _bottleneck(node)) is not None]


def split(model: ir.Model, channels: Mapping[str, Sequence[int]]) -> Rewritten:
    """A copy of a legalized graph with a branch for some channels of bottlenecks, by the bottleneck's name.

    Raises ModelError EW-Q002 where the graph has no such bottleneck.
    """
    if not channels:
        return Rewritten(model)
    done = Rewritten(model.clone())
    names = Names(done.model.graph)
    known = {found.name: found for found in bottlenecks(done.model.graph)}
    for name, indices in channels.items():
        found = known.get(name)
        if found is None or not all(0 <= index < found.count for index in indices):
            raise ModelError(
                "EW-Q002",
                f"the plan splits channels of {name}, where the graph has none such",
                where=name,
                fix="plan this model again",
            )
        _branch(found, list(indices), names, done)
    mark_float_sums(done.model)
    return done


def _bottleneck(second: ir.Node) -> Bottleneck | None:
    inner = _axes(second)
    hidden = second.inputs[0] if inner is not None else None
    if inner is None or hidden is None or is_constant(hidden) or not _read_in_float(second.outputs[0]):
        return None
    axis = 1 if second.op_type != "MatMul" else rank(hidden) - 1
    between: list[ir.Node] = []
    value = hidden
    while (node := value.producer()) is not None and len(consumers(value)) == 1 and not value.is_graph_output():
        if _axes(node) is not None:
            if static_shape(node.outputs[0]) != static_shape(hidden):
                return None
            return Bottleneck(name_of(hidden), node, second, tuple(reversed(between)), axis, static_shape(hidden)[axis])
        if node.op_type in _UNARY and not any(entry is not None and not is_constant(entry) for entry in node.inputs[1:]):
            between.append(node)
        elif node.op_type == "Add" and (index := _bias_of(node, axis)) is not None:
            between.append(node)
            value = node.inputs[1 - index]  # type: ignore[assignment]
            continue
        elif node.op_type not in _SHAPES:
            return None
        value = node.inputs[0]  # type: ignore[assignment]
    return None


def _axes(node: ir.Node) -> tuple[int, int] | None:
    """Axes of inputs and outputs in the constant weight of a product, where it is one that can be taken apart."""
    weight = constant(node.inputs[1]) if node.op_type in ("Conv", "Gemm", "MatMul") and not node.domain else None
    if weight is None or weight.dtype != np.float32 or attribute(node, "group", 1) != 1 or attribute(node, "transA", 0):
        return None
    if any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")) or (node.op_type != "Conv" and weight.ndim != 2):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
        if bias is None or bias.ndim != 1:
            return None
    return (1, 0) if node.op_type == "Conv" or attribute(node, "transB", 0) else (0, 1)


def _bias_of(node: ir.Node, axis: int) -> int | None:
    """The constant of a sum that has an entry a channel, where its other addend is computed and of the sum's shape."""
    for index in (0, 1):
        array, other = constant(node.inputs[index]), node.inputs[1 - index]
        shape = static_shape(node.outputs[0])
        if array is None or other is None or static_shape(other) != shape or len(shape) <= axis:
            continue
        if array.ndim == 1 and axis == len(shape) - 1 and array.size == shape[axis]:
            return index
    return None


def _read_in_float(value: ir.Value) -> bool:
    """Whether all that reads a value, or it in another shape or with a constant added, runs in float."""
    readers = consumers(value)
    if not readers or value.is_graph_output():
        return False
    for node in readers:
        passed = node.op_type in _SHAPES or (node.op_type == "Add" and any(is_constant(entry) for entry in node.inputs))
        if not runs_in_float(node) and not (passed and _read_in_float(node.outputs[0])):
            return False
    return True


def _branch(found: Bottleneck, channels: list[int], names: Names, done: Rewritten) -> None:
    first, second = found.first, found.second
    value = _sliced(first, channels, outputs=True, names=names, source=first.inputs[0])
    for node in found.between:
        inputs = [value if entry is not None and not is_constant(entry) else entry for entry in node.inputs]
        if node.op_type == "Add":
            place = _constant_index(node)
            inputs[place] = _constant(node, np.asarray(constant(node.inputs[place]))[channels], names)
        value = _twin(node, inputs, static_shape(value), names)
    branch = _sliced(second, channels, outputs=False, names=names, source=value)
    done.changed.update(_changes(found, channels))
    _clear(first, channels, outputs=True)
    for node in found.between:
        if node.op_type == "Add":
            place = _constant_index(node)
            replace_constant(node, place, _cleared(constant(node.inputs[place]), channels, 0))
    _clear(second, channels, outputs=False)
    whole = second.outputs[0]
    readers = tuple(whole.uses())
    total = _twin(second, [whole, branch], static_shape(whole), names, op_type="Add")
    for reader, index in readers:
        reader.replace_input_with(index, total)
    done.copies[name_of(total)] = name_of(whole)
    assert isinstance(second.graph, ir.Graph)
    second.graph.sort()


def _changes(found: Bottleneck, channels: Sequence[int]) -> Iterator[tuple[str, Change]]:
    """What the values from the first product to the second one's output become."""
    whole, value = name_of(found.second.outputs[0]), found.second.inputs[0]
    yield whole, Change(whole, None)
    while value is not None:
        known = found.axis == 1 and rank(value) == rank(found.first.outputs[0])
        yield name_of(value), Change(name_of(value), _without(channels) if known else None)
        maker = value.producer()
        if maker is None or maker is found.first:
            return
        value = next(entry for entry in maker.inputs if entry is not None and not is_constant(entry))


def _constant_index(node: ir.Node) -> int:
    return next(index for index, value in enumerate(node.inputs) if is_constant(value))


def _without(channels: Sequence[int]) -> Callable[[Array], Array]:
    def extremes(before: Array) -> Array:
        after = np.array(before, np.float64)
        after[list(channels)] = np.nan
        return after

    return extremes


def _sliced(node: ir.Node, channels: list[int], *, outputs: bool, names: Names, source: ir.Value | None) -> ir.Value:
    """A product of the chosen output (with their biases) or input channels (without bias) alone."""
    axes, weight = _axes(node), constant(node.inputs[1])
    assert axes is not None
    assert weight is not None
    inputs = [source, _constant(node, weight.take(channels, axis=axes[outputs]), names)]
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if outputs and bias is not None:
        inputs.append(_constant(node, bias[channels], names))
    shape = list(static_shape(node.outputs[0]))
    if outputs:
        shape[-1 if node.op_type == "MatMul" else 1] = len(channels)
    return _twin(node, inputs, shape, names)


def _clear(node: ir.Node, channels: list[int], *, outputs: bool) -> None:
    axes = _axes(node)
    assert axes is not None
    replace_constant(node, 1, _cleared(constant(node.inputs[1]), channels, axes[outputs]))
    if outputs and len(node.inputs) > 2 and node.inputs[2] is not None:
        replace_constant(node, 2, _cleared(constant(node.inputs[2]), channels, 0))


def _cleared(array: Array | None, channels: list[int], axis: int) -> Array:
    assert array is not None
    cleared = np.array(array)
    np.moveaxis(cleared, axis, 0)[channels] = 0
    return cleared


def _constant(node: ir.Node, array: Array, names: Names) -> ir.Value:
    assert isinstance(node.graph, ir.Graph)
    name = names.fresh(f"{node.name}/branch.constant")
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    node.graph.register_initializer(value)
    return value


def _twin(node: ir.Node, inputs: Sequence[ir.Value | None], shape: Sequence[int], names: Names, op_type: str = "") -> ir.Value:
    """A node like `node` on other inputs, in float."""
    name = names.fresh(f"{node.name}/branch")
    result = ir.Value(name=name, shape=ir.Shape(shape), type=node.outputs[0].type)
    attributes = () if op_type else node.attributes.values()
    twin = ir.Node(node.domain, op_type or node.op_type, inputs, attributes, outputs=[result], name=name)
    twin.metadata_props.update({FLOAT: _REASON})
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_after(node, twin)
    return result
