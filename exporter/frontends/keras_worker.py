"""TensorFlow in a process of its own: turns a Keras file or SavedModel into float TFLite once, then runs the original on request.

It speaks the protocol of `exporter/runtimes/worker.py`, which lies beside this file's folder, and imports nothing else of edgewright, so that
it runs under any interpreter that has tensorflow::

    python keras_worker.py tensorflow MODEL '{"tflite": "where/to/write.tflite", "shapes": {"image": [1, 32, 32, 3]}, "unsafe": false}'
"""

# ruff: noqa: B905 - zip(strict=) needs Python 3.10, and the protocol's file runs from 3.9 on
from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # the modules beside this file must not shadow keras and others

__all__ = ["TensorFlow", "static_shape"]

# A function of tensors in the order of the inputs that gives outputs by name, and each input's name, shape (None: open) and dtype.
_Loaded = tuple[Callable[[Sequence[Any]], dict[str, Any]], list[tuple[str, list[int | None], Any]]]


def static_shape(name: str, shape: Sequence[int | None], wanted: Mapping[str, Sequence[int]]) -> list[int]:
    """The shape of an input with all dimensions known: the one asked for, or its own with a batch of 1. Raises ValueError where one is open."""
    if name in wanted:
        fits = len(wanted[name]) == len(shape) and all(have in (None, size) for have, size in zip(shape, wanted[name]))
        if not fits:
            raise ValueError(f"shape {tuple(wanted[name])} does not fit the input {name!r} of shape {tuple(shape)}")
        return list(wanted[name])
    fixed = [1 if size is None and axis == 0 else size for axis, size in enumerate(shape)]
    if None in fixed:
        raise ValueError(f"dimension {fixed.index(None)} of the input {name!r} is open: give it, --shape {name}=...")
    return [int(size) for size in fixed if size is not None]


class TensorFlow:
    """The original as a function of named inputs with static shapes. Options: tflite (where to write), shapes, unsafe (run stored code)."""

    def __init__(self, artifact: str, options: Mapping[str, Any]) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        self._tf = tf
        path = Path(artifact)
        module = tf.Module()
        call, entries = (
            self._saved_model(path, module) if path.is_dir() else self._keras(path, module, not options.get("unsafe", False))
        )
        unknown = set(options.get("shapes", {})) - {name for name, _, _ in entries}
        if unknown:
            raise ValueError(f"the model has no input {sorted(unknown)[0]!r}; its inputs are {[name for name, _, _ in entries]}")
        specs = [
            tf.TensorSpec(static_shape(name, shape, options.get("shapes", {})), dtype, name) for name, shape, dtype in entries
        ]
        module.serve = tf.function(lambda *tensors: call(tensors), input_signature=specs)
        self._names = [spec.name for spec in specs]
        self._module = module
        concrete = module.serve.get_concrete_function()
        self.inputs = [_info(spec.name, spec.shape, spec.dtype) for spec in specs]
        self.outputs = [_info(name, tensor.shape, tensor.dtype) for name, tensor in sorted(concrete.structured_outputs.items())]
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
            Path(options["tflite"]).write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())

    def run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        tensors = [self._tf.constant(arrays[name]) for name in self._names]
        return {name: tensor.numpy() for name, tensor in self._module.serve(*tensors).items()}

    def _keras(self, path: Path, module: Any, safe: bool) -> _Loaded:
        import keras

        model = keras.models.load_model(str(path), compile=False, safe_mode=safe)
        module.kept = [variable.value for variable in model.variables]  # what is saved must be reachable from the module
        inputs, names = list(model.inputs or []), list(getattr(model, "output_names", []))
        if not inputs:
            raise ValueError("the model was saved before it was built: its inputs are unknown")

        def call(tensors: Sequence[Any]) -> dict[str, Any]:
            found = self._tf.nest.flatten(model(tensors[0] if len(tensors) == 1 else list(tensors), training=False))
            titles = names if len(names) == len(found) else [f"output_{index}" for index in range(len(found))]
            return dict(zip(titles, found))

        return call, [(entry.name, list(entry.shape), entry.dtype) for entry in inputs]

    def _saved_model(self, path: Path, module: Any) -> _Loaded:
        """The function of the signature serving_default, its variables kept by `module`; frozen where its objects cannot be revived."""
        try:
            module.kept = self._tf.saved_model.load(str(path))
        except Exception:  # optimizers of older releases fail in their own ways, and are not needed
            return self._frozen(path)
        if "serving_default" not in module.kept.signatures:
            raise ValueError(f"it has no signature serving_default, only {sorted(module.kept.signatures)}")
        signature = module.kept.signatures["serving_default"]
        specs = signature.structured_input_signature[1]

        def call(tensors: Sequence[Any]) -> dict[str, Any]:
            return dict(signature(**dict(zip(specs, tensors))))

        return call, [(name, _dims(spec.shape), spec.dtype) for name, spec in specs.items()]

    def _frozen(self, path: Path) -> _Loaded:
        """The graph of the signature serving_default with its variables as constants."""
        v1, graph = self._tf.compat.v1, self._tf.Graph()
        with graph.as_default(), v1.Session(graph=graph) as session:
            signature = v1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
            inputs, outputs = (dict(sorted(part.items())) for part in (signature.inputs, signature.outputs))
            nodes = [entry.name.split(":")[0] for entry in outputs.values()]
            frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), nodes)
            given = [graph.get_tensor_by_name(entry.name) for entry in inputs.values()]
        wrapped = v1.wrap_function(lambda: self._tf.graph_util.import_graph_def(frozen, name=""), [])
        function = wrapped.prune([entry.name for entry in inputs.values()], [entry.name for entry in outputs.values()])

        def call(tensors: Sequence[Any]) -> dict[str, Any]:
            return dict(zip(outputs, function(*tensors)))

        return call, [(name, _dims(tensor.shape), tensor.dtype) for name, tensor in zip(inputs, given)]


def _dims(shape: Any) -> list[int | None]:
    if shape.rank is None:
        raise ValueError("an input is of unknown rank")
    dims: list[int | None] = shape.as_list()
    return dims


def _info(name: str, shape: Any, dtype: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [-1 if size is None else int(size) for size in shape],
        "dtype": dtype.name,
        "scales": [],
        "zero_points": [],
        "axis": 0,
    }


def _main() -> int:
    place = Path(__file__).resolve().parent.parent / "runtimes" / "worker.py"
    spec = importlib.util.spec_from_file_location("edgewright_worker", place)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.ADAPTERS["tensorflow"] = TensorFlow
    status: int = worker.main(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(_main())
