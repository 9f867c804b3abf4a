"""Run a quantized graph layer by layer over a few samples, holding only what the layers to come still read.

Correcting a network one layer after the other would take one run of the whole network a layer. Here each layer runs twice in all:
once to be measured, once, corrected, in front of the next one. Between two layers the (integer) activations of all samples are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from exporter.graph.values import is_constant, name_of
from exporter.quantization.apply import node_name

__all__ = ["Runner", "output_means", "outputs_of"]

Sample = Mapping[str, np.ndarray[Any, Any]]


class Runner:
    """A quantized graph in the course of being corrected. Ask `mean_of` in graph order.

    Args:
        model: the graph in QDQ form, with a name on every node and value.
        samples: inputs of the graph by name.
    """

    def __init__(self, model: ir.Model, samples: Sequence[Sample]) -> None:
        self._graph = model.graph
        self._opset = model.opset_imports.get("", 21)
        self._nodes = {node_name(node): node for node in model.graph}
        self._values = {name_of(value): value for value in model.graph.inputs}
        self._values.update((name_of(value), value) for node in model.graph for value in node.outputs)
        self._done: set[ir.Node] = set()
        proto = ir.serde.serialize_model(model).graph
        self._protos = dict(zip(model.graph, proto.node, strict=True))
        self._constants = {tensor.name: tensor for tensor in proto.initializer}
        self._held: dict[str, list[np.ndarray[Any, Any]]] = {
            name_of(value): [sample[name_of(value)] for sample in samples] for value in model.graph.inputs
        }
        self._count = len(samples)

    def replace(self, constant: str, array: np.ndarray[Any, Any]) -> None:
        """Give an initializer other values for all runs to come."""
        self._constants[constant] = onnx.numpy_helper.from_array(array, constant)

    def mean_of(self, node: str) -> np.ndarray[Any, Any]:
        """Mean of a node's first output over samples and all axes but axis 1: one float64 a channel.

        Everything in front of the node is run for the last time: it must not change any more; the node itself still may.
        """
        measured = self._nodes[node]
        segment = self._segment(measured)
        final = [n for n in segment if n is not measured]
        self._done.update(n for n in final if n.op_type != "DequantizeLinear")
        keep = [value for n in final for value in n.outputs if n in self._done and self._pending(value)]
        result = self._run(segment, measured.outputs[0], keep)
        for name in [name for name in self._held if not self._pending(self._values[name])]:
            del self._held[name]
        return result

    def _segment(self, last: ir.Node) -> list[ir.Node]:
        """The nodes that compute `last` from held values, in graph order."""
        found: set[ir.Node] = set()
        stack = [last]
        while stack:
            node = stack.pop()
            if node in found:
                continue
            found.add(node)
            for value in node.inputs:
                producer = value.producer() if value is not None else None
                if value is not None and producer is not None and name_of(value) not in self._held:
                    stack.append(producer)
        return [node for node in self._nodes.values() if node in found]

    def _pending(self, value: ir.Value) -> bool:
        """Whether a node that has still to run reads the value, directly or dequantized (dequantizing is repeated, not held)."""
        for node, _ in value.uses():
            if node.op_type == "DequantizeLinear":
                if self._pending(node.outputs[0]):
                    return True
            elif node not in self._done:
                return True
        return False

    def _run(self, segment: list[ir.Node], raw: ir.Value, keep: list[ir.Value]) -> np.ndarray[Any, Any]:
        computed = {value for node in segment for value in node.outputs}
        inputs = [value for node in segment for value in node.inputs if value is not None and value not in computed]
        read = list(dict.fromkeys(inputs))
        feeds = [value for value in read if not is_constant(value)]
        graph = onnx.GraphProto(name="segment")
        graph.node.extend(self._protos[node] for node in segment)
        graph.initializer.extend(self._constants[name_of(value)] for value in read if is_constant(value))
        graph.input.extend(ir.serde.serialize_value(value) for value in feeds)
        mean = _append_mean(graph, name_of(raw), len(raw.shape or ()))
        graph.output.extend([mean, *(ir.serde.serialize_value(value) for value in keep)])
        session = _session(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)], ir_version=10)
        )
        total: Any = 0.0
        for value in keep:
            self._held[name_of(value)] = []
        for index in range(self._count):
            first, *rest = session.run(None, {name_of(value): self._held[name_of(value)][index] for value in feeds})
            total = total + first.astype(np.float64)
            for value, array in zip(keep, rest, strict=True):
                self._held[name_of(value)].append(array)
        return np.asarray(total / self._count)


def output_means(model: ir.Model, names: Sequence[str], samples: Sequence[Sample]) -> dict[str, np.ndarray[Any, Any]]:
    """Means of values of a float graph over samples and all axes but axis 1: one float64 a channel, by value name."""
    proto = ir.serde.serialize_model(model)
    ranks = {name_of(value): len(value.shape or ()) for node in model.graph for value in node.outputs}
    del proto.graph.output[:]
    proto.graph.output.extend(_append_mean(proto.graph, name, ranks[name]) for name in names)
    session = _session(proto)
    totals = [np.zeros(()) for _ in names]
    for sample in samples:
        totals = [total + mean for total, mean in zip(totals, session.run(None, dict(sample)), strict=True)]
    return {name: np.asarray(total / len(samples), np.float64) for name, total in zip(names, totals, strict=True)}


def outputs_of(model: ir.Model, samples: Sequence[Sample]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The outputs of a graph for each sample, by name."""
    session = _session(ir.serde.serialize_model(model))
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(sample)), strict=True)) for sample in samples]


def output_arrays(model: ir.Model, names: Sequence[str], samples: Sequence[Sample]) -> Iterator[list[np.ndarray[Any, Any]]]:
    """The values of that name (graph inputs and computed values), for one sample after the other."""
    proto = ir.serde.serialize_model(model)
    inputs = {name_of(value) for value in model.graph.inputs}
    values = {name_of(value): value for node in model.graph for value in node.outputs}
    computed = sorted({name for name in names if name not in inputs})
    del proto.graph.output[:]
    proto.graph.output.extend(ir.serde.serialize_value(values[name]) for name in computed)
    session = _session(proto) if computed else None
    for sample in samples:
        found = dict(zip(computed, session.run(None, dict(sample)), strict=True)) if session is not None else {}
        yield [sample[name] if name in inputs else found[name] for name in names]


def _append_mean(graph: onnx.GraphProto, name: str, rank: int) -> onnx.ValueInfoProto:
    axes, mean = f"{name}_mean_axes", f"{name}_mean"
    kept = np.asarray([axis for axis in range(rank) if axis != 1], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(kept, axes))
    graph.node.append(onnx.helper.make_node("ReduceMean", [name, axes], [mean], keepdims=0))
    return onnx.helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None)


def _session(proto: onnx.ModelProto) -> Any:
    """An in-process session of one thread: the order of additions, and so every bit of the plan, is the same on each run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
