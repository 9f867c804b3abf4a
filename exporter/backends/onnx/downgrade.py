"""An ONNX file for an older onnxruntime: the same graph at the newest opset that the release reads, or a refusal that names what is younger.

onnx's version converter does the work and is not taken at its word: the result must pass the checker, and compute bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import onnx

from diagnostics import TargetError
from targets.floor import Floor
from targets.releases.onnxruntime import Format, first_release, format_for

__all__ = ["fit_floor"]

_MOST_REASONS: Final = 20
_WITHOUT_AXES: Final = "noop_with_empty_axes"
_ASIDE: Final = "edgewright.aside"  # a domain that the converter does not look at


def fit_floor(proto: onnx.ModelProto, floor: Floor, target: str) -> onnx.ModelProto:
    """`proto` as every onnxruntime from `floor` on reads it: itself where it does, else at an older opset.

    Raises TargetError EW-T005: node, operator and release of all that the older opset lacks, or why the rest could not be said in it.
    """
    form = format_for(floor)
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    if opset <= form.opset:
        proto.ir_version = min(proto.ir_version, form.ir_version)
        return proto
    younger = [f"{node.name}: {reason}" for node in proto.graph.node if (reason := _reason(node, opset, form.opset))]
    if younger:
        raise _refused(floor, target, opset, "; ".join(younger[:_MOST_REASONS]))
    converted = _convert(proto, form, floor, target, opset)
    difference = _difference(proto, converted)
    if difference:
        raise _refused(floor, target, opset, f"said in opset {form.opset}, {difference}")
    return converted


def _reason(node: onnx.NodeProto, opset: int, wanted: int) -> str:
    """Why a node cannot be said in the opset `wanted`; empty where the converter may try."""
    if node.domain:
        return ""
    if not onnx.defs.has(node.op_type, max_inclusive_version=wanted):
        since = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset).since_version
        return f"{node.op_type} came with opset {since}, onnxruntime {first_release(since)}"
    if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
        return f"the graphs inside of {node.op_type} cannot be converted"
    return ""


def _convert(proto: onnx.ModelProto, form: Format, floor: Floor, target: str, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    filled = {entry.name for entry in plain.graph.initializer if 0 not in entry.dims}
    for node in plain.graph.node:
        _drop_idle(node, opset, filled)
    try:
        _rename(plain, "", _ASIDE)
        converted: onnx.ModelProto = version_converter.convert_version(plain, form.opset)
        _rename(converted, _ASIDE, "")
        converted.ir_version = min(proto.ir_version, form.ir_version)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the converter raises RuntimeError, ConvertError or whatever an adapter asserts
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise _refused(floor, target, opset, f"it cannot be said in opset {form.opset}: {' '.join(lines)}") from error
    return converted


def _rename(proto: onnx.ModelProto, domain: str, other: str) -> None:
    """Move each Pad that is the same in every opset from one domain to another: the converter has no way back for any.

    Later definitions have an input of axes and the mode "wrap".
    """
    for node in proto.graph.node:
        mode = next((entry.s for entry in node.attribute if entry.name == "mode"), b"constant")
        if (node.op_type, node.domain) == ("Pad", domain) and len(node.input) <= 3 and mode != b"wrap":
            node.domain = other
    if other:
        proto.opset_import.append(onnx.helper.make_opsetid(other, 1))
    else:
        kept = [entry for entry in proto.opset_import if entry.domain != domain]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)


def _drop_idle(node: onnx.NodeProto, opset: int, filled: Collection[str]) -> None:
    """Attributes that say what is the case without them: an older definition may not know them.

    Those that have their default, and what a reduction does without axes where it has some. `filled`: constants with elements.
    """
    if node.domain:
        return
    known = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset).attributes
    kept = [
        entry
        for entry in node.attribute
        if not (entry.name in known and _is_default(entry, known[entry.name].default_value))
        and not (entry.name == _WITHOUT_AXES and len(node.input) > 1 and node.input[1] in filled)
    ]
    del node.attribute[:]
    node.attribute.extend(kept)


def _is_default(given: onnx.AttributeProto, default: onnx.AttributeProto) -> bool:
    same = onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(given)
    return bool(default.type == given.type and same)


def _difference(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What differs when both run, kernel by kernel, on the same random inputs; empty where nothing does."""
    feeds = [{value.name: array for value in before.graph.input for array in [_random(value, scale)]} for scale in (1, 0)]
    for feed in feeds:
        try:
            wanted = _run(before, feed)
        except Exception:  # random integers may be no indices: zeros are
            continue
        try:
            found = _run(after, feed)
        except Exception as error:  # onnxruntime's errors share no base class
            return f"it does not run: {error}"
        differing = [
            value.name
            for value, one, other in zip(before.graph.output, wanted, found, strict=True)
            if one.dtype != other.dtype or not np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        ]
        return f"the outputs {', '.join(differing)} differ" if differing else ""
    return "it cannot be checked: it runs neither on random inputs nor on zeros"


def _random(value: onnx.ValueInfoProto, scale: int) -> np.ndarray[Any, Any]:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [dim.dim_value for dim in tensor.shape.dim]
    random = np.random.default_rng(0)
    array = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
    return np.asarray(array * scale).astype(dtype)


def _run(proto: onnx.ModelProto, feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # what is fused depends on the opset
    settings.log_severity_level = 4
    found = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]).run(None, feed)
    return [np.asarray(array) for array in found]


def _refused(floor: Floor, target: str, opset: int, why: str) -> TargetError:
    first = first_release(opset)
    return TargetError(
        "EW-T005",
        f"the artifact needs onnxruntime {first} (opset {opset}), target {target} promises {floor}",
        why=why,
        fix="raise the floor (--runtime; or opset of the profile), if the devices have that release, or change these operators in the model",
    )
