"""Convert one artifact to an ML program: ``python -m exporter.compilers.coreml_script ARTIFACT OPTIONS PACKAGE``, in a process of its own.

The graph is read back from the artifact and run through the operators' torch facets, that run is exported, and coremltools converts it.
OPTIONS are the compiler's as JSON; PACKAGE is the folder to write. The last line that it prints is its report as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from exporter.compilers.coreml_torch import Unconverted, constants_of, require_nodes, require_whole, run
from exporter.frontends.quiet import first_line
from exporter.graph.values import name_of, static_shape
from exporter.ops.base import Refused, operator_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["main"]

_NAMESPACE: Final = uuid.UUID("6d0f7d1e-3f0c-5c9b-9a35-0c7a4e1f5b11")  # of the identifiers in a package's manifest
_DATA: Final = "Data"
_DATE: Final = "com.github.apple.coremltools.conversion_date"
_DEBUG: Final = "executorch_debug_handle_mapping.json"


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 where the artifact is refused, with the reason on stderr."""
    artifact, options, package = arguments
    logging.disable(logging.WARNING)  # which releases coremltools was tested with, and which of its libraries are macOS's alone
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        report = _convert(Path(artifact), json.loads(options), Path(package))
    except Exception as error:  # whatever torch or coremltools raises is a refusal
        print(error if isinstance(error, Unconverted) else f"{type(error).__name__}: {first_line(error)}", file=sys.stderr)
        return 1
    sys.stderr.flush()
    print(json.dumps(report), flush=True)
    return 0


def _convert(artifact: Path, options: Mapping[str, Any], package: Path) -> dict[str, Any]:
    """The report: operators of the ML program by type, and its inputs and outputs by their names in the artifact."""
    import coremltools as ct
    import torch

    from exporter.frontends import load

    torch.set_num_threads(1)
    source = load(artifact)
    graph = source.model.graph
    if refused := [f"{node.name} ({node.op_type}): {reason}" for node in graph if (reason := _refusal(node))]:
        raise Unconverted("no torch function for " + "; ".join(refused))
    constants, sample = constants_of(graph), _sample(graph)
    given = [torch.from_numpy(sample[name_of(value)]) for value in graph.inputs]
    require_nodes(source.model, constants, sample)
    precision = str(options["precision"])
    if precision == "float16":
        _refuse_overflow(run(graph, constants, given))
    names = [_identifier(value) for value in (*graph.inputs, *graph.outputs)]
    if len(set(names)) < len(names):
        raise Unconverted(f"inputs and outputs would have the same names in an ML program: {', '.join(names)}")
    named = dict(zip(names, given, strict=False))
    # Not jit.trace: where an operator's function asks for the numbers themselves, a trace keeps the sample's answer and export refuses.
    program = torch.export.export(_module(graph, constants), (), named, strict=False).run_decompositions({})
    found = dict(zip(map(name_of, graph.outputs), program.module()(**named), strict=True))
    apart = require_whole(found, source.reference(sample), graph, constants, given)
    converted = ct.convert(
        program,
        outputs=[_output(value, name) for value, name in zip(graph.outputs, names[len(given) :], strict=True)],
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, str(options["deployment_target"])),
        compute_precision={"float16": ct.precision.FLOAT16, "float32": ct.precision.FLOAT32}[precision],
        skip_model_load=True,
    )
    converted.save(str(package))
    _settle(package)
    features = _features(graph, converted.get_spec().description)
    operators = Counter(op.op_type for op in converted._mil_program.functions["main"].operations if op.op_type != "const")
    return {"operators": dict(sorted(operators.items())), "features": features, "apart": apart}


def _module(graph: ir.Graph, constants: Mapping[ir.Value, Tensor]) -> Module:
    """The graph as a module that takes the inputs by whatever names, and gives the outputs, in the graph's order."""
    import torch

    class Graph(torch.nn.Module):
        def forward(self, **given: Tensor) -> tuple[Tensor, ...]:
            values = run(graph, constants, list(given.values()))
            return tuple(values[value] for value in graph.outputs)

    return Graph().eval()


