"""The TFLite writer: a legalized graph and its plan, operator by operator, into the flatbuffer.

It decides nothing. Each value has one home: the tensor its producer writes, in the dtype and layout that the plan says. A node that wants
another form of it gets QUANTIZE, DEQUANTIZE or TRANSPOSE in between, made once and shared by all nodes that want the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import TargetError
from exporter.backends.tflite.container import FLATBUFFER_LIMIT, Container, Tensor
from exporter.backends.tflite.floor import Emitted
from exporter.backends.tflite.forms import in_form
from exporter.backends.tflite.layout import CHANNELS_LAST, same_memory_order, to_channels_first, to_channels_last, wanted_label
from exporter.backends.tflite.lowering import NodeLowering
from exporter.backends.tflite.schedule import least_memory
from exporter.content import Content
from exporter.graph.values import activation_nodes, constant, fused_activation, is_constant, name_of, rank, static_shape
from exporter.ops.base import Refused, operator_of
from exporter.quantization.apply import node_name, read_encoding, runs_in_integers
from exporter.quantization.plan import Encoding, Plan
from targets.releases.tflite import OUTSIDE_RELEASE, first_release, release_key
from targets.schema import Scratch

__all__ = ["TFLiteArtifact", "write_tflite"]


@dataclass(frozen=True)
class TFLiteArtifact:
    """What was written.

    Attributes:
        file: its content; `content` in one piece.
        emitted: every operator in execution order, with the node it was written for.
        release: the first TFLite release that runs them all, and reads the file.
        transposed: bytes moved by TRANSPOSE operators that the layout made necessary, by value name.
        layouts: "channels_last" or "keep" for every graph input and output, as the artifact has them.
    """

    file: Content
    emitted: tuple[Emitted, ...]
    release: str
    transposed: Mapping[str, int]
    layouts: Mapping[str, str]

    @property
    def content(self) -> bytes:
        return bytes(self.file)

    @property
    def operators(self) -> tuple[tuple[str, int], ...]:
        """(builtin operator, version) in execution order."""
        return tuple((entry.op, entry.version) for entry in self.emitted)


def write_tflite(
    model: ir.Model,
    plan: Plan,
    *,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
    limit: int = FLATBUFFER_LIMIT,
    kernels: Scratch | None = None,
) -> TFLiteArtifact:
    """Write a legalized graph as TFLite.

    Args:
        model: the legalized graph, static shapes, fused activations marked.
        plan: made for this graph; its layout assigned (`layout.assign`).
        description: the file's description field.
        metadata: further named metadata entries.
        limit: bytes of constants from which on they lie outside of the flatbuffer.
        kernels: of a microcontroller; then the operators have an order in which its arena is smallest, else that of the graph.
    Raises:
        TargetError: EW-T004, a node cannot be lowered, or an output of it.
        ModelError: EW-Q002, the plan does not fit the graph.
    """
    writer = Writer(model.graph, plan, Container(description, limit=limit))
    try:
        writer.write()
        return writer.finish(metadata or {}, kernels)
    except Refused as refused:
        where = "" if refused.node is None else f"node {refused.node.name} ({refused.node.op_type})"
        raise TargetError("EW-T004", "TFLite has no form of this node", where=where, why=refused.reason) from refused


@dataclass(frozen=True)
class _Form:
    """One stored form of a value."""

    dtype: str
    last: bool  # channels-last
    encoding: Encoding | None = None


class Writer:
    """Keeps track of which form of which value is which tensor.

    `given`: the tensors that the inputs of a loop's body are, in order; such a body is channels-first and float at its boundary.
    """

    def __init__(self, graph: ir.Graph, plan: Plan, container: Container, given: Sequence[int] | None = None) -> None:
        self.container, self.plan = container, plan
        self._graph = graph
        self._is_main = given is None
        # Parameters in half precision or integers, as the float32 tensors that kernels read.
        self.widened: dict[tuple[str, tuple[int, ...], Encoding | None], int] = {}
        self._handles: dict[tuple[str, _Form], int] = {}
        self.emitted: list[Emitted] = []
        self.writing = ""  # the node that is being written, by name
        self._viewed: dict[int, int] = {}  # outputs of RESHAPE and BITCAST, with the tensor that they show
        self._home: dict[str, _Form] = {}
        self._transposed: dict[str, int] = {}
        self._boundary = {name_of(value) for value in (*graph.inputs, *graph.outputs)}
        self._inputs: dict[str, int] = {}
        for index, value in enumerate(graph.inputs):
            form = self._boundary_form(value)
            self._home[name_of(value)] = form
            self._inputs[name_of(value)] = self._new(value, form) if given is None else given[index]
            self._handles[name_of(value), form] = self._inputs[name_of(value)]

    def write(self) -> None:
        """Write every node that runs by itself."""
        for node, _ in activation_nodes(self._graph):
            self.writing = node_name(node)
            operator_of(node).lower(node, NodeLowering(self, node))

    def output(self, value: ir.Value, taken: Collection[int]) -> int:
        """The tensor of a graph output: no constant, no `taken` output, of the main graph no input, but a copy where it would be one."""
        self.writing = f"output {name_of(value)}"
        if is_constant(value):
            handle = self._constant_output(value)
        elif name_of(value) in self._home:
            handle = self.form(value, self._boundary_form(value))
        else:
            node = value.producer()
            raise Refused(node, f"{node.op_type if node else 'nothing'} is not written with its output {name_of(value)}")
        passes = self._is_main and handle in self._inputs.values()
        if passes or handle in taken or self.container.tensors[handle].constant:
            handle = self._copy(handle, name_of(value))
        return handle

    def finish(self, metadata: Mapping[str, bytes], kernels: Scratch | None = None) -> TFLiteArtifact:
        outputs: dict[str, int] = {}
        for value in self._graph.outputs:
            handle = self.output(value, outputs.values())
            self.container.rename(handle, name_of(value))
            outputs[name_of(value)] = handle
        if kernels is not None and self.container.alone:
            program = self.container.program(list(self._inputs.values()), list(outputs.values()))
            order = least_memory(program, kernels)
            if order is not None:
                self.container.reorder(order)
                self.emitted = [self.emitted[position] for position in order]
        content = self.container.content(self._inputs, outputs, metadata)
        layouts = {
            name: CHANNELS_LAST if self._boundary_form(value).last else "keep"
            for value in (*self._graph.inputs, *self._graph.outputs)
            if (name := name_of(value))
        }
        releases = [entry.release for entry in self.emitted] + ([OUTSIDE_RELEASE] if self.container.outside else [])
        release = max(releases, key=release_key, default=first_release(()))
        return TFLiteArtifact(content, tuple(self.emitted), release, dict(self._transposed), layouts)

    def _constant_output(self, value: ir.Value) -> int:
        array = constant(value)
        assert array is not None
        return self.container.tensor(f"{name_of(value)}_constant", array.shape, array.dtype.name, None, array)

    # --- forms of values ----------------------------------------------------------------------------------------------

    def produced(self, node: ir.Node, index: int) -> int:
        """The tensor that a node writes its output `index` to (the fused activation's output where there is one)."""
        value = (fused_activation(node) or node).outputs[index]
        form = self._home_form(node, value)
        self._home[name_of(value)] = form
        key = (name_of(value), form)
        return self._handles[key] if key in self._handles else self._new(value, form)

    def alias(self, node: ir.Node, index: int, handle: int) -> None:
        """Let output `index` of `node` be an existing tensor."""
        value = (fused_activation(node) or node).outputs[index]
        form = self._home_form(node, value)
        self._home[name_of(value)] = form
        self._handles[name_of(value), form] = handle

    def read(self, node: ir.Node, index: int) -> int:
        """The tensor from which `node` reads its computed input `index`, converted where need be."""
        value = node.inputs[index]
        assert value is not None
        encoding = read_encoding(node, index, self.plan) if runs_in_integers(node, self.plan) else None
        return self.form(value, self._as(value, self.reads_last(node, index), encoding))

    def reads_last(self, node: ir.Node, index: int) -> bool:
        """Whether `node` reads its computed input `index` channels-last: as its port wants, else as the value was written."""
        value = node.inputs[index]
        assert value is not None
        wanted = wanted_label(operator_of(node).layout(node), index, self.runs_last(node))
        return self._home[name_of(value)].last if wanted is None or rank(value) < 3 else wanted

    def writes_last(self, node: ir.Node, index: int) -> bool:
        """Whether `node` (or the activation fused behind it) writes its output `index` channels-last."""
        return self.plan.layout.get(name_of((fused_activation(node) or node).outputs[index])) == CHANNELS_LAST

    def form(self, value: ir.Value, wanted: _Form) -> int:
        """The handle of a value in a given form; integers are moved rather than floats, being smaller."""
        name, home = name_of(value), self._home[name_of(value)]
        if (name, wanted) in self._handles:
            return self._handles[name, wanted]
        if wanted.encoding != home.encoding and wanted.last != home.last:
            moved_first = home.encoding is not None
            between = replace(home, last=wanted.last) if moved_first else replace(wanted, last=home.last)
        else:
            between = home
        source = self.form(value, between) if between != home else self._handles[name, home]
        handle = self._new(value, wanted)
        if wanted.last != between.last:
            self._move(value, source, handle, wanted.last)
        else:
            self._convert(source, handle)
        return handle

    def runs_last(self, node: ir.Node) -> bool:
        """Whether the NODE ports of a node are channels-last."""
        return self.plan.node_layout.get(node_name(node)) == CHANNELS_LAST

    def _home_form(self, node: ir.Node, value: ir.Value) -> _Form:
        last = self.plan.layout.get(name_of(value)) == CHANNELS_LAST
        return self._as(value, last, self.plan.encodings.get(name_of(value)) if runs_in_integers(node, self.plan) else None)

    def _boundary_form(self, value: ir.Value) -> _Form:
        """How the artifact's user sees a graph input or output."""
        if not self._is_main:
            return self._as(value, False, None)
        dtype = self.plan.io_dtype_of(name_of(value))
        encoding = self.plan.encodings.get(name_of(value)) if dtype != "float32" else None
        if encoding is not None and dtype == "uint8" and encoding.dtype == "int8":
            encoding = replace(encoding, dtype="uint8", zero_point=tuple(point + 128 for point in encoding.zero_point))
        last = self.plan.io_layout == CHANNELS_LAST and self.plan.layout.get(name_of(value)) == CHANNELS_LAST
        return self._as(value, last, encoding)

    @staticmethod
    def _as(value: ir.Value, last: bool, encoding: Encoding | None) -> _Form:
        if encoding is not None:
            return _Form(encoding.dtype, last, encoding)
        return _Form("float32" if value.dtype is None else value.dtype.numpy().name, last)

    def _new(self, value: ir.Value, form: _Form) -> int:
        """A tensor for a form of a value. The plain name goes to what the user sees, inside of the graph to what the producer writes."""
        name, shape = name_of(value), static_shape(value)
        plain = self._boundary_form(value) if name in self._boundary else self._home[name]
        if form.last:
            shape = tuple(shape[axis] for axis in to_channels_last(len(shape)))
        label = name if form == plain else f"{name}_{_suffix(form)}"
        handle = self.container.tensor(label, shape, form.dtype, form.encoding)
        self._handles[name, form] = handle
        return handle

    # --- conversions --------------------------------------------------------------------------------------------------

    def _convert(self, source: int, target: int) -> None:
        to = self.container.tensors[target]
        self.emit("DEQUANTIZE" if to.encoding is None else "QUANTIZE", [source], [target])

    def _move(self, value: ir.Value, source: int, target: int, last: bool) -> None:
        shape = static_shape(value)
        if same_memory_order(shape):
            self._reshape(source, target)
            return
        perm = to_channels_last(len(shape)) if last else to_channels_first(len(shape))
        tensor = self.container.tensors[source]
        self.emit("TRANSPOSE", [source, self.ints(perm)], [target], transpose_version(tensor))
        self._transposed[name_of(value)] = self._transposed.get(name_of(value), 0) + prod(shape) * _itemsize(tensor.dtype)

    def _copy(self, handle: int, name: str) -> int:
        tensor = self.container.tensors[handle]
        copied = self.container.tensor(name, tensor.shape, tensor.dtype, tensor.encoding)
        self._reshape(handle, copied)
        return copied

    def _reshape(self, source: int, target: int) -> None:
        shape = self.container.tensors[target].shape
        self.emit("RESHAPE", [source, self.ints(shape)], [target], 1, new_shape=list(shape))

    def ints(self, array: Sequence[int] | np.ndarray[Any, Any]) -> int:
        data = np.asarray(array, np.int32)
        return self.container.tensor("const", data.shape, "int32", None, data)

    def emit(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        """Append an operator, at `version` or the one that the integer form of its tensors needs."""
        if op in ("RESHAPE", "BITCAST"):
            inputs = [self._seen(op, inputs[0], outputs[0]), *inputs[1:]]
            self._viewed[outputs[0]] = inputs[0]
        read = tuple(self.container.tensors[handle] for handle in inputs if handle >= 0)
        written = tuple(self.container.tensors[handle] for handle in outputs)
        version, options = in_form(op, version, options, read, written)
        self.container.operator(op, inputs, outputs, version, options)
        self.emitted.append(Emitted(self.writing, op, version, read))

    def _seen(self, op: str, source: int, target: int) -> int:
        """The tensor that a RESHAPE or BITCAST of `source` shows in the end, where the same operator can make `target` of it.

        LiteRT (seen in 2.3.0) puts a view into the memory of its source and loses count at a view of a view: arithmetic on that overwrites
        the first view although it is read again.
        """
        origin = self._viewed.get(source, source)
        of, to = self.container.tensors[origin], self.container.tensors[target]
        same = of.shape == to.shape if op == "BITCAST" else (of.dtype, of.encoding) == (to.dtype, to.encoding)
        return origin if same else source


def transpose_version(tensor: Tensor) -> int:
    """TRANSPOSE: version 6 above rank 5, 5 for int16, 4 for rank 5, 2 for int8, else 1 (TensorFlow's op_version.cc)."""
    if len(tensor.shape) > 5:
        return 6
    if tensor.dtype == "int16":
        return 5
    if len(tensor.shape) > 4:
        return 4
    return 2 if tensor.dtype == "int8" else 1


def _suffix(form: _Form) -> str:
    quantized = "quantized" if form.encoding is not None else "dequantized"
    return f"{quantized}_{CHANNELS_LAST}" if form.last else quantized


def _itemsize(dtype: str) -> int:
    return np.dtype(dtype).itemsize
