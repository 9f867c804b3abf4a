"""Cut a QDQ model into its layers: find the quantized values that a TFLite artifact also holds, and make each an input and an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from exporter.quantization.plan import Encoding
from exporter.verification.runner import to_channels_first

__all__ = ["Point", "cut_layers", "encoding_of", "find_points", "names_of_keys", "operators_before", "partner"]

Array = np.ndarray[Any, Any]

_QUANTIZED: Final = "_quantized"
# An int8 integer q and the uint8 integer q + 128 mean the same number; so it is with 16 bits.
_OFFSETS: Final = {"uint8": 128, "uint16": 32768}
_INDEX_AND_NAME: Final = ":"  # the runtime tells tensors of one name apart as "index:name"


@dataclass(frozen=True)
class Point:
    """A quantized value that both artifacts hold.

    Attributes:
        tensor: its name in the QDQ model; `fed` the name of the input that replaces it for its readers.
        value: the canonical value's name.
        op: operators between the quantized inputs and this value, joined by "+"; "" for an integer graph input.
        source: key of the TFLite tensor.
        dtype: in the QDQ model.
        offset: what is added to the TFLite integers to get those of the QDQ model.
        channels_last: whether the TFLite tensor is stored so.
        shape: in the QDQ model.
    """

    tensor: str
    value: str
    op: str
    source: str
    dtype: str
    offset: int
    channels_last: bool
    shape: tuple[int, ...]

    @property
    def fed(self) -> str:
        return f"{self.tensor}_fed"

    def of_tflite(self, tensors: Mapping[str, Array]) -> Array:
        """The QDQ model's integers of this value, from the tensors of a run of the TFLite artifact."""
        integers = tensors[self.source]
        if self.channels_last:
            integers = to_channels_first(integers)
        return (integers.astype(np.int32) + self.offset).astype(self.dtype)


def find_points(
    model: Any, tensors: Mapping[str, Array], encodings: Mapping[str, Encoding], layouts: Mapping[str, str]
) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """Quantized values of the QDQ model (an `onnx.ModelProto`) that the TFLite artifact holds too, in execution order.

    A value ``v`` is ``v_quantized`` in the QDQ model (or ``v``, an integer input or output). In TFLite it is ``v``, or ``v_quantized``
    or ``v_quantized_channels_last`` where ``v`` is a graph input or output of another form. A pair needs equal encodings.
    The second result names the values without a partner.
    """
    import onnx

    graph = model.graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    shapes = _shapes(graph)
    producers = {name: node for node in graph.node for name in node.output}
    entrances = {entry.name for entry in graph.input}
    points: dict[str, Point] = {}
    alone: list[str] = []
    taken: set[str] = set()
    by_name = names_of_keys(tensors)
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            tensor, op = node.output[0], operators_before(node, producers)
        elif node.op_type == "DequantizeLinear" and node.input[0] in entrances:
            tensor, op = node.input[0], ""
        else:
            continue
        encoding = encoding_of(node, constants)
        if tensor in points or encoding is None or tensor in constants:
            continue
        value = tensor.removesuffix(_QUANTIZED)
        found = partner(value, encoding, shapes.get(tensor), by_name, tensors, encodings, layouts)
        if found is None:
            alone.append(value)
            continue
        source, last = found
        if op == node.op_type and source in taken:
            continue  # the same integers in the other signedness, at the border of the artifact
        taken.add(source)
        stored = tensors[source]
        shape = to_channels_first(stored).shape if last else stored.shape
        offset = _offset(encoding.dtype) - _offset(stored.dtype.name)
        points[tensor] = Point(tensor, value, op, source, encoding.dtype, offset, last, shape)
    return tuple(points.values()), tuple(dict.fromkeys(alone))


def cut_layers(model: Any, points: tuple[Point, ...]) -> bytes:
    """One model that holds every layer apart: readers of a point read its `fed` input; every computed point is an output."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    fed = {point.tensor: point.fed for point in points}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = fed.get(name, name)
    outputs = [point for point in points if point.op]
    needed = {point.tensor for point in outputs}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    entries = [entry for entry in graph.input if entry.name in needed]
    entries += [_entry(point.fed, point) for point in points if point.fed in needed]
    for target, items in (
        (graph.node, kept[::-1]),
        (graph.input, entries),
        (graph.output, [_entry(p.tensor, p) for p in outputs]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del target[:]
        target.extend(copies)
    initializers = [entry for entry in graph.initializer if entry.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    del graph.value_info[:]
    return bytes(cut.SerializeToString())


def _entry(name: str, point: Point) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(point.dtype)), point.shape)


def partner(
    value: str,
    encoding: Encoding,
    shape: tuple[int, ...] | None,
    by_name: Mapping[str, list[str]],
    tensors: Mapping[str, Array],
    encodings: Mapping[str, Encoding],
    layouts: Mapping[str, str],
) -> tuple[str, bool] | None:
    """Key of the tensor that holds a value in an encoding, and whether it is channels-last; None where there is none.

    `shape` is the canonical one, where known; `by_name` comes from `names_of_keys`.
    """
    forms = (
        (value, layouts.get(value) == "channels_last"),
        (f"{value}{_QUANTIZED}", False),
        (f"{value}{_QUANTIZED}_channels_last", True),
    )
    for name, last in forms:
        for key in by_name.get(name, ()):
            stored = tensors[key]
            if key not in encodings or stored.dtype.kind not in "iu" or not _same(encodings[key], encoding):
                continue
            if shape is None or shape == (to_channels_first(stored) if last else stored).shape:
                return key, last
    return None


def _same(one: Encoding, other: Encoding) -> bool:
    """Whether two per-tensor encodings mean the same numbers, int8 and uint8 being shifted against each other."""
    centred = [tuple(zero - _offset(e.dtype) for zero in e.zero_point) for e in (one, other)]
    return one.scale == other.scale and centred[0] == centred[1]


def _offset(dtype: str) -> int:
    return _OFFSETS.get(dtype, 0)


def names_of_keys(tensors: Mapping[str, Array]) -> dict[str, list[str]]:
    """Keys of a session's tensors by the name in the artifact (several where a name repeats)."""
    found: dict[str, list[str]] = {}
    for key in tensors:
        index, separator, name = key.partition(_INDEX_AND_NAME)
        found.setdefault(name if separator and index.isdigit() else key, []).append(key)
    return found


def encoding_of(node: Any, constants: Mapping[str, Array]) -> Encoding | None:
    """The per-tensor encoding of a QuantizeLinear or DequantizeLinear with constant parameters."""
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 else np.uint8(0)
    if scale is None or zero is None or scale.size != 1:
        return None
    return Encoding(np.asarray(zero).dtype.name, (float(scale.reshape(-1)[0]),), (int(np.asarray(zero).reshape(-1)[0]),))


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    found = {}
    for entry in (*graph.value_info, *graph.input, *graph.output):
        dims = entry.type.tensor_type.shape.dim
        if entry.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[entry.name] = tuple(dim.dim_value for dim in dims)
    return found


def operators_before(quantize: Any, producers: Mapping[str, Any]) -> str:
    """Operators between the dequantized inputs of a layer and its QuantizeLinear, in execution order."""
    found: list[str] = []
    pending, seen = [quantize.input[0]], set()
    while pending:
        node = producers.get(pending.pop())
        if node is None or node.op_type == "DequantizeLinear" or id(node) in seen:
            continue
        seen.add(id(node))
        found.append(node.op_type)
        pending.extend(node.input)
    return "+".join(reversed(found)) or quantize.op_type
