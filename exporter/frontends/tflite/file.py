"""What a .tflite file says, read with distrust: every index, length and dtype is checked before anything else uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np

from diagnostics import EdgewrightError, ModelError
from exporter.frontends.source import Array
from exporter.frontends.tflite.sparse import densify
from exporter.graph.artifacts import is_tflite
from exporter.quantization.plan import Encoding

__all__ = ["Operator", "Subgraph", "TFLiteFile", "Tensor", "parse", "runs"]

_MOST_AXES: Final = 8
_MOST_NESTED: Final = 8  # subgraphs in subgraphs; what runs twice is read twice
_NO_NUMBERS: Final = frozenset(("string", "resource", "variant", "bfloat16", "uint4", "int2", "float8_e4m3fn", "float8_e5m2"))
_MOST_ELEMENTS: Final = 1 << 31  # of one tensor; kernels count them in int32


@dataclass(frozen=True)
class Tensor:
    """One tensor. `dtype` is a numpy name, or the schema's lower-case name where numpy has none ("resource", "string").

    `data` is the constant content in `shape`, sparse ones densified, int4 unpacked to int8. `encoding` is set where integers stand for real
    numbers. `variable`: its content lives on from one inference to the next.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None = None
    encoding: Encoding | None = None
    variable: bool = False


@dataclass(frozen=True)
class Operator:
    """One operator: `kind` is the schema's name ("CONV_2D"), or "CUSTOM:" and the custom operator's name; input -1 is absent.

    `options` is the schema's options table (the object API's), or None where the file has none.
    """

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True)
class Subgraph:
    """Operators in execution order; `inputs` and `outputs` are indices of tensors; names are unique."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TFLiteFile(Subgraph):
    """The main subgraph. `subgraphs`: those that its operators run, and that are run by them, by their index in the file."""

    subgraphs: Mapping[int, Subgraph] = field(default_factory=dict)


def runs(operator: Operator) -> tuple[int, ...]:
    """Indices of the subgraphs that an operator runs: condition and body, or both branches."""
    names = _RUNS.get(operator.kind, ())
    return tuple(int(getattr(operator.options, name)) for name in names)


_RUNS: Final[Mapping[str, Sequence[str]]] = {
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
}


def parse(content: bytes, where: str = "") -> TFLiteFile:
    """Read the main subgraph and what it runs. Raises ModelError EW-M002 where the content is not a whole and consistent TFLite model."""
    if not is_tflite(content[:8]):
        raise _unreadable(where, "its identifier is not TFL3")
    try:
        return _parse(content)
    except EdgewrightError:
        raise
    except Exception as error:  # the generated reader trusts its input: damage shows as any kind
        raise _unreadable(where, f"{type(error).__name__}: {error}") from error


def _parse(content: bytes) -> TFLiteFile:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() < 1:
        raise ValueError("it holds no graph")
    codes = [_operator_code(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
    main = _subgraph(model, 0, codes, content)
    found: dict[int, Subgraph] = {}
    _follow(main, (0,), found, lambda index: _subgraph(model, index, codes, content))
    return TFLiteFile(main.tensors, main.operators, main.inputs, main.outputs, found)


def _follow(graph: Subgraph, path: tuple[int, ...], found: dict[int, Subgraph], read: Callable[[int], Subgraph]) -> None:
    """Read into `found` what the operators of `graph` run, itself run by those of `path`."""
    for index in dict.fromkeys(index for operator in graph.operators for index in runs(operator)):
        if index in path or len(path) > _MOST_NESTED:
            raise ValueError(f"subgraph {index} runs itself, or subgraphs are nested deeper than {_MOST_NESTED}")
        if index not in found:
            found[index] = read(index)
        _follow(found[index], (*path, index), found, read)


def _subgraph(model: Any, number: int, codes: Sequence[tuple[str, int]], content: bytes) -> Subgraph:
    from ai_edge_litert import schema_py_generated as schema

    if not 0 <= number < model.SubgraphsLength():
        raise IndexError(f"subgraph {number} of {model.SubgraphsLength()}")
    graph = model.Subgraphs(number)
    found = [schema.TensorT.InitFromObj(graph.Tensors(index)) for index in range(graph.TensorsLength())]
    names = _unique_names([(tensor.name or b"").decode("utf-8", "replace") for tensor in found])
    tensors = tuple(_tensor(name, tensor, model, content) for name, tensor in zip(names, found, strict=True))
    operators = tuple(
        _operator(schema.OperatorT.InitFromObj(graph.Operators(index)), codes, len(tensors))
        for index in range(graph.OperatorsLength())
    )
    inputs, outputs = (_indices(array, len(tensors)) for array in (graph.InputsAsNumpy(), graph.OutputsAsNumpy()))
    tensors = _with_empty_constants(tensors, {*inputs, *(index for operator in operators for index in operator.outputs)})
    _check_order(tensors, operators, inputs, outputs)
    return Subgraph(tensors, operators, inputs, outputs)


def _with_empty_constants(tensors: Sequence[Tensor], written: Container[int]) -> tuple[Tensor, ...]:
    """A tensor without elements that nothing writes is a constant, though its buffer is as empty as that of an activation."""
    return tuple(
        tensor
        if index in written or tensor.data is not None or 0 not in tensor.shape or tensor.dtype in _NO_NUMBERS
        else replace(tensor, data=np.zeros(tensor.shape, tensor.dtype))
        for index, tensor in enumerate(tensors)
    )


def _check_order(tensors: Sequence[Tensor], operators: Sequence[Operator], inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Every tensor is written once, before it is read."""
    if not outputs or -1 in (*inputs, *outputs):
        raise ValueError("its graph has no outputs, or an absent tensor among inputs or outputs")
    known = {index for index, tensor in enumerate(tensors) if tensor.data is not None or tensor.variable}
    if len(set(inputs)) != len(inputs) or known & set(inputs):
        raise ValueError("a graph input is listed twice or is a constant")
    known |= set(inputs)
    for place, operator in enumerate(operators):
        unknown = [index for index in operator.inputs if index >= 0 and index not in known]
        again = [index for index in operator.outputs if index in known]
        if unknown or again or -1 in operator.outputs:
            raise ValueError(f"operator {place} ({operator.kind}) reads a tensor before it is written, or writes one again")
        known.update(operator.outputs)
    if not known.issuperset(outputs):
        raise ValueError("a graph output is never written")


