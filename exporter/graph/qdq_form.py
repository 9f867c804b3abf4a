"""A quantized model in one form: every rounding to integers is a QuantizeLinear with its DequantizeLinears, all else is float.

::

    QLinearConv(x, w, ...) -> MaxPool (uint8) -> Dequantize      x -> D -> Conv -> Q -> D -> MaxPool
    Dequantize -> Reshape -> Quantize (same) -> Dequantize       Dequantize -> Reshape

Pairs that stay are marked `KEPT`: `quantization.given` makes encodings of them once the graph is legal, and no rule rewrites them before.

Requires: a canonical graph. Ensures: between a marked QuantizeLinear and its readers stands nothing but marked DequantizeLinear or the
graph's boundary. What cannot be said so (computed scales, wide integers as values) stays as it is, to be computed in float.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from exporter.graph.encoded import pair_encoding, set_encoding
from exporter.graph.rewriter import Names
from exporter.graph.values import KEPT, attribute, constant, name_of, static_shape
from exporter.quantization.plan import Encoding

__all__ = ["is_quantized", "moves", "qdq_form"]

# Operators that move elements, or pick the greatest: rounding before them and behind them is the same.
_MOVES: Final = frozenset(
    (
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherND",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)
_PAIR: Final = frozenset(("QuantizeLinear", "DequantizeLinear"))
_LINEAR: Final = frozenset(("QLinearConv", "QLinearMatMul"))
_ACTIVATIONS: Final = frozenset(("int8", "uint8", "int16"))  # of int16, with zero point 0 alone


def moves(node: ir.Node) -> bool:
    """Whether a node of real numbers gives none that it is not given: rounding before it and behind it is the same.

    Zero, which every encoding has, counts as given.
    """
    if node.op_type == "Pad" and not node.domain:
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        known = constant(fill)
        return fill is None or (known is not None and not known.any())
    return node.op_type in _MOVES and not node.domain


def is_quantized(model: ir.Model) -> bool:
    """Whether the model rounds values to integers of 8 bits somewhere."""
    return any(node.op_type in _PAIR | _LINEAR and not node.domain for node in model.graph)


def qdq_form(model: ir.Model) -> ir.Model:
    """A copy of `model` in the form above; `model` itself where nothing is quantized."""
    if not is_quantized(model):
        return model
    model = model.clone()
    former = _Former(model.graph)
    former.form()
    common.RemoveUnusedNodesPass()(model)
    former.mark()
    return model


class _Former:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph, self._names = graph, Names(graph)

    def form(self) -> None:
        for node in list(self._graph):
            if node.op_type in _LINEAR and not node.domain:
                self._expand(node)
        for value in tuple(self._graph.outputs):
            self._close(value)
        while self._raise_all():
            pass
        for node in list(self._graph):
            if node.op_type == "QuantizeLinear" and not node.domain:
                self._drop_repeated(node)

    def mark(self) -> None:
        for quantize, readers in self._pairs():
            for kept in (quantize, *readers):
                if kept is not None:
                    kept.metadata_props[KEPT] = "1"

    # --- QLinear operators --------------------------------------------------------------------------------------------

    def _expand(self, node: ir.Node) -> None:
        """``Q(op(D(x), D(w)))`` in the place of an operator that has the scales among its inputs."""
        conv = node.op_type == "QLinearConv"
        if any(constant(node.inputs[index]) is None for index in (1, 2, 4, 5, 6, 7)):
            return
        x, w, bias = node.inputs[0], node.inputs[3], node.inputs[8] if len(node.inputs) > 8 else None
        if any(value is None or value.dtype is None or value.dtype.name not in ("INT8", "UINT8") for value in (x, w)):
            return
        scales = [np.asarray(constant(node.inputs[index]), np.float32) for index in (1, 4, 6)]
        if scales[0].size > 1 or scales[2].size > 1 or (scales[1].size > 1 and not conv and len(static_shape(w)) != 2):  # type: ignore[arg-type]
            return
        parts = [self._real(node, node.inputs[:3], 0), self._real(node, node.inputs[3:6], 0 if conv else 1)]
        if bias is not None:
            factor = np.atleast_1d(scales[0].reshape(()) * scales[1].reshape(-1)).astype(np.float32)
            given = constant(bias)
            if given is None:
                return
            axis = None if factor.size == 1 else 0
            encoding = Encoding("int32", tuple(factor.tolist()), (0,) * factor.size, axis)
            parts.append(self._constant(f"{name_of(node.outputs[0])}/bias", encoding.dequantize(given), encoding))
        attributes = {name: attribute(node, name) for name in node.attributes}
        y = node.outputs[0]
        real = self._node(node, "Conv" if conv else "MatMul", parts, y, ir.DataType.FLOAT, attributes)
        rounded = self._node(node, "QuantizeLinear", [real, node.inputs[6], node.inputs[7]], y, y.dtype, {})
        self._take_over(node, rounded)

    def _real(self, node: ir.Node, given: Sequence[ir.Value | None], axis: int) -> ir.Value:
        """The numbers that integers with a scale and a zero point stand for; of a constant at once, with their encoding."""
        value, scale, point = given
        assert value is not None
        scales, zeros = constant(scale), constant(point)
        several = scales is not None and scales.size > 1
        if several and scales is not None and zeros is not None and zeros.size == 1:
            point = self._constant(f"{name_of(value)}/zero_point", np.broadcast_to(zeros.reshape(()), scales.shape))
        made = self._node(
            node, "DequantizeLinear", [value, scale, point], value, ir.DataType.FLOAT, {"axis": axis} if several else {}
        )
        return self._folded(made)

    def _folded(self, made: ir.Value) -> ir.Value:
        node = made.producer()
        assert node is not None
        array, encoding = constant(node.inputs[0]), pair_encoding(node)
        return made if array is None or encoding is None else self._constant(name_of(made), encoding.dequantize(array), encoding)

    # --- integers that are moved --------------------------------------------------------------------------------------

    def _close(self, value: ir.Value) -> None:
        """Behind an output of moved integers: the same integers by way of the real numbers."""
        source = value
        while (mover := source.producer()) is not None and mover.op_type in _MOVES and mover.inputs[0] is not None:
            source = mover.inputs[0]
        quantize, last = source.producer(), value.producer()
        if source is value or quantize is None or quantize.op_type != "QuantizeLinear" or last is None:
            return
        encoding = pair_encoding(quantize)
        if encoding is None or encoding.axis is not None:
            return
        parameters = quantize.inputs[1:3]
        real = self._node(None, "DequantizeLinear", [value, *parameters], value, ir.DataType.FLOAT, {})
        rounded = self._node(None, "QuantizeLinear", [real, *parameters], value, value.dtype, {})
        name = name_of(value)
        value.name, rounded.name = self._names.fresh(f"{name}/moved"), name
        self._graph.outputs[list(self._graph.outputs).index(value)] = rounded

    def _raise_all(self) -> int:
        return sum(self._raise(node) for node in list(self._graph) if node.op_type == "DequantizeLinear" and not node.domain)

    def _raise(self, node: ir.Node) -> bool:
        """``D(move(q))`` is ``move(D(q))``."""
        value, encoding = node.inputs[0], pair_encoding(node)
        mover = value.producer() if value is not None else None
        if (
            value is None
            or mover is None
            or mover.op_type not in _MOVES
            or mover.domain
            or encoding is None
            or encoding.axis is not None
        ):
            return False
        if mover.op_type == "MaxPool" and len([output for output in mover.outputs if output.uses()]) > 1:
            return False
        count = len(mover.inputs) if mover.op_type == "Concat" else 1
        inputs: list[ir.Value | None] = []
        for data in mover.inputs[:count]:
            made = self._node(node, "DequantizeLinear", [data, *node.inputs[1:]], data, ir.DataType.FLOAT, {})
            inputs.append(self._folded(made))
        twin = ir.Node(
            "", mover.op_type, [*inputs, *mover.inputs[count:]], mover.attributes.values(), num_outputs=len(mover.outputs)
        )
        twin.name = self._names.fresh(f"{mover.name}/real")
        for old, new in zip(mover.outputs, twin.outputs, strict=True):
            new.shape, new.type = old.shape, ir.TensorType(ir.DataType.FLOAT) if old.dtype == value.dtype else old.type
            new.name = self._names.fresh(f"{name_of(value)}/real") if old.name else None
        self._graph.insert_before(node, twin)
        self._take_over(node, twin.outputs[mover.outputs.index(value)])
        return True

    def _drop_repeated(self, node: ir.Node) -> None:
        """A second rounding behind moves, to the encoding that their numbers have already, is none."""
        encoding, x = pair_encoding(node), node.inputs[0]
        source = x
        while (mover := source.producer() if source is not None else None) is not None and mover.op_type in _MOVES:
            if mover.op_type == "Concat":
                return
            source = mover.inputs[0]
        before = source.producer() if source is not None else None
        if source is x or x is None or encoding is None or before is None or before.op_type != "DequantizeLinear":
            return
        if pair_encoding(before) != encoding or node.outputs[0].is_graph_output():
            return
        for reader, _ in tuple(node.outputs[0].uses()):
            if (
                reader.op_type == "DequantizeLinear"
                and pair_encoding(reader) == encoding
                and not reader.outputs[0].is_graph_output()
            ):
                reader.outputs[0].replace_all_uses_with(x)

    # --- pairs --------------------------------------------------------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[ir.Node | None, Sequence[ir.Node]]]:
        """Each QuantizeLinear (None: the integers are a graph input) with its readers, all of one encoding of a whole tensor."""
        quantized = [node for node in self._graph if node.op_type == "QuantizeLinear" and not node.domain]
        integers = [(None, value) for value in self._graph.inputs] + [(node, node.outputs[0]) for node in quantized]
        for quantize, value in integers:
            readers = [node for node, _ in value.uses()]
            if any(node.op_type != "DequantizeLinear" or node.domain for node in readers):
                continue
            found = {pair_encoding(node) for node in (*readers, *([quantize] if quantize is not None else []))}
            encoding = next(iter(found)) if len(found) == 1 else None
            real = quantize.inputs[0] if quantize is not None else None
            floats = [node.outputs[0].dtype for node in readers] + ([real.dtype] if real is not None else [])
            if encoding is None or encoding.axis is not None or encoding.dtype not in _ACTIVATIONS:
                continue
            if encoding.dtype == "int16" and encoding.zero_point != (0,):
                continue
            if (readers or value.is_graph_output()) and set(floats) <= {ir.DataType.FLOAT}:
                yield quantize, readers

    # --- editing ------------------------------------------------------------------------------------------------------

    def _node(
        self,
        before: ir.Node | None,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Value | None,
        dtype: ir.DataType | None,
        attributes: dict[str, Any],
    ) -> ir.Value:
        """A new node in front of another, or at the end, whose output has the shape of `like`."""
        assert like is not None
        assert dtype is not None
        made = ir.node(op_type, list(inputs), attributes, name=self._names.fresh(f"{name_of(like)}/{op_type}"))
        output = made.outputs[0]
        output.name, output.type = self._names.fresh(f"{made.name}:0"), ir.TensorType(dtype)
        output.shape = ir.Shape(like.const_value.numpy().shape if like.const_value is not None else static_shape(like))
        if before is not None:
            made.metadata_props.update(before.metadata_props)
            self._graph.insert_before(before, made)
        else:
            self._graph.append(made)
        return output

    def _constant(self, name: str, array: np.ndarray[Any, Any], encoding: Encoding | None = None) -> ir.Value:
        title = self._names.fresh(name)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=title)
        value = ir.Value(name=title, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        if encoding is not None:
            set_encoding(value, encoding)
        return value

    def _take_over(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` be the output of `node`, by its name, and remove the node."""
        old, title = node.outputs[0], node.outputs[0].name
        output = old.is_graph_output()
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        old.name = None
        if output:
            value.name = title
        self._graph.remove(node, safe=True)
