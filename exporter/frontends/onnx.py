"""ONNX files of any opset: weights as initializers, Constant nodes or external data inside of the model's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from calibration import Preprocess
from diagnostics import EdgewrightError, ModelError
from exporter.frontends.quiet import first_line, quiet, root_cause
from exporter.frontends.source import Array, Source, refuse_bad_weights, signatures
from exporter.graph.fix_shapes import fix_shapes
from exporter.graph.infer_shapes import infer_shapes

__all__ = ["OnnxReference", "load_onnx"]

_EXTERNAL_LIMIT: Final = 16 << 30  # bytes of external data


class OnnxReference:
    """Runs an untouched ONNX file, dynamic dimensions as they are: on onnxruntime, one thread, or, where it cannot load the file (an opset or
    dtype that it lacks), on the ONNX project's reference implementation.
    """

    def __init__(self, path: Path, *, optimize: bool = True) -> None:
        self._path, self._optimize = path, optimize

    def as_written(self) -> OnnxReference:
        """The same file, operator by operator, where it holds integers that stand for real numbers; else the same reference.

        Of these onnxruntime fuses kernels that round on their own: of DequantizeLinear and MatMul one that rounds the activations too (seen in
        1.31, 53 dB from the file's own arithmetic).
        """
        return OnnxReference(self._path, optimize=False) if self._dequantizes else self

    @cached_property
    def _dequantizes(self) -> bool:
        return any(node.op_type == "DequantizeLinear" or node.op_type.startswith("QLinear") for node in _parse(self._path).graph)

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Outputs by name. Raises ModelError EW-M002 where onnxruntime cannot load the file, EW-M011 where inputs do not fit."""
        try:
            outputs = self._run({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in inputs.items()})
        except EdgewrightError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError("EW-M011", f"the original model {self._path.name} does not run", why=first_line(error)) from error
        return outputs

    @cached_property
    def _run(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            slow = self._reference()
            if slow is None:
                raise ModelError("EW-M002", f"onnxruntime cannot load {self._path}", why=first_line(error)) from error
            return lambda inputs: dict(zip(slow.output_names, map(np.asarray, slow.run(None, dict(inputs))), strict=True))
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))

    def _reference(self) -> Any:
        """The reference implementation's runner, or None where it lacks an operator as well."""
        from onnx.reference import ReferenceEvaluator

        try:
            return ReferenceEvaluator(str(self._path))
        except Exception:  # NotImplementedError, RuntimeContextError and others
            return None


def load_onnx(path: Path, shapes: Mapping[str, Sequence[int]] | None = None, preprocess: Preprocess | None = None) -> Source:
    """Read an ONNX file.

    Raises ModelError EW-M002 (not a readable ONNX model), EW-M005 (NaN in a weight),
    EW-M006 (a dimension needs a value), EW-M008 (external data outside of the folder or missing).
    """
    try:
        return _load(path, shapes, preprocess)
    except EdgewrightError:
        raise
    except Exception as error:  # a damaged file can hold anything where a name or a number should be
        raise _unreadable(path, first_line(root_cause(error))) from error


def _load(path: Path, shapes: Mapping[str, Sequence[int]] | None, preprocess: Preprocess | None) -> Source:
    model = _parse(path)
    digest = hashlib.sha256(path.read_bytes())
    for file in _external_files(model, path.parent):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    ir.external_data.load_to_model(model)
    common.RemoveInitializersFromInputsPass()(model)
    refuse_bad_weights(model)
    fix_shapes(model, shapes)
    reference = OnnxReference(path)
    _infer_outputs(model, reference)
    return Source(
        name=path.stem,
        kind="onnx",
        model=model,
        reference=reference,
        sha256=digest.hexdigest(),
        inputs=signatures(model.graph.inputs),
        outputs=signatures(model.graph.outputs),
        preprocess=preprocess,
    )


def _parse(path: Path) -> ir.Model:
    try:
        with quiet():
            model = ir.load(path, format="protobuf").clone()  # a graph that uses what nothing computes cannot be cloned
    except Exception as error:  # protobuf and the deserializer raise a dozen kinds for bytes that are no model
        raise _unreadable(path, first_line(root_cause(error))) from error
    if not model.graph.outputs or not len(model.graph):
        raise _unreadable(path, "it holds no graph")
    return model


def _external_files(model: ir.Model, folder: Path) -> list[Path]:
    """Files of external data, sorted, after checking that each lies in `folder` and is as long as the model says."""
    root = folder.resolve()
    files: set[Path] = set()
    total = 0
    for graph in model.graphs():
        tensors = [value.const_value for value in graph.initializers.values()]
        tensors += [a.value for node in graph for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
        for tensor in tensors:
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            file = (root / str(tensor.location)).resolve()
            if not file.is_relative_to(root):
                raise ModelError(
                    "EW-M008", f"the weight {tensor.name!r} lies outside of the model's folder", where=str(tensor.location)
                )
            if not file.is_file():
                raise ModelError("EW-M008", f"the file of the weight {tensor.name!r} is missing", where=str(file))
            end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
            if min(tensor.offset or 0, end) < 0 or end > file.stat().st_size or tensor.nbytes > end - (tensor.offset or 0):
                raise ModelError(
                    "EW-M008", f"the file of the weight {tensor.name!r} is too short", where=str(file), why=f"{end} bytes wanted"
                )
            total += tensor.nbytes
            files.add(file)
    if total > _EXTERNAL_LIMIT:
        raise ModelError("EW-M008", f"external data of {total} bytes", why=f"the limit is {_EXTERNAL_LIMIT} bytes")
    return sorted(files)


def _infer_outputs(model: ir.Model, reference: OnnxReference) -> None:
    """Give the graph's outputs static shapes: by inference, or, where it does not reach, by running the original on zeros."""
    if all(_static(value) for value in model.graph.outputs):
        return
    infer_shapes(model, strict=False)
    if all(_static(value) for value in model.graph.outputs):
        return
    zeros = {entry.name: np.zeros(entry.shape, entry.dtype) for entry in signatures(model.graph.inputs)}
    outputs = reference(zeros)
    for value in model.graph.outputs:
        array = outputs[value.name or ""]
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)


def _static(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) and dim > 0 for dim in value.shape)


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError("EW-M002", f"{path} is not a readable ONNX model", why=why, fix="is the file complete?")
