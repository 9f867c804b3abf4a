"""Parity of two runtimes on one ONNX QDQ artifact, layer by layer: what an accelerator's kernels round otherwise than the CPU's do.

As in `parity`, the model is cut at every quantized value, so that each layer reads the integers that ONNX Runtime's CPU kernels gave the layer
before it: a difference is that of one layer, not the sum of all before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import DataError, ModelError
from exporter.runtimes.session import Session, open_session
from exporter.verification.cut import Point, cut_layers, encoding_of, operators_before
from exporter.verification.parity import LayerParity, Parity, Tally

__all__ = ["emulated_parity", "runtime_parity"]

Array = np.ndarray[Any, Any]

_CPU: Final = "onnxruntime"


def runtime_parity(
    qdq: str | Path, samples: Iterable[Mapping[str, Array]], runtime: str, *, options: Mapping[str, Any] | None = None
) -> Parity:
    """Compare every layer of a QDQ artifact on `runtime` with ONNX Runtime's CPU kernels, each on the same integer inputs.

    The reference computes as the file says, from DequantizeLinear to QuantizeLinear in float32: no fusion rounds once more or less. How
    inputs are rounded is not compared: alone, that is no work for an accelerator.

    Args:
        samples: by input name, as the artifact takes them.
        options: of the adapter of `runtime`. It may leave nodes to the CPU (qnn-htp: `cpu_fallback`), as transposes that it adds at borders
            which only this cut has; the artifact's own nodes among them are named in `Parity.uncompared`.
    Raises:
        DataError: EW-D001, there is no sample.
        ModelError: EW-Q002, the artifact has no quantized value.
        RuntimeFailure: as `open_session`.
    """
    import onnx

    model = onnx.load(str(qdq))
    names = _quantized(model)
    if not names:
        raise ModelError("EW-Q002", f"{qdq} has no quantized value")
    walk = iter(samples)
    first = next(walk, None)
    if first is None:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        (folder / "watched.onnx").write_bytes(_watched(model, names))
        with open_session(_CPU, folder / "watched.onnx", options={"optimize": False}) as cpu:
            integers = cpu.run(first)
            points = tuple(_point(tensor, op, integers[tensor]) for tensor, op in names.items())
            (folder / "layers.onnx").write_bytes(cut_layers(model, points))
            tallies = {point.tensor: Tally() for point in points if point.op}
            with open_session(runtime, folder / "layers.onnx", options=options) as other:
                left = set(other.report().get("cpu", ()))
                count = _compare(other, points, integers, first, tallies)
                for sample in walk:
                    count += _compare(other, points, cpu.run(sample), sample, tallies)
    layers = (LayerParity.of(point.value, point.op, tallies[point.tensor]) for point in points if point.op)
    own = (f"{node.name} ({node.op_type})" for node in model.graph.node)
    return Parity(count, tuple(layers), tuple(node for node in own if node in left), f"{runtime} and {_CPU}")


def emulated_parity(qdq: Path, samples: Iterable[Mapping[str, Array]], runtime: str, options: Mapping[str, Any]) -> Parity:
    """`runtime_parity` of an emulator that `options` keep from the CPU, but for what the cut adds. Raises as that."""
    return runtime_parity(qdq, samples, runtime, options={**options, "cpu_fallback": True})


def _quantized(model: Any) -> dict[str, str]:
    """Name of every value that is rounded to an encoding of its own -> the operators that compute it; "" of a rounded input."""
    import onnx

    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    return {
        node.output[0]: operators_before(node, producers) if node.input[0] in producers else ""
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants and encoding_of(node, constants) is not None
    }


def _watched(model: Any, names: Iterable[str]) -> bytes:
    """The model with these values as outputs too."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {entry.name for entry in watched.graph.output}
    types = {entry.name: entry for entry in watched.graph.value_info}
    for name in names:
        if name not in given:
            watched.graph.output.append(types.get(name) or onnx.ValueInfoProto(name=name))
    return bytes(watched.SerializeToString())


def _point(tensor: str, op: str, integers: Array) -> Point:
    value = tensor.removesuffix("_quantized")
    return Point(tensor, value, op, tensor, integers.dtype.name, 0, False, integers.shape)


def _compare(
    session: Session,
    points: Iterable[Point],
    integers: Mapping[str, Array],
    sample: Mapping[str, Array],
    tallies: Mapping[str, Tally],
) -> int:
    known = dict(sample) | {point.fed: integers[point.tensor] for point in points}
    for name, found in session.run({info.name: known[info.name] for info in session.inputs}).items():
        tallies[name].add(np.abs(found.astype(np.int32) - integers[name].astype(np.int32)))
    return 1
