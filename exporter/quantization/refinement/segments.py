"""Run a quantized graph layer by layer over a few samples, holding only what the layers to come still read.

Correcting a network one layer after the other would take one run of the whole network a layer. Here each layer runs twice in all:
once to be measured, once, corrected, in front of the next one. Between two layers the (integer) activations of all samples are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from exporter.graph.run import DISABLED
from exporter.graph.values import constant, is_constant, name_of
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
        self._values.update((value.name, value) for node in model.graph for value in node.outputs if value.name)
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
        raw = measured.outputs[0]
        graph = onnx.GraphProto()
        mean = _append_mean(graph, name_of(raw), len(raw.shape or ()))
        total: list[np.ndarray[Any, Any]] = [np.zeros(())]

        def add(_: int, array: np.ndarray[Any, Any]) -> None:
            total[0] = total[0] + array.astype(np.float64)

        self._run(segment, [n for n in segment if n is not measured], graph, mean, add)
        return np.asarray(total[0] / self._count)

    def inputs_of(self, node: str, see: Callable[[int, np.ndarray[Any, Any]], None]) -> None:
        """Call `see` with the number of each sample and the node's first input in it, dequantized.

        Everything in front of the node is run for the last time: it must not change any more.
        """
        value = self._nodes[node].inputs[0]
        producer = value.producer() if value is not None else None
        assert value is not None
        if producer is None or name_of(value) in self._held:
            for index, array in enumerate(self._held[name_of(value)]):
                see(index, array)
        else:
            segment = self._segment(producer)
            self._run(segment, segment, onnx.GraphProto(), ir.serde.serialize_value(value), see)

    def outputs(self) -> list[dict[str, np.ndarray[Any, Any]]]:
        """The graph's outputs in each sample, by name. Everything is run for the last time."""
        found: list[dict[str, np.ndarray[Any, Any]]] = [{} for _ in range(self._count)]
        for value in self._graph.outputs:
            name, producer = name_of(value), value.producer()
            if producer is None or name in self._held:
                fixed = constant(value)
                for sample, array in zip(found, self._held[name] if fixed is None else [fixed] * self._count, strict=True):
                    sample[name] = array
            else:
                segment = self._segment(producer)
                see = partial(_put, found, name)
                self._run(segment, segment, onnx.GraphProto(), ir.serde.serialize_value(value), see)
        return found

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
        """Whether a node that has still to run reads the value, directly or dequantized (dequantizing is repeated, not held), or the
        caller does."""
        if value.is_graph_output():
            return True
        for node, _ in value.uses():
            if node.op_type == "DequantizeLinear":
                if self._pending(node.outputs[0]):
                    return True
            elif node not in self._done:
                return True
        return False

    def _run(
        self,
        segment: list[ir.Node],
        final: list[ir.Node],
        graph: onnx.GraphProto,
        output: onnx.ValueInfoProto,
        see: Callable[[int, np.ndarray[Any, Any]], None],
    ) -> None:
        """Run the nodes of `segment`, then those of `graph`, once a sample; hand `output` on and hold what later layers read."""
        self._done.update(node for node in final if node.op_type != "DequantizeLinear")
        keep = [value for node in final for value in node.outputs if node in self._done and self._pending(value)]
        computed = {value for node in segment for value in node.outputs}
        inputs = [value for node in segment for value in node.inputs if value is not None and value not in computed]
        read = list(dict.fromkeys(inputs))
        feeds = [value for value in read if not is_constant(value)]
        whole = onnx.GraphProto(name="segment")
        whole.node.extend([*(self._protos[node] for node in segment), *graph.node])
        whole.initializer.extend([*(self._constants[name_of(value)] for value in read if is_constant(value)), *graph.initializer])
        whole.input.extend(ir.serde.serialize_value(value) for value in feeds)
        others = [value for value in keep if name_of(value) != output.name]
        whole.output.extend([output, *(ir.serde.serialize_value(value) for value in others)])
        session = _session(
            onnx.helper.make_model(whole, opset_imports=[onnx.helper.make_opsetid("", self._opset)], ir_version=10)
        )
        self._held.update({name_of(value): [] for value in keep})
        for index in range(self._count):
            names = [output.name, *(name_of(value) for value in others)]
            results = dict(
                zip(
                    names, session.run(names, {name_of(value): self._held[name_of(value)][index] for value in feeds}), strict=True
                )
            )
            see(index, results[output.name])
            for value in keep:
                self._held[name_of(value)].append(results[name_of(value)])
        for name in [name for name in self._held if not self._pending(self._values[name])]:
            del self._held[name]


def _put(to: Sequence[dict[str, np.ndarray[Any, Any]]], name: str, index: int, array: np.ndarray[Any, Any]) -> None:
    to[index][name] = array


def output_means(model: ir.Model, names: Sequence[str], samples: Sequence[Sample]) -> dict[str, np.ndarray[Any, Any]]:
    """Means of values of a float graph over samples and all axes but axis 1: one float64 a channel, by value name."""
    proto = ir.serde.serialize_model(model)
    ranks = {value.name: len(value.shape or ()) for node in model.graph for value in node.outputs}
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
    content = proto.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(DISABLED))
