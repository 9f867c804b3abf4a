"""One TFLite file for every size of a dimension, from files of the same model that were written at several sizes.

LiteRT computes the shape of every tensor again when an input is resized; what stands in a file for one size alone are constants. So two files
that differ in nothing but the sizes of tensors are one file, and where a constant holds the size, the operator often has a form that takes
it from its input: a RESHAPE of -1, a SLICE to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from diagnostics import TargetError
from exporter.backends.tflite.container import packed_file

__all__ = ["Sized", "resizable"]

_ROLE: Final[Mapping[str, tuple[int, str]]] = {
    "RESHAPE": (1, "newShape"),
    "SLICE": (2, ""),
}  # where the size stands, and in which option


@dataclass(frozen=True)
class Sized:
    """A file, and the size of the dimension that it was written at."""

    size: int
    content: bytes


def resizable(base: Sized, first: Sized, second: Sized, far: Sized, dimension: str) -> bytes:
    """The file whose `dimension` is open (-1 in the shape signatures), with the shapes and metadata of `base`.

    `first` and `second` are two further sizes, whose operators are the artifact's; `far` lies 32 steps or more behind the first. All shapes
    grow by whole steps, in a straight line through the three: what strides over the dimension does not, and its padding holds for some sizes
    alone, so that it is refused.
    Raises TargetError EW-T007, with every operator that holds the size in a constant, or where the files differ in another way.
    """
    merger = _Merger(_unpacked(first.content), _unpacked(second.content), dimension)
    merger.check_growth(_unpacked(far.content), (first.size, second.size, far.size))
    model = merger.merge((base.size, first.size, second.size))
    _take_metadata(model, _unpacked(base.content))
    return packed_file(model)


def _unpacked(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise TargetError(
            "EW-T007", "a file whose constants lie behind the flatbuffer keeps no dimension open", fix="fix it with --shape"
        )
    return model


def _take_metadata(model: Any, base: Any) -> None:
    """What the file says of itself (its signature, its preprocessing) is as at the base size."""
    found = {entry.name: base.buffers[entry.buffer].data for entry in base.metadata or ()}
    for entry in model.metadata or ():
        model.buffers[entry.buffer].data = found[entry.name]


class _Merger:
    """Makes `model` stand for `other` as well."""

    def __init__(self, model: Any, other: Any, dimension: str) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._model, self._other, self._dimension = model, other, dimension
        self._names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}

    def merge(self, sizes: tuple[int, int, int]) -> Any:
        codes = [[(code.builtinCode, code.version) for code in model.operatorCodes] for model in (self._model, self._other)]
        if codes[0] != codes[1] or len(self._model.subgraphs) != len(self._other.subgraphs):
            raise self._refusal("it is written with other operators at another size")
        held: list[str] = []
        for graph, other in zip(self._model.subgraphs, self._other.subgraphs, strict=True):
            self._check_structure(graph, other)
            held += self._mend_constants(graph, other)
        if held:
            raise self._refusal("; ".join(held))
        for graph, other in zip(self._model.subgraphs, self._other.subgraphs, strict=True):
            for tensor, twin in zip(graph.tensors, other.tensors, strict=False):
                self._open(tensor, twin, sizes)
        return self._model

    def check_growth(self, far: Any, sizes: tuple[int, int, int]) -> None:
        """Every shape at the last of three sizes is what the first two let expect."""
        near, next_, last = sizes
        for graph, other, third in zip(self._model.subgraphs, self._other.subgraphs, far.subgraphs, strict=False):
            if len(graph.tensors) != len(third.tensors) or len(graph.tensors) != len(other.tensors):
                raise self._refusal("it is written with other operators at another size")
            for tensor, twin, wanted in zip(graph.tensors, other.tensors, third.tensors, strict=True):
                shapes = [_ints(entry.shape) for entry in (tensor, twin, wanted)]
                even = len({len(shape) for shape in shapes}) == 1 and not ((shapes[1] - shapes[0]) % (next_ - near)).any()
                if not even or (shapes[0] + (shapes[1] - shapes[0]) // (next_ - near) * (last - near) != shapes[2]).any():
                    raise self._refusal(f"the shape of {_text(tensor.name)} does not grow evenly with the size")

    def _check_structure(self, graph: Any, other: Any) -> None:
        """Same tensors but for sizes and data, same operators with the same options."""
        if len(graph.tensors) != len(other.tensors) or len(graph.operators) != len(other.operators):
            raise self._refusal("it is written with other operators at another size")
        for tensor, twin in zip(graph.tensors, other.tensors, strict=True):
            same = (tensor.name, tensor.type, len(_ints(tensor.shape))) == (twin.name, twin.type, len(_ints(twin.shape)))
            if not same or not _equal(tensor.quantization, twin.quantization):
                raise self._refusal(f"the tensor {_text(tensor.name)} is of another kind at another size")
        for operator, twin in zip(graph.operators, other.operators, strict=True):
            ends = [(one.opcodeIndex, [*_ints(one.inputs)], [*_ints(one.outputs)]) for one in (operator, twin)]
            role = _ROLE.get(self._name(operator), (0, ""))[1]
            if ends[0] != ends[1] or not _equal(operator.builtinOptions, twin.builtinOptions, besides=role):
                raise self._refusal(f"{self._where(graph, operator)} has other options at another size")

    def _mend_constants(self, graph: Any, other: Any) -> list[str]:
        """Let operators take the size from their input; the sentences of those that cannot."""
        held = []
        for operator in graph.operators:
            for place, index in enumerate(_ints(operator.inputs)):
                if index < 0 or not self._differs(graph.tensors[index], other.tensors[index]):
                    continue
                name = self._name(operator)
                mended = None
                if place == _ROLE.get(name, (-1, ""))[0]:
                    data = _data(self._model, graph.tensors[index]), _data(self._other, other.tensors[index])
                    mended = self._reshape(*data) if name == "RESHAPE" else self._slice(graph, other, operator, *data)
                if mended is None:
                    held.append(f"{self._where(graph, operator)} holds the size in its constant input {place}")
                    continue
                operator.inputs = np.array(operator.inputs)
                operator.inputs[place] = self._constant(graph, graph.tensors[index], mended)
                if name == "RESHAPE":
                    operator.builtinOptions.newShape = mended
        return held

    def _differs(self, tensor: Any, twin: Any) -> bool:
        data, other = self._model.buffers[tensor.buffer].data, self._other.buffers[twin.buffer].data
        return (data is None) != (other is None) or (data is not None and not np.array_equal(data, other))

    @staticmethod
    def _reshape(shape: Any, other: Any) -> Any:
        """-1 in the one place that holds the size."""
        places = shape != other
        return np.where(places, -1, shape).astype(np.int32) if places.sum() == 1 and (shape >= 0).all() else None

    def _slice(self, graph: Any, other: Any, operator: Any, size: Any, twin: Any) -> Any:
        """-1, to the end, where the whole axis is taken."""
        source = operator.inputs[0]
        lengths = [_ints(part.tensors[source].shape) for part in (graph, other)]
        begin = _data(self._model, graph.tensors[operator.inputs[1]])
        places = size != twin
        whole = (size == lengths[0]) & (twin == lengths[1]) & (begin == 0)
        return np.where(places, -1, size).astype(np.int32) if whole[places].all() else None

    def _constant(self, graph: Any, like: Any, array: Any) -> int:
        """A tensor of its own: other operators may share the one that was there."""
        self._model.buffers.append(self._schema.BufferT(data=np.ascontiguousarray(array).view(np.uint8)))
        graph.tensors.append(
            self._schema.TensorT(
                shape=np.asarray(array.shape, np.int32),
                type=like.type,
                buffer=len(self._model.buffers) - 1,
                name=f"{_text(like.name)}_any_size_{len(graph.tensors)}",
                hasRank=True,
            )
        )
        return len(graph.tensors) - 1

    def _open(self, tensor: Any, twin: Any, sizes: tuple[int, int, int]) -> None:
        """-1 in the signature where the shapes differ; in the shape what the size of the base makes of it."""
        base, first, second = sizes
        shape, other = _ints(tensor.shape), _ints(twin.shape)
        places = shape != other
        if not places.any():
            return
        scaled = (other - shape) * (base - first)
        if (scaled % (second - first)).any() or (shape + scaled // (second - first) <= 0).any():
            raise self._refusal(f"the shape of {_text(tensor.name)} does not grow evenly with the size")
        tensor.shapeSignature = np.where(places, -1, shape).astype(np.int32)
        tensor.shape = (shape + scaled // (second - first)).astype(np.int32)

    def _name(self, operator: Any) -> str:
        return str(self._names[self._model.operatorCodes[operator.opcodeIndex].builtinCode])

    def _where(self, graph: Any, operator: Any) -> str:
        return f"{self._name(operator)} (writes {_text(graph.tensors[operator.outputs[0]].name)})"

    def _refusal(self, why: str) -> TargetError:
        return TargetError(
            "EW-T007",
            f"the dimension {self._dimension} cannot stay open in one TFLite file",
            why=why,
            fix="fix it with --shape, or change these operators in the model",
        )


def _ints(vector: Any) -> Any:
    return np.zeros(0, np.int64) if vector is None else np.asarray(vector, np.int64)


def _data(model: Any, tensor: Any) -> Any:
    data = model.buffers[tensor.buffer].data
    return np.zeros(0, np.int32) if data is None else np.asarray(data, np.uint8).view(np.int32)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _equal(one: Any, other: Any, besides: str = "") -> bool:
    """Whether two unpacked tables hold the same, the field `besides` aside."""
    if type(one) is not type(other):
        return False
    if hasattr(one, "__dict__"):
        return all(key == besides or _equal(value, vars(other)[key]) for key, value in vars(one).items())
    return bool(np.array_equal(one, other))
