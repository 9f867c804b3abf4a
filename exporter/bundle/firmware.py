"""The hand-over kit for firmware: the model as C source, a header with all numbers, the operator list, golden vectors and a self-test.

Everything is C11 that is also C++17; only the two files for TensorFlow Lite Micro itself are C++. Names and texts come from the model,
which is untrusted: identifiers are made of letters, digits and underscores, comments cannot be closed from inside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from exporter.bundle.manifest import TensorRecord
from exporter.graph.artifacts import read_tflite

__all__ = ["GoldenSample", "arena_with_reserve", "c_identifier", "firmware_kit", "resolver_method", "text_environment"]

_C_TYPES: Final = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "bool",
    "float32": "float",
}

# MicroMutableOpResolver's spelling where it is not the schema's name in camel case.
_METHODS: Final = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUSTOM:ethos-u": "EthosU",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


@dataclass(frozen=True)
class GoldenSample:
    """One input and what the artifact must answer, by tensor name, in the artifact's own shapes and dtypes."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


def arena_with_reserve(needed: int) -> int:
    """Bytes to reserve for the arena: what is needed as far as is known, 1/16 more (at least 1 KiB), rounded up to 1 KiB.

    The host's pointers are 64 bits wide, so its persistent structures exceed a microcontroller's; the reserve is for alignment
    and for kernels (ESP-NN and the like) whose scratch memory is not known.
    """
    return -(-(needed + max(needed // 16, 1024)) // 1024) * 1024


def c_identifier(name: str) -> str:
    """A prefix for C names: letters, digits and single underscores, not reserved in C or C++; "model" where nothing is left."""
    text = re.sub(r"_+", "_", re.sub(r"[^0-9A-Za-z]", "_", name)).strip("_").lower()
    if not text:
        return "model"
    return f"m_{text}" if text[0].isdigit() else text


def resolver_method(operator: str) -> str:
    """``CONV_2D`` -> ``AddConv2D``: the method of tflite::MicroMutableOpResolver that registers an operator."""
    camel = "".join(part if part == "2D" else part.capitalize() for part in operator.split("_"))
    return f"Add{_METHODS.get(operator, camel)}"


def firmware_kit(
    name: str,
    artifact: bytes,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    *,
    arena: int,
    arena_from: str,
    golden: Sequence[GoldenSample],
    target: str = "",
    compiled_by: str = "",
) -> dict[str, bytes]:
    """Files of the kit, by path inside the bundle (``firmware/...``).

    Args:
        name: name of the model; every identifier of the kit starts with `c_identifier(name)`.
        artifact: the TFLite model that the firmware holds.
        inputs, outputs: of the artifact, in its own order.
        arena: bytes of the arena that tflite-micro takes for it; arena_from: where that figure is from.
        golden: samples with the outputs of the artifact on tflite-micro (or the reference kernels, which agree bit for bit).
        target: name of the profile, for the comments; compiled_by: what made `artifact` out of the one that gave the golden outputs.

    Raises ValueError where a golden array does not have the shape and dtype of its tensor.
    """
    prefix = c_identifier(name)
    operators = tuple(dict.fromkeys(node.op_type for node in read_tflite(artifact).nodes))
    facts = {
        "id": prefix,
        "ID": prefix.upper(),
        "model_name": name,
        "target": target,
        "model_bytes": len(artifact),
        "model_text": _byte_rows(artifact),
        "compiled_by": compiled_by,
        "arena_needed": arena,
        "arena_from": arena_from,
        "arena": arena_with_reserve(arena),
        "operators": [(operator, resolver_method(operator)) for operator in sorted(operators)],
        "inputs": [_port("input", index, record, [s.inputs for s in golden]) for index, record in enumerate(inputs)],
        "outputs": [_port("output", index, record, [s.outputs for s in golden]) for index, record in enumerate(outputs)],
        "samples": len(golden),
    }
    environment = text_environment()
    files = {
        f"{prefix}_model.h": "firmware_model.h.j2",
        f"{prefix}_model.c": "firmware_model.c.j2",
        f"{prefix}_ops.h": "firmware_ops.h.j2",
        f"{prefix}_tflm.cc": "firmware_tflm.cc.j2",
        f"{prefix}_golden.h": "firmware_golden.h.j2",
        f"{prefix}_golden.c": "firmware_golden.c.j2",
        f"{prefix}_selftest.h": "firmware_selftest.h.j2",
        f"{prefix}_selftest.c": "firmware_selftest.c.j2",
        "README.txt": "firmware_readme.txt.j2",
    }
    return {f"firmware/{path}": environment.get_template(template).render(facts).encode() for path, template in files.items()}


def text_environment() -> Any:
    """The jinja2 environment of source templates: nothing is escaped, texts of the model go through the filter `comment`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("exporter.bundle", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["comment"] = _comment
    return environment


def _port(kind: str, index: int, record: TensorRecord, samples: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, Any]:
    """What the templates need of one input or output, its golden arrays included."""
    arrays = [sample[record.name] for sample in samples]
    for array in arrays:
        if array.shape != record.shape or array.dtype.name != record.dtype:
            wanted = f"{record.dtype} {record.shape}"
            raise ValueError(f"golden {kind} {record.name} is {array.dtype} {array.shape}, the artifact's is {wanted}")
    elements = math.prod(record.shape)
    return {
        "kind": kind,
        "index": index,
        "name": record.name,
        "type": _C_TYPES[record.dtype],
        "integer": record.dtype != "float32",
        "shape": record.shape,
        "layout": record.layout,
        "elements": elements,
        "bytes": elements * np.dtype(record.dtype).itemsize,
        "scale": None if record.scale is None else _c_float(record.scale),
        "zero_point": record.zero_point,
        "rows": [_value_rows(array) for array in arrays],
    }


def _byte_rows(data: bytes, width: int = 16) -> str:
    """The body of an unsigned char array: `width` bytes a line."""
    table = [f"0x{byte:02x}," for byte in range(256)]
    return "\n".join("  " + "".join(table[byte] for byte in data[start : start + width]) for start in range(0, len(data), width))


def _value_rows(array: np.ndarray[Any, Any], width: int = 24) -> str:
    """The values of an array in C order, `width` a line."""
    values = array.ravel().tolist()
    texts = [_c_float(value) if isinstance(value, float) else _c_integer(value) for value in values]
    return "\n".join("    " + ", ".join(texts[start : start + width]) + "," for start in range(0, len(texts), width))


def _c_integer(value: int) -> str:
    if -(2**31) < value < 2**31:
        return str(int(value))
    # INT64_MIN and INT32_MIN have no literal of their own: the minus sign is an operator.
    return f"({value + 1}LL - 1)" if value < 0 else f"{value}LL"


def _c_float(value: float) -> str:
    """A float32 as a C literal that reads back to the same bits."""
    if not math.isfinite(value):
        return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}"  # 9 significant digits determine a float32 (IEEE 754-2019, 5.12.2)
    return f"{text}f" if any(char in text for char in ".e") else f"{text}.0f"


def _comment(text: str) -> str:
    """Text for the inside of a C comment: printable ASCII on one line, which cannot close or open a comment."""
    safe = "".join(char if " " <= char <= "~" and char != "\\" else "?" for char in text)
    return safe.replace("*/", "*_/").replace("/*", "/_*")
