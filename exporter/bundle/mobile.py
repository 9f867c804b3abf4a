"""The hand-over kit for apps: golden vectors, and Kotlin and Swift code with the model's real shapes, dtypes and preprocessing.

Names come from the model, which is untrusted: they appear in comments only, cleaned, never in code.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from exporter.bundle.firmware import GoldenSample, text_environment
from exporter.bundle.manifest import TensorRecord

__all__ = ["METADATA_NAME", "class_name", "metadata_json", "mobile_kit"]

METADATA_NAME: Final = "EDGEWRIGHT_METADATA"  # name of the metadata entry of a .tflite that holds `metadata_json`

# Where a channel's 8 bits lie in an ARGB pixel.
_SHIFTS: Final = {"RGB": (16, 8, 0), "BGR": (0, 8, 16)}


def metadata_json(inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord], preprocess: Mapping[str, Any] | None) -> bytes:
    """What an app must know to use the artifact, as JSON for the model-level metadata entry `METADATA_NAME`; the same facts, the same bytes."""
    facts = {
        "schema": 1,
        "inputs": [asdict(record) for record in inputs],
        "outputs": [asdict(record) for record in outputs],
        "preprocess": preprocess,
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def class_name(name: str) -> str:
    """A class name for Kotlin and Swift: letters and digits, capitalised words, "Model" at the end."""
    words = "".join(word[0].upper() + word[1:] for word in re.findall(r"[0-9A-Za-z]+", name))
    return f"{'M' if words[:1].isdigit() else ''}{words}Model"


def mobile_kit(
    name: str,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    *,
    golden: Sequence[GoldenSample],
    preprocess: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Files of the kit, by path inside the bundle (``mobile/...``).

    Args:
        name: name of the model; the generated class is `class_name(name)`.
        inputs, outputs: of the artifact, in its own order.
        golden: samples with what the artifact answered, in its own shapes and dtypes.
        preprocess: `calibration.Preprocess` as data; with it and one image input the code converts pixels.
    """
    index, raw = _golden_index(golden, inputs, outputs)
    label = class_name(name)
    facts = {
        "name": name,
        "cls": label,
        "inputs": [_port(index, record) for index, record in enumerate(inputs)],
        "outputs": [_port(index, record) for index, record in enumerate(outputs)],
        "image": _image(inputs, preprocess),
        "samples": len(golden),
    }
    environment = text_environment()
    return {
        "mobile/golden.bin": raw,
        "mobile/golden.json": (json.dumps(index, indent=1) + "\n").encode(),
        "mobile/golden.npz": _npz(golden),
        f"mobile/{label}.kt": environment.get_template("mobile_model.kt.j2").render(facts).encode(),
        f"mobile/{label}.swift": environment.get_template("mobile_model.swift.j2").render(facts).encode(),
        "mobile/README.txt": environment.get_template("mobile_readme.txt.j2").render(facts).encode(),
    }


def _golden_index(
    golden: Sequence[GoldenSample], inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]
) -> tuple[dict[str, Any], bytes]:
    """All arrays one after another, little-endian in C order, each at a multiple of 16 bytes, and where each lies."""
    raw = bytearray()
    samples = []
    for sample in golden:
        entry: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for side, records, arrays in (("inputs", inputs, sample.inputs), ("outputs", outputs, sample.outputs)):
            for record in records:
                array = np.ascontiguousarray(arrays[record.name])
                data = array.astype(array.dtype.newbyteorder("<")).tobytes()
                raw += bytes(-len(raw) % 16)
                entry[side].append(
                    {
                        "name": record.name,
                        "dtype": array.dtype.name,
                        "shape": list(array.shape),
                        "offset": len(raw),
                        "bytes": len(data),
                        "sha256": hashlib.sha256(data).hexdigest(),
                    }
                )
                raw += data
        samples.append(entry)
    return {"file": "golden.bin", "byte_order": "little", "samples": samples}, bytes(raw)


def _npz(golden: Sequence[GoldenSample]) -> bytes:
    """The same arrays for Python: keys ``input/<sample>/<name>`` and ``output/<sample>/<name>``."""
    arrays = {
        f"{side}/{number}/{name}": array
        for number, sample in enumerate(golden)
        for side, found in (("input", sample.inputs), ("output", sample.outputs))
        for name, array in sorted(found.items())
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _port(index: int, record: TensorRecord) -> dict[str, Any]:
    elements = math.prod(record.shape)
    return {
        "index": index,
        "name": record.name,
        "dtype": record.dtype,
        "shape": record.shape,
        "elements": elements,
        "bytes": elements * np.dtype(record.dtype).itemsize,
        "scale": record.scale,
        "zero_point": record.zero_point,
        "layout": record.layout,
    }


def _image(inputs: Sequence[TensorRecord], preprocess: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Numbers of the pixel conversion where the model takes one image of a known form, else None."""
    if preprocess is None or len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[0] != 1:
        return None
    record = inputs[0]
    last = record.layout == "channels_last" or preprocess["layout"] == "NHWC"
    height, width, channels = record.shape[1:] if last else (*record.shape[2:], record.shape[1])
    color = preprocess["color"]
    if channels != (1 if color == "GRAY" else 3) or record.dtype not in ("float32", "int8", "uint8"):
        return None
    low, high = {"int8": (-128, 127), "uint8": (0, 255)}.get(record.dtype, (0, 0))
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "last": last,
        "gray": color == "GRAY",
        "color": color,
        "shifts": _SHIFTS.get(color, ()),
        "divisor": 255.0 if preprocess["scale"] == "1/255" else 1.0,
        "mean": _levels(preprocess["mean"], channels),
        "std": _levels(preprocess["std"], channels),
        "quantized": record.scale is not None,
        "low": low,
        "high": high,
        "resize": preprocess.get("resize"),
        "letterbox": preprocess.get("letterbox"),
        "crop": preprocess.get("crop"),
        "interpolation": preprocess.get("interpolation"),
    }


def _levels(value: float | Sequence[float], channels: int) -> list[float]:
    return [float(value)] * channels if isinstance(value, int | float) else [float(entry) for entry in value]
