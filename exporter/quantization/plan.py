"""The plan: every decision about one model on one target, immutable and serialisable. Applying it is mechanical.

`plan.json` holds it; replaying it gives the same artifact byte for byte. Scales are float32 values written as the shortest decimal
that reads back to the same double, so nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from diagnostics import ModelError

__all__ = ["SCHEMA_VERSION", "Effort", "Encoding", "Plan", "integer_range"]

SCHEMA_VERSION: Final = 2

Effort = Literal["fast", "balanced", "best"]  # how much time deciding may take

_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**47), 2**47 - 1),  # biases of int16x8: kernels requantize accumulators of 48 bits
}


def integer_range(dtype: str) -> tuple[int, int]:
    """Least and greatest integer of a dtype name ("int8" -> (-128, 127))."""
    return _RANGES[dtype]


@dataclass(frozen=True)
class Encoding:
    """Affine encoding: ``real = scale * (integer - zero_point)``.

    `scale` and `zero_point` have one entry a tensor (`axis` None) or one a channel along `axis`, counted in the canonical,
    channels-first order of the value. Scales are float32 values held in Python floats.

    With `block` > 0 (matrices only) each run of so many elements along the other axis of a channel has a scale of its own: first those
    of channel 0, then those of channel 1, and so on; `zero_point` is one for all.
    """

    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    block: int = 0

    def quantize(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Integers of `dtype` nearest to `array` (ties to even, as ONNX QuantizeLinear), saturated."""
        scale, zero_point = self._along(array.shape)
        low, high = integer_range(self.dtype)
        # Runtimes divide in float32; biases alone do not fit into its 24 bits, and no runtime computes those.
        wide = np.float64 if self.dtype in ("int32", "int64") else np.float32
        with np.errstate(over="ignore"):  # a mask of -3.4e38 saturates
            integers = np.rint(array.astype(wide) / scale.astype(wide)) + zero_point
        return np.asarray(np.clip(integers, low, high).astype(_numpy_dtype(self.dtype)))

    def dequantize(self, integers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The float32 values of `integers`."""
        scale, zero_point = self._along(integers.shape)
        wide = np.float64 if self.dtype == "int64" else np.float32
        return np.asarray((integers.astype(wide) - zero_point) * scale, np.float32)

    def _along(self, dims: tuple[int, ...]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        scale, zero_point = np.asarray(self.scale, np.float32), np.asarray(self.zero_point, np.float32)
        if self.axis is None:
            return scale.reshape(()), zero_point.reshape(())
        if self.block:
            rows = np.repeat(scale.reshape(dims[self.axis], -1), self.block, axis=1)
            return rows if self.axis == 0 else rows.T, zero_point.reshape(())
        shape = [1] * len(dims)
        shape[self.axis] = -1
        return scale.reshape(shape), zero_point.reshape(shape)


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    return np.dtype("int8" if dtype == "int4" else dtype)


@dataclass(frozen=True)
class Plan:
    """All decisions about one model on one target. Names are those of the legalized graph's values and nodes.

    Attributes:
        target: name of the target profile the plan was made for.
        artifact_precision: the target's precision that was planned for; "" in plans of older releases. Replaying takes it up.
        precision: "int8", "int16x8", "float32", ... for every node that runs by itself; the names are those of `targets.schema.Precision`.
        reasons: why nodes that could run in integers do not, by node name, where that was decided for their accuracy.
        aims: of the precision "auto", the gates that it was chosen by, with what the plan's simulator reached on calibration samples.
        encodings: for every value that an integer node reads or writes; weights and biases included.
        requantize: where a node reads an input in another encoding than the one its value is stored in, that encoding, by
            "node:input_index" (a writer requantizes there; a constant is encoded so for this node alone).
        moved: scales before they were moved by units in the last place for all kernels to agree (`exporter.quantization.agreeing`), by value.
        corrections: float amounts added to a bias initializer, one a channel (bias correction).
        roundings: how the weights of an initializer were rounded where not to nearest (`refinement.rounding.pack_offsets`).
        kept: indices that structured pruning kept, by "initializer:axis".
        splits: hidden channels that run in a branch of their own, by the value that holds them (`exporter.quantization.equalization.splits`).
        migrations: scales that were taken out of channels and put back behind, by group (`exporter.quantization.equalization.channels`).
        layout: "channels_last" for every value that the TFLite artifact holds channels-last where it is produced.
        node_layout: "channels_last" for every node that runs channels-last though it could do either (`Port.NODE`).
        io_layout: "keep" (inputs and outputs as the original has them) or "channels_last" (as `layout` says).
        io_dtype: dtype of encoded graph inputs and outputs: "float32", "int8", "uint8" or "int16". Of a plan of several widths, those that
            are stored in int16 are int16 where this is one of 8 bits.
        io_dtypes: that of single ones which differ, by name: what a quantized source takes and gives as integers itself.
        schema: version of this structure.
    """

    target: str
    artifact_precision: str = ""
    precision: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    aims: Mapping[str, float | str] = field(default_factory=dict)
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    requantize: Mapping[str, Encoding] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    roundings: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    migrations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layout: Mapping[str, str] = field(default_factory=dict)
    node_layout: Mapping[str, str] = field(default_factory=dict)
    io_layout: str = "keep"
    io_dtype: str = "float32"
    io_dtypes: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    def io_dtype_of(self, name: str) -> str:
        """The dtype of an encoded graph input or output by name."""
        encoding = self.encodings.get(name)
        wide = encoding is not None and encoding.dtype == "int16" and self.io_dtype in ("int8", "uint8")
        return self.io_dtypes.get(name, "int16" if wide else self.io_dtype)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, one entry a line, a newline at the end. Equal plans give equal text."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read `to_json`'s text back. Raises ModelError EW-Q002 where it is not a plan of this schema version."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA_VERSION:
                raise ModelError(
                    "EW-Q002",
                    f"the plan has schema version {data['schema']}",
                    why=f"this release reads version {SCHEMA_VERSION}",
                    fix="make the plan again with this release",
                )
            unknown = set(data) - {entry.name for entry in fields(cls)}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            for key in ("encodings", "requantize"):
                data[key] = {
                    name: Encoding(e["dtype"], tuple(e["scale"]), tuple(e["zero_point"]), e["axis"], e.get("block", 0))
                    for name, e in data[key].items()
                }
            for key in ("corrections", "kept", "splits", "migrations"):
                data[key] = {name: tuple(entries) for name, entries in data.get(key, {}).items()}
            return cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("EW-Q002", "the plan cannot be read", why=str(error), fix="make the plan again") from error

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan.json. Raises ModelError EW-Q002 where it is absent or not a plan."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError("EW-Q002", f"the plan {path} cannot be read", why=str(error)) from error
