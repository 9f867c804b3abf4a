"""A QDQ ONNX file as ESP-PPQ takes it: a float model, and the encoding of whatever its nodes read and write.

::

    x -> Q -> DQ -> Conv -> Relu -> Q -> DQ -> y        x -> Conv -> Relu -> y      reads (Conv, 0): x's; writes (Conv, 0), (Relu, 0): y's

Like the worker it imports nothing of edgewright, and runs under any interpreter that has onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ACCUMULATORS", "FLOAT_RESULTS", "MERGED", "SUMMING", "Encoding", "FloatForm", "float_form", "packed", "refusals"]

Array = np.ndarray[Any, Any]
Place = tuple[str, int]  # a node's name, and which of its inputs or outputs

# Target -> bits of the accumulators of its int8 kernels, which the bias has to fit (ESP-PPQ, EspdlQuantizer).
ACCUMULATORS = {"esp32s3": 20, "esp32p4": 32}
# What multiplies two operands, and shifts their product to the right (ESP-PPQ, EspdlExporter.prepare_graph).
_SHIFTING = ("Conv", "Gemm", "MatMul", "Mul")
SUMMING = ("Conv", "Gemm", "MatMul")
# What writes float32 whatever it reads (ESP-DL, operator_support_state.md).
FLOAT_RESULTS = ("Softmax", "LogSoftmax")
# What ESP-PPQ may leave out: a Relu is part of the kernel in front, and transposes become layouts.
MERGED = ("Relu", "Transpose")
# Activations of which rounding is the same before and behind them: the node in front may have their encoding.
_CLAMPS = ("Relu", "Clip")
# ESP-PPQ takes two scales for one that differ by less (InsertRequantNodePattern).
_SAME_SCALE = 1e-5
_LANES = 16  # output channels that vector kernels compute at once


@dataclass(frozen=True)
class Encoding:
    """``real = integer * 2**exponent``: one exponent a tensor (`axis` None), or one for each index of `axis`."""

    dtype: str
    exponents: tuple[int, ...]
    axis: int | None = None

    @property
    def scales(self) -> Array:
        """float32 [1] or [channels]."""
        return np.ldexp(np.float32(1), np.array(self.exponents, np.int32))


@dataclass(frozen=True)
class FloatForm:
    """A QDQ model taken apart.

    Attributes:
        model: without QuantizeLinear and DequantizeLinear; constants are float32, their integers times the scale; nodes have unique names.
        reads, writes: encodings of inputs and outputs of nodes.
        constants: integers of the encoded constants that nodes read.
        borders: encodings of the graph's inputs and outputs, by name.
    """

    model: Any
    reads: Mapping[Place, Encoding]
    writes: Mapping[Place, Encoding]
    constants: Mapping[Place, Array]
    borders: Mapping[str, Encoding]


def float_form(model: Any) -> FloatForm:
    """Take an ONNX model in QDQ form apart.

    Raises ValueError, with a name: inputs or outputs that are no floats, an encoding that is none of ESP-DL's, an integer of more than 24
    bits (ESP-PPQ computes in float32).
    """
    import onnx
    from onnx import numpy_helper

    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
            raise ValueError(
                f"{value.name} is {dtype}: ESP-PPQ takes artifacts with float inputs and outputs, and makes them int8 itself"
            )
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    seen: dict[
        str, tuple[str, Encoding]
    ] = {}  # what a Q or DQ writes -> the float value that it stands for, and how it is rounded
    stored: dict[str, Encoding] = {}  # float value -> as what it is stored
    integers: dict[str, Array] = {}
    nodes = []
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        source, name, encoding = node.input[0], node.output[0], _encoding(node, tensors)
        if source in seen:
            seen[name] = seen[source][0], encoding
        elif source in tensors:
            seen[name], integers[name] = (name, encoding), tensors[source]
            tensors[name] = _real(source, tensors[source], encoding)
        elif stored.setdefault(source, encoding) == encoding:
            seen[name] = source, encoding
        else:
            raise ValueError(f"{source} is rounded in two ways, of which ESP-DL stores one")
    outputs = {seen[value.name][0]: value.name for value in model.graph.output if value.name in seen}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:], plain.graph.initializer[:], plain.graph.value_info[:]
    reads: dict[Place, Encoding] = {}
    writes: dict[Place, Encoding] = {}
    constants: dict[Place, Array] = {}
    for at, node in enumerate(nodes):
        made = plain.graph.node.add()
        made.CopyFrom(node)
        made.name = f"{at}:{node.name or node.output[0]}"
        made.attribute.extend(_defaults(node, opset))
        for index, name in enumerate(node.input):
            root = seen[name][0] if name in seen else name
            made.input[index] = outputs.get(root, root)
            if name in seen:
                reads[made.name, index] = seen[name][1]
            if root in integers:
                constants[made.name, index] = integers[root]
        for index, name in enumerate(node.output):
            made.output[index] = outputs.get(name, name)
            if name in stored:
                writes[made.name, index] = stored[name]
    used = {name for node in plain.graph.node for name in node.input}
    plain.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items() if name in used)
    _through_clamps(plain.graph, reads, writes)
    borders = {outputs.get(name, name): encoding for name, encoding in stored.items()}
    names = {value.name for value in (*plain.graph.input, *plain.graph.output)}
    return FloatForm(plain, reads, writes, constants, {name: borders[name] for name in borders if name in names})


def _encoding(node: Any, tensors: Mapping[str, Array]) -> Encoding:
    """That of a QuantizeLinear or DequantizeLinear."""
    scale = np.atleast_1d(tensors[node.input[1]])
    point = tensors[node.input[2]] if len(node.input) > 2 else None
    stored = point if point is not None else tensors.get(node.input[0], np.zeros(0, np.uint8))
    fractions, exponents = np.frexp(scale)
    if stored.dtype not in (np.int8, np.int32) or (point is not None and point.any()) or (fractions != 0.5).any():
        raise ValueError(
            f"{node.input[0]} is {stored.dtype} at zero point {0 if point is None else point.flat[0]} in steps of {scale[0]:g}: "
            "ESP-DL has int8 at zero point 0 in steps of a power of two"
        )
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1) if scale.size > 1 else None
    return Encoding(stored.dtype.name, tuple(int(exponent) - 1 for exponent in exponents), axis)


def _real(name: str, integers: Array, encoding: Encoding) -> Array:
    """float32 of integers, as they are: raises ValueError where it does not hold them."""
    if np.abs(integers.astype(np.int64)).max(initial=0) > 2**24:
        raise ValueError(f"{name} holds integers of more than 24 bits, and ESP-PPQ computes in float32")
    shape = [1] * integers.ndim
    if encoding.axis is not None:
        shape[encoding.axis] = -1
    return np.asarray(integers.astype(np.float32) * encoding.scales.reshape(shape), np.float32)


def _defaults(node: Any, opset: int) -> list[Any]:
    """The attributes that a node leaves at what ONNX says: ESP-PPQ has defaults of its own for some."""
    from onnx import defs

    given = {entry.name for entry in node.attribute}
    schema = defs.get_schema(node.op_type, opset, node.domain)
    return [
        entry.default_value for name, entry in sorted(schema.attributes.items()) if name not in given and entry.default_value.name
    ]


def _through_clamps(graph: Any, reads: dict[Place, Encoding], writes: dict[Place, Encoding]) -> None:
    """What a clamp alone reads, unrounded, is rounded as the clamp's output is: a clamp keeps order and the steps between its bounds."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        behind = readers.get(node.output[0], [])
        if (node.name, 0) in writes or len(behind) != 1 or behind[0].op_type not in _CLAMPS or node.output[0] in outputs:
            continue
        if (behind[0].name, 0) in writes:
            writes[node.name, 0] = reads[behind[0].name, 0] = writes[behind[0].name, 0]


