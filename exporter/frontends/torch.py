"""PyTorch sources: ``nn.Module`` with example inputs, ``ExportedProgram``, ``.pt2``; through torch.export and the ONNX exporter on top of it."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from calibration import Preprocess
from calibration.importing import raised_at
from diagnostics import ModelError
from exporter.frontends.quiet import first_line, quiet, root_cause
from exporter.frontends.source import Array, Source, fingerprint, refuse_bad_weights, signatures
from exporter.graph.adopt_constants import adopt_constants
from exporter.graph.fix_shapes import fix_shapes
from exporter.graph.opset import OPSET

if TYPE_CHECKING:
    import torch

__all__ = ["TorchReference", "is_torch", "load_exported", "load_module", "load_pickle"]

# Parts of a .pt2 archive that hold pickled objects or compiled code.
_UNSAFE_PARTS: Final = ("custom_obj", "opaque_obj", "aotinductor/")


def is_torch(model: object) -> bool:
    """Whether `model` is an nn.Module or ExportedProgram, without importing torch for an object that cannot be one."""
    return any(
        cls.__module__.startswith("torch.") and cls.__name__ in ("Module", "ExportedProgram") for cls in type(model).__mro__
    )


class TorchReference:
    """Runs the original module in evaluation mode, without gradients; its training flags are as before afterwards."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str], keywords: Sequence[str], outputs: Sequence[str]) -> None:
        self._module, self._names, self._keywords, self._outputs = module, tuple(names), tuple(keywords), tuple(outputs)

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Outputs by name. `inputs` are by the graph's input names. Raises ModelError EW-M011 where they do not fit."""
        import torch
        from torch.utils import _pytree as pytree

        missing = [name for name in self._names if name not in inputs]
        if missing:
            raise ModelError("EW-M011", f"the inputs {missing} are missing", why=f"the model takes {list(self._names)}")
        tensors = [torch.from_numpy(np.array(inputs[name])) for name in self._names]
        positional = len(tensors) - len(self._keywords)
        try:
            with evaluating(self._module), torch.no_grad():
                result = self._module(*tensors[:positional], **dict(zip(self._keywords, tensors[positional:], strict=True)))
        except Exception as error:  # the user's own module may raise anything: an index out of its table, a shape
            raise ModelError("EW-M011", "the original module does not run on these inputs", why=first_line(error)) from error
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return {name: leaf.detach().cpu().numpy() for name, leaf in zip(self._outputs, leaves, strict=True)}


def load_module(
    module: torch.nn.Module,
    inputs: Any,
    *,
    name: str = "",
    shapes: Mapping[str, Sequence[int]] | None = None,
    preprocess: Preprocess | None = None,
) -> Source:
    """Trace a module in evaluation mode with example inputs, or with zeros of `shapes` (forward's argument name -> dims).

    `inputs` is a tensor or array, a sequence of them (positional), or a mapping by forward's argument names.
    Raises ModelError EW-M004 where torch cannot trace it, EW-M011 where inputs are missing or do not fit.
    """
    import torch

    args, kwargs = _example(inputs, shapes)
    with evaluating(module), torch.no_grad():
        try:
            with quiet(prints=True):
                exported = torch.export.export(module, args, kwargs)
        except Exception as error:  # torch.export raises whatever the traced code raises
            _require_runs(module, args, kwargs)
            raise _untraceable(module, error) from error
    return _from_exported(exported, module, name or type(module).__name__, preprocess)


def load_exported(
    path: Path | None,
    program: torch.export.ExportedProgram | None = None,
    *,
    allow_pickle: bool = False,
    preprocess: Preprocess | None = None,
) -> Source:
    """Take a ``.pt2`` file or an ExportedProgram.

    A .pt2 holds its graph as JSON and its weights as raw bytes, but torch unpickles example inputs, unusual weights and custom objects.
    Without `allow_pickle` torch is held to its restricted unpickler, and archives with custom objects or compiled code are refused
    (ModelError EW-M010). Raises EW-M002 where the file cannot be read, EW-M004 where it cannot be exported.
    """
    import torch

    if program is None:
        assert path is not None
        if not allow_pickle:
            _refuse_unsafe_archive(path)
        try:
            with quiet(prints=True), _restricted_unpickler(not allow_pickle):
                program = torch.export.load(path)
        except Exception as error:  # zip, JSON, schema and unpickling errors
            if "weights_only" in str(error).lower() or "Unsupported global" in str(error):
                raise _pickled(path, "it holds pickled objects other than tensors") from error
            raise ModelError(
                "EW-M002", f"{path} cannot be read", why=first_line(error), fix="is it a torch.export.save file?"
            ) from error
    return _from_exported(program, program.module(), path.stem if path is not None else "model", preprocess)


def load_pickle(path: Path, inputs: Any, *, allow_pickle: bool, shapes: Mapping[str, Sequence[int]] | None = None) -> Source:
    """Read a ``.pt``/``.pth`` file that holds a whole pickled module: only with `allow_pickle`, as it runs the code in the file."""
    import torch

    if not allow_pickle:
        raise _pickled(path, "a .pt or .pth file is a pickle")
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs foreign code
        raise ModelError(
            "EW-M002",
            f"{path} cannot be read",
            why=first_line(error),
            fix="classes that it names must be importable under the same names: give package.module:callable instead",
        ) from error
    if not isinstance(found, torch.nn.Module):
        raise ModelError(
            "EW-M003",
            f"{path} holds no module but an object of type {type(found).__name__}",
            why="weights alone do not say what to compute",
            fix="write a function that builds the module and loads the weights, and give module:function",
        )
    return load_module(found, inputs, name=path.stem, shapes=shapes)


