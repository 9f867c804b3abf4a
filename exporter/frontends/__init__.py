"""From whatever a user has to one graph: `load` knows which frontend reads it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from calibration import Preprocess
from calibration.importing import import_callable, user_code
from diagnostics import EdgewrightError, ModelError, UsageError
from exporter.frontends.quiet import first_line, quiet, root_cause
from exporter.frontends.source import Reference, Signature, Source
from exporter.graph.passes import canonicalize

__all__ = ["Reference", "Signature", "Source", "load"]

_CALLABLE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FORMS: Final = "an .onnx, .tflite, .pt2, .keras or .h5 file, a SavedModel's folder, or package.module:callable"
_KERAS: Final = frozenset({".h5", ".hdf5", ".keras"})
_KEYS: Final = frozenset({"model", "inputs", "shapes", "preprocess"})


def load(
    model: Any,
    *,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    allow_pickle: bool = False,
) -> Source:
    """Read a model.

    Args:
        model: an ``nn.Module`` or ``ExportedProgram``; a path of an .onnx, .tflite, .pt2 (or, with `allow_pickle`, .pt/.pth) file;
            ``"package.module:callable"``, looked up with the current directory on the path; or what such a callable may return:
            a module or path, a pair (module, example inputs), or a mapping with the key "model" and, at will, "inputs", "shapes"
            and "preprocess" (a `calibration.Preprocess` or its fields).
        inputs: example inputs of a module: a tensor or array, a sequence of them, or a mapping by forward's argument names.
        shapes: static shapes of inputs that are dynamic. A dynamic leading (batch) dimension is 1 without being asked for.
        allow_pickle: read files whose loading can run code that they hold.

    Raises:
        ModelError: EW-M001 to EW-M011, each with what to do about it.
        UsageError: EW-U003 where a module:callable cannot be imported or called, EW-U005 where torch is needed and absent.
    """
    if isinstance(model, Source):
        return model
    source = _read(model, inputs, shapes, allow_pickle)
    try:
        with quiet():
            return replace(source, model=canonicalize(source.model))
    except EdgewrightError:
        raise
    except Exception as error:  # a graph that is valid by its syntax alone breaks other libraries' passes in their own ways
        cause = root_cause(error)
        raise ModelError(
            "EW-M007",
            f"the graph of {source.name} cannot be canonicalized",
            why=f"{type(cause).__name__}: {first_line(cause)}",
            fix="onnx.checker.check_model says whether the model is valid",
        ) from error


def _read(model: Any, inputs: Any, shapes: Mapping[str, Sequence[int]] | None, allow_pickle: bool) -> Source:
    """As `load`, the graph as its frontend gives it."""
    from exporter.frontends.torch import is_torch

    if is_torch(model):
        return _load_torch(model, inputs, shapes)
    if isinstance(model, Mapping):
        return _load_mapping(model, inputs, shapes, allow_pickle)
    if isinstance(model, tuple | list) and len(model) == 2:
        return _read(model[0], model[1] if inputs is None else inputs, shapes, allow_pickle)
    if isinstance(model, str) and _CALLABLE.fullmatch(model) and not Path(model).exists():
        returned = _call(model)
        return replace(_read(returned, inputs, shapes, allow_pickle), name=model.rpartition(":")[2])
    if isinstance(model, str | os.PathLike):
        return _load_path(Path(model), inputs, shapes, allow_pickle)
    raise ModelError(
        "EW-M003",
        f"a model cannot be read from a {type(model).__name__}",
        fix=f"give an nn.Module with example inputs, {_FORMS}",
    )


def _load_torch(model: Any, inputs: Any, shapes: Mapping[str, Sequence[int]] | None) -> Source:
    from exporter.frontends.torch import load_exported, load_module

    if type(model).__name__ == "ExportedProgram":
        return load_exported(None, model)
    return load_module(model, inputs, shapes=shapes)


def _load_mapping(
    model: Mapping[str, Any], inputs: Any, shapes: Mapping[str, Sequence[int]] | None, allow_pickle: bool
) -> Source:
    unknown = set(model) - _KEYS
    if "model" not in model or unknown:
        raise ModelError("EW-M003", f"a mapping with the keys {sorted(model)} is not a model", why=f"it may hold {sorted(_KEYS)}")
    loaded = _read(
        model["model"],
        model.get("inputs") if inputs is None else inputs,
        model.get("shapes") if shapes is None else shapes,
        allow_pickle,
    )
    preprocess = model.get("preprocess")
    if isinstance(preprocess, Mapping):
        preprocess = Preprocess.from_dict(preprocess)
    return replace(loaded, preprocess=preprocess)


def _load_path(path: Path, inputs: Any, shapes: Mapping[str, Sequence[int]] | None, allow_pickle: bool) -> Source:
    if not path.parts or not path.exists():  # Path("") is the working directory
        raise ModelError("EW-M001", f"the model {str(path) if path.parts else repr('')} does not exist", fix=f"give {_FORMS}")
    suffix = path.suffix.lower()
    if suffix in _KERAS or (path / "saved_model.pb").exists():
        from exporter.frontends.keras import load_keras

        return load_keras(path, shapes, unsafe=allow_pickle)
    if path.is_dir():
        raise ModelError("EW-M003", f"{path} is a folder, not a model", fix=f"give {_FORMS}")
    if suffix == ".pb":
        raise ModelError(
            "EW-M003",
            f"{path} is a graph of TensorFlow",
            why="it says neither what its inputs are nor, in a SavedModel, what its weights are",
            fix="give the folder of the SavedModel, or a Keras, TFLite or ONNX file",
        )
    if suffix == ".onnx":
        from exporter.frontends.onnx import load_onnx

        return load_onnx(path, shapes)
    if suffix in (".tflite", ".lite"):
        from exporter.frontends.tflite import load_tflite

        return load_tflite(path, shapes)
    if suffix in (".pt2", ".pt", ".pth"):
        _need_torch(path)
        from exporter.frontends.torch import load_exported, load_pickle

        if suffix == ".pt2":
            return load_exported(path, allow_pickle=allow_pickle)
        return load_pickle(path, inputs, allow_pickle=allow_pickle, shapes=shapes)
    raise ModelError("EW-M003", f"the format of {path} is not known", fix=f"give {_FORMS}")


def _need_torch(path: Path) -> None:
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise UsageError("EW-U005", f"reading {path} needs torch", fix="pip install 'edgewright[torch]'") from error


def _call(spec: str) -> Any:
    """What ``package.module:callable`` returns, called without arguments."""
    before = list(sys.path)
    try:
        called = import_callable(spec, "the model")
        with user_code(f"the model {spec}"):
            return called()
    finally:
        sys.path[:] = before