def refusals(form: FloatForm, target: str) -> list[str]:
    """Nodes that a target's kernels do not compute, or not as the artifact says: "name (type): reason".

    Raises ValueError where there is no such target.
    """
    if target not in ACCUMULATORS:
        raise ValueError(f"there is no target {target}; there are {', '.join(ACCUMULATORS)}")
    found, bits = [], ACCUMULATORS[target]
    written = {
        name: form.writes.get((node.name, index)) for node in form.model.graph.node for index, name in enumerate(node.output)
    }
    for node in form.model.graph.node:
        label = f"{node.name.partition(':')[2]} ({node.op_type})"
        out = form.writes.get((node.name, 0))
        first, second, bias = [form.reads.get((node.name, index)) for index in range(3)]
        if out is None and node.op_type not in FLOAT_RESULTS:
            found.append(f"{label}: it writes no integers, and this target has no float")
        if node.op_type in _SHIFTING and first is not None and second is not None and out is not None:
            shift = out.exponents[0] - first.exponents[0] - max(second.exponents)
            if shift < 0:
                found.append(
                    f"{label}: its output has steps of 1/{2**-shift} of its products', and kernels only shift to the right"
                )
        integers = form.constants.get((node.name, 2))
        if bias is not None and integers is not None and np.abs(integers.astype(np.int64)).max(initial=0) >= 2 ** (bits - 1):
            found.append(f"{label}: its bias does not fit the {bits} bits of the accumulators of {target}")
        for index, name in enumerate(node.input):
            before, read = written.get(name), form.reads.get((node.name, index))
            if (
                before is not None
                and read is not None
                and before != read
                and abs(before.scales - read.scales).max() < _SAME_SCALE
            ):
                found.append(
                    f"{label}: it reads {name} in other steps than it has, and ESP-PPQ takes steps of less than {_SAME_SCALE} for one"
                )
    return found


def packed(integers: Array, depthwise: bool) -> Array:
    """Weights [out, in, *kernel] in the order that vector kernels read, flat (ESP-DL's layout "(N/16)HWC16").

    Blocks of 16 output channels, which come last within each; then the channels that are left, of a depthwise convolution last as well.
    """
    whole = len(integers) // _LANES * _LANES
    last = np.moveaxis(integers, 1, -1)
    blocks = np.moveaxis(last[:whole].reshape(-1, _LANES, *last.shape[1:]), 1, -1)
    rest = np.moveaxis(integers[whole:], 0, -1) if depthwise else last[whole:]
    return np.concatenate([blocks.reshape(-1), rest.reshape(-1)])