def _from_exported(
    exported: torch.export.ExportedProgram, module: torch.nn.Module, name: str, preprocess: Preprocess | None
) -> Source:
    import torch

    try:
        # Without gradients: else attention decomposes into kernels whose outputs have the strides of training, and a view of them fails.
        with quiet(prints=True), torch.no_grad():
            # Not optimized: torch's optimizer drops what it adds or multiplies by nearly nothing (see `fold_constants`).
            program = torch.onnx.export(
                _plain_attention(exported), dynamo=True, opset_version=OPSET, verbose=False, optimize=False
            )
            assert program is not None
            model = program.model
    except Exception as error:  # the exporter wraps errors of every step
        raise _untraceable(module, error) from error
    adopt_constants(model.graph)
    model = model.clone()
    refuse_bad_weights(model)
    fix_shapes(model)
    positional, keyword = exported.example_inputs if exported.example_inputs is not None else ((), {})
    names = [value.name or "" for value in model.graph.inputs]
    tensors = [*positional, *keyword.values()]
    if len(tensors) != len(names) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ModelError(
            "EW-M011", f"the model takes {len(tensors)} arguments that are not all tensors", why=f"the graph has {names}"
        )
    outputs = [value.name or "" for value in model.graph.outputs]
    if len(set(outputs)) != len(outputs):
        raise ModelError("EW-M004", "the model returns the same tensor twice", fix="return it once")
    return Source(
        name=name,
        kind="torch",
        model=model,
        reference=TorchReference(module, names, tuple(keyword), outputs),
        sha256=fingerprint(model),
        inputs=signatures(model.graph.inputs),
        outputs=signatures(model.graph.outputs),
        preprocess=preprocess,
        example={key: tensor.detach().cpu().numpy() for key, tensor in zip(names, tensors, strict=True)},
    )


def _plain_attention(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Attention over more than one batch-like axis (windows of an image) as products and a softmax: torch's exporter takes rank 4 alone."""
    import torch

    operator = torch.ops.aten.scaled_dot_product_attention.default

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
        dropout: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if query.dim() == 4 or is_causal or enable_gqa:
            return NotImplemented
        weight = query @ key.transpose(-2, -1) * (scale if scale is not None else query.shape[-1] ** -0.5)
        if mask is not None:
            weight = weight.masked_fill(mask.logical_not(), float("-inf")) if mask.dtype == torch.bool else weight + mask
        return weight.softmax(-1) @ value

    wide = [node for node in exported.graph.nodes if node.target is operator and node.args[0].meta["val"].dim() != 4]
    return exported.run_decompositions({operator: attention}) if wide else exported


def _example(inputs: Any, shapes: Mapping[str, Sequence[int]] | None) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Example inputs as positional and keyword tensors."""
    import torch

    if inputs is None:
        if not shapes:
            raise ModelError(
                "EW-M011",
                "example inputs are missing",
                why="a module is traced by running it",
                fix="return (module, inputs) from the callable, or give --shape NAME=1,3,224,224 with forward's argument name",
            )
        return (), {name: torch.zeros(*shape) for name, shape in shapes.items()}

    def tensor(entry: Any) -> torch.Tensor:
        if isinstance(entry, torch.Tensor):
            return entry
        if isinstance(entry, np.ndarray):
            return torch.from_numpy(entry)
        raise ModelError("EW-M011", f"an example input is a {type(entry).__name__}, not a tensor or array")

    if isinstance(inputs, Mapping):
        return (), {str(name): tensor(entry) for name, entry in inputs.items()}
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        return tuple(tensor(entry) for entry in inputs), {}
    return (tensor(inputs),), {}


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module and its parts in evaluation mode; afterwards each has the training flag that it had."""
    before = {part: part.training for part in module.modules()}
    for part in before:
        part.training = False  # not eval(): the module of an ExportedProgram forbids it
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextlib.contextmanager
def _restricted_unpickler(restricted: bool) -> Iterator[None]:
    """Hold every torch.load to tensors and plain containers, those that ask for weights_only=False too."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    if restricted:
        os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


def _refuse_unsafe_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            "EW-M002", f"{path} cannot be read", why=first_line(error), fix="is it a torch.export.save file?"
        ) from error
    for name in names:
        if any(part in name for part in _UNSAFE_PARTS):
            raise _pickled(path, f"it holds {name}")


def _pickled(path: Path, why: str) -> ModelError:
    return ModelError(
        "EW-M010",
        f"reading {path} would run code that the file holds",
        why=why,
        fix="--allow-pickle where you trust the file; or save it with torch.export.save",
    )


def _require_runs(module: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError EW-M011 where the module does not even run on its example inputs: then it is not tracing that fails."""
    try:
        with quiet(prints=True):
            module(*args, **kwargs)
    except Exception as error:  # the user's own module may raise anything
        given = [f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in (*args, *kwargs.values())]
        raise ModelError(
            "EW-M011",
            f"{type(module).__name__} does not run on its example inputs",
            where=", ".join(given),
            why=f"{type(error).__name__}: {first_line(error)}",
            fix="give inputs that it takes: as inputs in Python, or with the module from the callable",
        ) from error


def _untraceable(module: torch.nn.Module, error: BaseException) -> ModelError:
    root = root_cause(error)
    return ModelError(
        "EW-M004",
        f"{type(module).__name__} cannot be exported",
        where=raised_at(error),
        why=f"{type(root).__name__}: {first_line(root)}",
        fix="make forward traceable by torch.export: no branches on tensor values, fixed shapes, tensors in and out",
    )
