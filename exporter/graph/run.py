"""The canonical graph, run in this process by onnxruntime: for calibration, bias correction and differential tests.

Only graphs that edgewright itself wrote run here; a user's file runs in a worker (`exporter.runtimes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import RuntimeFailure
from exporter.graph.values import activation_nodes, constant, fused_activation, name_of

__all__ = ["DISABLED", "FloatRunner", "Session", "observed_values"]

# Of onnxruntime's own rewrites, those behind which it refuses to load the graph (1.31): it moves padding into a pool with a smaller window,
# and it repeats encodings behind what only moves entries, whose int8 dtype (opset 21) then stays where it makes all int8 uint8.
DISABLED: Final = ("Pad_Fusion", "QDQPropagationTransformer")


class Session:
    """onnxruntime on a graph that edgewright wrote. One thread, so that the same inputs give the same bits whatever the number of cores.

    Raises RuntimeFailure EW-R002 where onnxruntime lacks a kernel of the graph.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with _refusals():
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(DISABLED)
            )

    def __call__(self, names: Sequence[str], feed: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The values `names`, in this order."""
        with _refusals():
            found: list[np.ndarray[Any, Any]] = self._session.run(list(names), dict(feed))
        return found


class FloatRunner:
    """Calls the graph: named inputs to named values. See `Session` for what it raises.

    Args:
        model: the graph.
        outputs: names of the values to give back, intermediate ones included; default: the graph's outputs.
    """

    def __init__(self, model: ir.Model, outputs: Sequence[str] | None = None) -> None:
        self.outputs = tuple(outputs) if outputs is not None else tuple(name_of(value) for value in model.graph.outputs)
        self._inputs = {name_of(value) for value in model.graph.inputs}
        fixed = model.graph.initializers
        self._constants = {name: np.asarray(constant(fixed[name])) for name in self.outputs if name in fixed}
        self._computed = [name for name in self.outputs if name not in self._inputs and name not in self._constants]
        self._session = Session(_with_outputs(model, self._computed)) if self._computed else None

    def __call__(self, sample: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        feed = {name: array for name, array in sample.items() if name in self._inputs}
        found = self._session(self._computed, feed) if self._session is not None else []
        results = self._constants | dict(zip(self._computed, found, strict=True))
        return {name: feed[name] if name in self._inputs else results[name] for name in self.outputs}


@contextmanager
def _refusals() -> Iterator[None]:
    """What onnxruntime raises of a graph that it lacks kernels for, as an error of ours."""
    try:
        yield
    except Exception as error:  # onnxruntime has an exception class a status
        raise RuntimeFailure(
            "EW-R002",
            "onnxruntime cannot run the float graph that calibration watches",
            why=" ".join(str(error).split())[:300],
            fix="a model with an operator younger than the installed onnxruntime exports to float targets only",
        ) from error


def observed_values(model: ir.Model) -> tuple[str, ...]:
    """Names of the floating-point values that a kernel writes or reads from outside: those that calibration watches.

    Graph inputs, then the output of every node that runs by itself (of the fused activation where there is one), in graph order.
    """
    computed = [value for node, _ in activation_nodes(model.graph) for value in _written(node)]
    values = [*model.graph.inputs, *computed]
    return tuple(dict.fromkeys(name_of(value) for value in values if value.dtype is not None and value.dtype.is_floating_point()))


def _written(node: ir.Node) -> Sequence[ir.Value]:
    return [value for value in (fused_activation(node) or node).outputs if value.name]


def _with_outputs(model: ir.Model, names: Sequence[str]) -> bytes:
    """The serialized model with `names` as its outputs (those that are graph inputs aside)."""
    proto = ir.to_proto(model)
    known = {value.name: value for node in model.graph for value in node.outputs}
    del proto.graph.output[:]
    for name in names:
        if name in known:
            proto.graph.output.append(ir.serde.serialize_value(known[name]))
    return bytes(proto.SerializeToString())
