"""Open an artifact so that every quantized value of a run can be read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from exporter.quantization.plan import Encoding, Plan
from exporter.runtimes.session import Session, open_session
from exporter.verification.runner import ArtifactRunner

__all__ = ["Kept", "open_kept", "stored_layouts"]

Array = np.ndarray[Any, Any]


class Kept(Protocol):
    """An open artifact whose inner values can be read."""

    def run(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Raw tensors of a run on a canonical sample, by the artifact's names."""
        ...

    def encodings(self) -> dict[str, Encoding]:
        """Encodings of the integer ones among them."""
        ...


@contextmanager
def open_kept(artifact: str | Path, layouts: Mapping[str, str], *, timeout_s: float = 120.0) -> Iterator[Kept]:
    """A .tflite on LiteRT's reference kernels, or a .onnx in QDQ form on onnxruntime. Raises as `open_session`."""
    if Path(artifact).suffix == ".onnx":
        with tempfile.TemporaryDirectory() as folder:
            opened, encodings = _expose(Path(artifact))
            path = Path(folder) / "exposed.onnx"
            path.write_bytes(opened)
            with open_session("onnxruntime", path, timeout_s=timeout_s) as session:
                yield _Exposed(session, layouts, encodings)
    else:
        with open_session("litert-ref", artifact, timeout_s=timeout_s, keep_tensors=True) as session:
            yield _Preserved(session, layouts)


def stored_layouts(graph: ir.Model, plan: Plan) -> dict[str, str]:
    """How the TFLite artifact of a plan stores every value: as the plan's layout says, its inputs and outputs as `io_layout` says."""
    boundary = {value.name or "" for value in (*graph.graph.inputs, *graph.graph.outputs)} if plan.io_layout == "keep" else set()
    return {**plan.layout, **dict.fromkeys(boundary & set(plan.layout), "keep")}


class _Preserved:
    def __init__(self, session: Session, layouts: Mapping[str, str]) -> None:
        self._session, self._runner = session, ArtifactRunner(session, layouts)

    def run(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        self._runner(sample)
        return self._session.tensors()

    def encodings(self) -> dict[str, Encoding]:
        return self._session.encodings()


class _Exposed:
    def __init__(self, session: Session, layouts: Mapping[str, str], encodings: dict[str, Encoding]) -> None:
        self._session, self._runner, self._encodings = session, ArtifactRunner(session, layouts, encodings), encodings

    def run(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        inputs = self._runner.encode(sample)
        return {**inputs, **self._session.run(inputs)}

    def encodings(self) -> dict[str, Encoding]:
        return self._encodings


def _expose(artifact: Path) -> tuple[bytes, dict[str, Encoding]]:
    """The model with every QuantizeLinear output as an output, and the encodings of these and of integer inputs."""
    import onnx

    from exporter.verification.cut import encoding_of

    model = onnx.load(str(artifact))
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    given = {entry.name for entry in model.graph.output}
    fed = {entry.name for entry in model.graph.input}
    encodings: dict[str, Encoding] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in fed:
            outside = encoding_of(node, constants)
            encodings |= {node.input[0]: outside} if outside is not None else {}
        encoding = encoding_of(node, constants) if node.op_type == "QuantizeLinear" else None
        if encoding is None:
            continue
        name = node.output[0]
        encodings[name] = encoding
        if name not in given:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(encoding.dtype))
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, dtype, None))
    return bytes(model.SerializeToString()), encodings
