"""The schema of a target profile: what a TOML in `targets/` (or a user's own) may say, in which units.

A target is data: no code asks which target it is. Unknown keys, contradictions and impossible values are errors with the allowed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["FLOORS", "Artifact", "Cost", "Memory", "Pruning", "Quantization", "Target", "Unit", "Verification"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Release = Annotated[
    str,
    Field(
        pattern=r"^$|^[a-z][a-z0-9-]*>=[0-9]+(\.[0-9]+)*$",
        description='a runtime and its least release, for example "tflite>=2.14"',
    ),
]

# Artifact.runtime -> the name under which its releases are counted; LiteRT goes on counting as TensorFlow Lite did, TFLM has no releases.
FLOORS: Final[Mapping[str, str]] = {"litert": "tflite", "onnxruntime": "onnxruntime"}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Artifact(_Table):
    """What is shipped and who runs it."""

    format: Literal["tflite", "onnx"]
    runtime: Literal["litert", "onnxruntime", "tflite-micro"]
    floor: Release = ""  # least runtime release, for example "tflite>=2.14"; empty: the newest that edgewright is tested with
    precision: Literal["int8", "float16", "float32"]
    io_dtype: Literal["float32", "int8", "uint8"] = "float32"
    io_layout: Literal["keep", "channels_last"] = "keep"


class Quantization(_Table):
    """Integer scheme of the artifact's runtime."""

    activations: Literal["int8", "uint8"] = "int8"
    activations_symmetric: bool = False
    weights: Literal["int8"] = "int8"
    per_channel: bool = True
    weights_range: Literal["full", "reduced"] = "full"  # reduced: 7 bits, where 8-bit products saturate in pairs
    float_fallback: bool = True  # nodes without an integer kernel may run in float


class Unit(_Table):
    """One compute unit. `operators` are ONNX types it runs ("*": all that the runtime has)."""

    name: str
    kind: Literal["cpu", "gpu", "npu"]
    operators: tuple[str, ...] = ("*",)
    dtypes: tuple[Literal["int8", "uint8", "int16", "float16", "float32"], ...]


class Memory(_Table):
    """Bytes that the artifact may take. Absent: not limited."""

    flash: Annotated[Positive | None, Field(description="bytes")] = None  # model file
    sram: Annotated[Positive | None, Field(description="bytes")] = None  # activations: the arena


class Cost(_Table):
    """Peak rates for the latency estimate."""

    gmacs_int8: Annotated[Rate | None, Field(description="10^9 multiply-accumulates a second")] = None
    gmacs_float: Annotated[Rate | None, Field(description="10^9 multiply-accumulates a second")] = None
    bandwidth: Annotated[Rate | None, Field(description="10^9 bytes a second")] = None


class Pruning(_Table):
    tile: Positive = 1  # channel counts are rounded to a multiple of this (vector or tile width)


class Verification(_Table):
    """Where the artifact is proved on this machine, and how far that goes."""

    runtimes: tuple[str, ...]  # names of `exporter.runtimes`, the first decides the gates
    level: Literal["run", "emulated", "compiled", "rules"]
    note: str = ""


class Target(_Table):
    """One device profile."""

    name: Name
    title: str
    description: str = ""
    sources: tuple[str, ...] = ()  # datasheets and documentation pages behind the figures
    artifact: Artifact
    quantization: Quantization = Quantization()
    units: tuple[Unit, ...]  # at least one
    memory: Memory = Memory()
    cost: Cost = Cost()
    pruning: Pruning = Pruning()
    verification: Verification

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        """Contradictions between tables. A message begins with the key that it is about."""
        formats = {"litert": "tflite", "tflite-micro": "tflite", "onnxruntime": "onnx"}
        artifact, wanted = self.artifact, formats[self.artifact.runtime]
        dtypes = {dtype for unit in self.units for dtype in unit.dtypes}
        if not self.units:
            raise ValueError("units: a target has at least one unit")
        if artifact.format != wanted:
            raise ValueError(f"artifact.format: runtime {artifact.runtime} runs {wanted} artifacts, not {artifact.format}")
        if artifact.precision != "int8" and artifact.io_dtype != "float32":
            raise ValueError(f"artifact.io_dtype: {artifact.io_dtype} needs precision int8, not {artifact.precision}")
        if artifact.precision not in dtypes:
            raise ValueError(f"artifact.precision: no unit has the dtype {artifact.precision}; they have {sorted(dtypes)}")
        if artifact.precision == "int8" and self.quantization.float_fallback and "float32" not in dtypes:
            raise ValueError("quantization.float_fallback: no unit has the dtype float32, so nothing can fall back to it")
        releases = FLOORS.get(artifact.runtime)
        if artifact.floor and artifact.floor.partition(">=")[0] != releases:
            allowed = f'"{releases}>=RELEASE" or ""' if releases else '""'
            raise ValueError(f"artifact.floor: {artifact.floor} is no floor of runtime {artifact.runtime}; allowed: {allowed}")
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            raise ValueError(f"units: two units have the same name: {names}")
        if self.verification.level in ("run", "emulated") and not self.verification.runtimes:
            raise ValueError(f"verification.runtimes: level {self.verification.level} needs at least one runtime")
        return self