def _operator_code(code: Any) -> tuple[str, int]:
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files fill the deprecated field only
    name = _names_of("BuiltinOperator")[number]
    custom = (code.CustomCode() or b"").decode("utf-8", "replace")
    return (f"CUSTOM:{custom}" if name == "CUSTOM" else name), int(code.Version())


def _operator(operator: Any, codes: Sequence[tuple[str, int]], tensors: int) -> Operator:
    if not 0 <= operator.opcodeIndex < len(codes):
        raise IndexError(f"operator code {operator.opcodeIndex} of {len(codes)}")
    kind, version = codes[operator.opcodeIndex]
    options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
    return Operator(kind, version, _indices(operator.inputs, tensors), _indices(operator.outputs, tensors), options)


def _tensor(name: str, tensor: Any, model: Any, content: bytes) -> Tensor:
    shape = tuple(int(size) for size in _vector(tensor.shape))
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape) or prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"the tensor {name!r} has shape {shape}")
    kind = _names_of("TensorType")[tensor.type].lower()
    if not 0 <= tensor.buffer < max(model.BuffersLength(), 1):
        raise IndexError(f"the tensor {name!r} lies in buffer {tensor.buffer} of {model.BuffersLength()}")
    raw = _buffer(model, tensor.buffer, content)
    data = None if raw is None or kind == "string" else _array(name, raw, kind, shape, tensor.sparsity)
    dtype = _PACKED.get(kind, kind)
    return Tensor(name, shape, dtype, data, _encoding(name, tensor.quantization, dtype, shape), bool(tensor.isVariable))


_PACKED: Final[Mapping[str, str]] = {"int4": "int8"}  # packed two in a byte, the lower four bits first


def _buffer(model: Any, index: int, content: bytes) -> Array | None:
    """The bytes of a buffer, inside of the flatbuffer or behind it; None where it is empty, as those of activations are."""
    buffer = model.Buffers(index) if model.BuffersLength() else None
    if index == 0 or buffer is None:
        return None
    if buffer.Offset() > 1:
        end = buffer.Offset() + buffer.Size()
        if end > len(content):
            raise IndexError(f"buffer {index} ends at byte {end} of {len(content)}")
        return np.frombuffer(content, np.uint8, buffer.Size(), buffer.Offset())
    data = _vector(buffer.DataAsNumpy())
    return data if data.size else None


def _array(name: str, raw: Array, kind: str, shape: tuple[int, ...], sparsity: Any) -> Array:
    if kind == "int4":
        low = (raw << 4).astype(np.int8) >> 4
        values = np.stack([low, raw.astype(np.int8) >> 4], axis=1).reshape(-1)[: prod(shape)]
    else:
        dtype = np.dtype(kind)
        if raw.size % dtype.itemsize:
            raise ValueError(f"the tensor {name!r} holds {raw.size} bytes of {kind}")
        values = raw.view(dtype)
    if sparsity is not None:
        return densify(values, shape, sparsity)
    if values.size != prod(shape):
        raise ValueError(f"the tensor {name!r} of shape {shape} holds {values.size} values")
    return values.reshape(shape)


def _encoding(name: str, quantization: Any, dtype: str, shape: tuple[int, ...]) -> Encoding | None:
    """How integers stand for real numbers; None for other dtypes and where no scale is given."""
    if quantization is None or dtype not in ("int8", "uint8", "int16", "int32", "int64"):
        return None
    scale = tuple(float(value) for value in _vector(quantization.scale))
    if not scale:
        return None
    given = _vector(quantization.zeroPoint)
    zero_point = tuple(int(value) for value in given) if given.size else (0,) * len(scale)
    zero_point = zero_point * len(scale) if len(zero_point) == 1 else zero_point
    axis = int(quantization.quantizedDimension) if len(scale) > 1 else None
    fits = axis is None or (0 <= axis < len(shape) and shape[axis] == len(scale))
    if not fits or len(zero_point) != len(scale) or not all(0 < value < float("inf") for value in scale):
        raise ValueError(f"the encoding of the tensor {name!r} does not fit its shape {shape}")
    return Encoding(dtype, scale, zero_point, axis)


def _indices(array: Any, tensors: int) -> tuple[int, ...]:
    found = tuple(int(index) for index in _vector(array))
    if any(not -1 <= index < tensors for index in found):
        raise IndexError(f"tensor index out of 0 to {tensors - 1}: {found}")
    return found


def _vector(array: Any) -> Array:
    """A vector of the generated reader, which gives None or the number 0 for an absent one."""
    return array if isinstance(array, np.ndarray) else np.zeros(0, np.int32)


@lru_cache
def _names_of(enum: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {number: name for name, number in vars(getattr(schema, enum)).items() if isinstance(number, int)}


def _unique_names(names: Sequence[str]) -> list[str]:
    """Names as keys: one that is empty or repeats becomes "index:name"."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{index}:{name}" for index, name in enumerate(names)]


def _unreadable(where: str, why: str) -> ModelError:
    return ModelError(
        "EW-M002", f"{where or 'the file'} is not a readable TFLite model", why=why[:300], fix="is the file complete?"
    )