def _refuse_overflow(values: Mapping[ir.Value, Tensor]) -> None:
    """Raises Unconverted where a number of the sample or a constant is infinite in float16 alone."""
    greatest = float(np.finfo(np.float16).max)
    for value, tensor in values.items():
        if tensor.is_floating_point() and bool((tensor.isfinite() & (tensor.abs() > greatest)).any()):
            raise Unconverted(
                f"{value.name} holds numbers beyond {greatest:g}, which float16 does not have; "
                'ask for options = { precision = "float32" } in [compile]'
            )


def _refusal(node: ir.Node) -> str:
    """Why a node has no torch function; "" where it has one."""
    try:
        operator = operator_of(node)
    except Refused as refused:
        return refused.reason
    return "" if operator.has("torch") else operator.refuses.get("torch", f"{node.op_type} has no torch rule")


def _sample(graph: ir.Graph) -> dict[str, np.ndarray[Any, Any]]:
    """One input of each: floats are normal numbers, integers and booleans 0 or 1."""
    generator = np.random.default_rng(0)
    sample = {}
    for value in graph.inputs:
        assert value.dtype is not None
        dtype, shape = value.dtype.numpy(), static_shape(value)
        drawn = generator.standard_normal(shape) if np.issubdtype(dtype, np.floating) else generator.integers(0, 2, shape)
        sample[name_of(value)] = np.asarray(drawn, dtype)
    return sample


def _identifier(value: ir.Value) -> str:
    """The value's name as far as an ML program can have it."""
    return re.sub(r"^(?=\d)", "_", re.sub(r"\W", "_", name_of(value), flags=re.ASCII))


def _features(graph: ir.Graph, description: Any) -> dict[str, str]:
    """Name in the artifact -> name in the ML program. coremltools says which: some words are its own.

    Raises Unconverted where the program has other inputs or outputs than the graph.
    """
    values, found = [*graph.inputs, *graph.outputs], [*description.input, *description.output]
    if len(description.input) != len(graph.inputs) or len(description.output) != len(graph.outputs):
        raise Unconverted(f"the ML program has the inputs and outputs {', '.join(entry.name for entry in found)}")
    for value, entry in zip(values, found, strict=True):
        if tuple(entry.type.multiArrayType.shape) != static_shape(value):
            raise Unconverted(f"{value.name} has the shape {tuple(entry.type.multiArrayType.shape)} in the ML program")
    return {name_of(value): entry.name for value, entry in zip(values, found, strict=True)}


def _output(value: ir.Value, feature: str) -> Any:
    """An output as the artifact has it: what is float32 there stays so, whatever the ML program computes in."""
    import coremltools as ct

    return ct.TensorType(name=feature, dtype=np.float32) if value.dtype == ir.DataType.FLOAT else ct.TensorType(name=feature)


def _settle(package: Path) -> None:
    """Take out of a saved package what another run would write in another way: date, identifiers, order of maps."""
    from coremltools.proto import Model_pb2

    manifest = json.loads((package / "Manifest.json").read_text())
    entries = manifest["itemInfoEntries"]
    path = package / _DATA / entries[manifest["rootModelIdentifier"]]["path"]
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    spec.description.metadata.userDefined.pop(_DATE, None)
    path.write_bytes(spec.SerializeToString(deterministic=True))
    own = {old: str(uuid.uuid5(_NAMESPACE, entry["path"])) for old, entry in entries.items()}
    manifest["itemInfoEntries"] = {own[old]: entry for old, entry in entries.items()}
    manifest["rootModelIdentifier"] = own[manifest["rootModelIdentifier"]]
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")
    (package / _DEBUG).unlink(missing_ok=True)  # for ExecuTorch's debugger


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
