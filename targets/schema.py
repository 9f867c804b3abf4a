"""The schema of a target profile: what a TOML in `targets/` (or a user's own) may say, in which units.

A target is data: no code asks which target it is. Unknown keys, contradictions and impossible values are errors with the allowed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "ACTIVATIONS",
    "COMPILER_OPTIONS",
    "FLOORS",
    "FORMATS",
    "IO_DTYPES",
    "NAME",
    "PRECISIONS",
    "Artifact",
    "Compile",
    "Cost",
    "Form",
    "Limit",
    "Measure",
    "Memory",
    "Precision",
    "Pruning",
    "Quantization",
    "Scratch",
    "Target",
    "Unit",
    "Verification",
]

NAME: Final = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Release = Annotated[
    str,
    Field(
        pattern=r"^$|^[a-z][a-z0-9-]*>=[0-9]+(\.[0-9]+)*$",
        description='a runtime and its least release, for example "tflite>=2.14"',
    ),
]

# float32, float16: no integers. int8, int16x8: activations of 8 or 16 bits and weights of 8 bits, for integer kernels; they need calibration.
# int8x4: activations of 8 bits and weights of 4, but for a quarter of the weights, which stay in 8: those whose rounding costs most.
# dynamic_int8, dynamic_int4: integer weights (4 bits in blocks where a kernel has them), float activations that kernels quantize as they run.
# weight_int8, weight_int4: integer weights that are widened to floats before they are used.
# auto: int8, except for the nodes that have to be in dynamic_int8, int16x8 or float32 for the outputs to keep a wanted accuracy.
Precision = Literal[
    "float32", "float16", "int8", "int16x8", "int8x4", "dynamic_int8", "dynamic_int4", "weight_int8", "weight_int4", "auto"
]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

# Whose kernels a microcontroller runs, as far as they ask for memory of their own while they run (im2col and the like).
Scratch = Literal["reference", "cmsis-nn-dsp", "cmsis-nn-mve"]

# What a single node may be in an artifact of any of them, as far as kernels differ.
Form = Literal["float32", "int8", "int16x8", "dynamic_int8"]

# Precision -> the dtype of activations between nodes, which is what a unit must have.
ACTIVATIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(PRECISIONS, "float32"),
    "float16": "float16",
    "int8": "int8",
    "int16x8": "int16",
    "int8x4": "int8",
    "auto": "int8",
}
# Precision -> what inputs and outputs may be, for those that have integer activations; the others have float32 alone.
IO_DTYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "int8": ("float32", "int8", "uint8"),
    "int16x8": ("float32", "int16"),
    "int8x4": ("float32", "int8", "uint8"),
    "auto": ("float32", "int8", "uint8"),
}

# What is counted of a node, for the limits of a unit; `exporter.graph.limits` counts it.
#   batch: the first axis of activations of four or more axes; rank: axes of each activation; size: each axis of each activation;
#   elements: of each activation; input_channels, output_channels: axis 1 of what is read and written, of three or more axes;
#   kernel, stride, dilation: of a window, along each of its axes; kernel_axes: how many axes it has; padded_kernel, padded_stride: of a
#   window that pads (padded_stride: or dilates); scale: by what a Resize multiplies each axis that it changes, 0 where that is no whole
#   number; operands: how many of its inputs are computed, not constants; mirrored: how many axes a Pad fills with what lies inside;
#   grouped: of a convolution of several groups, the channels that one of them reads, and those that it writes.
Measure = Literal[
    "batch",
    "rank",
    "size",
    "elements",
    "input_channels",
    "output_channels",
    "kernel",
    "kernel_axes",
    "stride",
    "dilation",
    "padded_kernel",
    "padded_stride",
    "scale",
    "operands",
    "mirrored",
    "grouped",
]

# Artifact.runtime -> the format that it runs, or that its compiler reads.
FORMATS: Final[Mapping[str, str]] = {
    "litert": "tflite",
    "tflite-micro": "tflite",
    "onnxruntime": "onnx",
    "openvino": "onnx",
    "tensorrt": "onnx",
    "rknn": "onnx",
    "qnn": "onnx",
    "esp-dl": "onnx",
}

# Artifact.runtime -> the name under which its releases are counted; LiteRT goes on counting as TensorFlow Lite did, TFLM has no releases.
FLOORS: Final[Mapping[str, str]] = {"litert": "tflite", "onnxruntime": "onnxruntime"}

# Compile.compiler -> what its options may be, with their types.
COMPILER_OPTIONS: Final[Mapping[str, Mapping[str, type]]] = {
    "vela": {"config": str, "system_config": str, "memory_mode": str, "optimise": str, "arena_cache_size": int},
    "qnn-htp": {"soc_model": int, "finalization": int, "cpu_fallback": bool},
    "rknn": {"optimization_level": int},
    "esp-ppq": {},
    "coreml": {"precision": str},
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Artifact(_Table):
    """What is shipped and who runs it."""

    format: Literal["tflite", "onnx"]
    runtime: Literal["litert", "tflite-micro", "onnxruntime", "openvino", "tensorrt", "rknn", "qnn", "esp-dl"]
    floor: Release = ""  # least runtime release, for example "tflite>=2.14"; empty: the newest that edgewright is tested with
    opset: Annotated[
        int | None, Field(ge=13, description="the newest ONNX opset that its reader takes, where that is no onnxruntime")
    ] = None
    explicit_defaults: tuple[
        str, ...
    ] = ()  # ONNX types whose attributes are written even at their defaults, which its reader does not know
    # TFLite builtins that are written as they are for tflite-micro, where another form is equal on all kernels bit for bit (`AVOIDED`).
    kept: tuple[Literal["FULLY_CONNECTED"], ...] = ()
    precision: Precision
    precisions: tuple[Precision, ...] = ()  # what --precision may choose instead; empty: `precision` alone
    io_dtype: Literal["float32", "int8", "uint8", "int16"] = "float32"
    io_layout: Literal["keep", "channels_last"] = "keep"

    @property
    def calibrated(self) -> bool:
        """Whether activations are integers, whose encodings come from calibration data."""
        return self.precision in IO_DTYPES

    @property
    def holds_integers(self) -> bool:
        """Whether any of its weights are integers."""
        return self.precision not in ("float32", "float16")

    @property
    def activations(self) -> str:
        """The dtype of activations: a key of `Unit.dtypes`."""
        return ACTIVATIONS[self.precision]


class Quantization(_Table):
    """Integer scheme of the artifact's runtime."""

    activations: Literal["int8", "uint8"] = "int8"
    activations_symmetric: bool = False
    # Those of 16 bits. int16: symmetric, biases in int64, as TFLite's kernels have it; uint16: asymmetric, biases in int32.
    activations_wide: Literal["int16", "uint16"] = "int16"
    weights: Literal["int8"] = "int8"
    per_channel: bool = True
    per_tensor: tuple[str, ...] = ()  # ONNX types whose weights have one scale a tensor even so
    biases: Literal["int32", "float32"] = "int32"  # float32: of a QDQ artifact, where no DequantizeLinear of int32 is read
    weights_range: Literal["full", "reduced"] = "full"  # reduced: 7 bits, where 8-bit products saturate in pairs
    scales: Literal["any", "power_of_two"] = "any"  # power_of_two: requantizing is a shift (activations, weights, and so biases)
    # Of the sums of products of 8 bits and the bias. Where they have fewer than 32 they saturate, and scales are such that outputs do before.
    accumulators: Annotated[int, Field(ge=16, le=32, description="bits, 16 to 32")] = 32
    float_fallback: bool = True  # nodes without an integer kernel may run in float
    float_sums: tuple[
        str, ...
    ] = ()  # ONNX types whose integer kernels write floats as well, unrounded, where no integer node reads them

    def stored(self, dtype: str) -> str:
        """The dtype in which the artifact holds activations that the plan has in `dtype` (a value of `ACTIVATIONS`)."""
        return {"int8": self.activations, "int16": self.activations_wide}.get(dtype, dtype)

    def symmetric(self, dtype: str) -> bool:
        """Whether activations that the plan has in `dtype` have zero point 0."""
        return self.activations_symmetric or (dtype, self.activations_wide) == ("int16", "int16")

    def biases_beside(self, dtype: str) -> str:
        """The dtype in which the plan has biases beside activations of `dtype`."""
        return "int64" if (dtype, self.activations_wide) == ("int16", "int16") else "int32"


class Limit(_Table):
    """What a unit asks of the nodes it takes, beside their operator and dtype: bounds of a number, and the sentence a user reads."""

    measure: Measure
    operators: tuple[str, ...] = ("*",)  # ONNX types it is about ("*": all)
    least: int | None = None
    most: int | None = None
    multiple_of: Positive | None = None
    among: tuple[int, ...] = ()
    why: str  # what the device or its compiler says of it

    @model_validator(mode="after")
    def _bounds(self) -> Limit:
        if self.least is None and self.most is None and self.multiple_of is None and not self.among:
            raise ValueError("limits nothing; give one or more of least, most, multiple_of, among")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least is {self.least} and most is {self.most}: nothing is within")
        return self


class Cost(_Table):
    """Rates for the latency estimate, and how far kernels fall behind them (`targets.cost`)."""

    gmacs_int8: Annotated[Rate | None, Field(description="10^9 multiply-accumulates a second")] = None
    gmacs_float: Annotated[Rate | None, Field(description="10^9 multiply-accumulates a second")] = None
    bandwidth: Annotated[Rate | None, Field(description="10^9 bytes a second")] = None
    # Of constants, where they lie in slower memory than activations (flash, DRAM); absent: `bandwidth`.
    weights_bandwidth: Annotated[Rate | None, Field(description="10^9 bytes a second")] = None
    measured: str = ""  # where the rates were measured, and how; empty: they are the peaks of the sources
    # Kernel -> form -> how many times longer it takes than the rates say, instead of the runtime's own figures (`targets/kernels`).
    kernels: Mapping[str, Mapping[Form, Rate]] = Field(default_factory=dict, description="{ KERNEL = { FORM = factor } }")


class Unit(_Table):
    """One compute unit. `operators` are ONNX types it runs ("*": all that the runtime has).

    A node goes to the first unit of the profile that takes it.
    """

    name: str
    kind: Literal["cpu", "gpu", "npu"]
    operators: tuple[str, ...] = ("*",)
    dtypes: tuple[Literal["int8", "uint8", "int16", "uint16", "float16", "float32"], ...]
    limits: tuple[Limit, ...] = ()
    alignment: Annotated[Positive, Field(description="channels are padded to a multiple of this")] = 1
    computes: Literal["float16", "float32"] = "float32"  # in what it computes the nodes that are float32 in the artifact
    memory: Annotated[Positive | None, Field(description="bytes of its own, on the chip")] = None
    cost: Cost | None = None  # its own rates; absent: those of the target, where it is of the kind of the first unit


class Memory(_Table):
    """Bytes that the artifact may take. Absent: not limited."""

    flash: Annotated[Positive | None, Field(description="bytes")] = None  # model file
    sram: Annotated[Positive | None, Field(description="bytes")] = None  # activations: the arena
    scratch: Scratch = "reference"  # whose kernels' scratch counts into the arena (TensorFlow Lite Micro)


class Pruning(_Table):
    tile: Positive = 1  # channel counts are rounded to a multiple of this (vector or tile width)


class Compile(_Table):
    """The vendor's compiler that makes of the artifact what the device loads. What is verified is the artifact."""

    compiler: Literal["vela", "qnn-htp", "rknn", "esp-ppq", "coreml"]
    architectures: Annotated[tuple[str, ...], Field(min_length=1, description="one compiled artifact each")]
    options: Mapping[str, str | int | float | bool] = Field(default_factory=dict, description="see COMPILER_OPTIONS")
    required: bool = False  # an export without the compiler is an error, not an artifact with a warning
    optional: bool = False  # apps may load the artifact itself instead: what the compiler fails at is a warning, not an error
    timeout_s: Positive = 600  # of one architecture


class Verification(_Table):
    """Where the artifact is proved on this machine, and how far that goes."""

    runtimes: tuple[str, ...]  # names of `exporter.runtimes`, the first decides the gates
    # Runtime -> what it has to be told of the device, as options of its adapter (`exporter.runtimes.worker`).
    options: Mapping[str, Mapping[str, str | int | bool]] = Field(
        default_factory=dict, description="{ RUNTIME = { OPTION = value } }"
    )
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
    cost: Cost = Cost()  # of the first unit, and of others of its kind that have none of their own
    pruning: Pruning = Pruning()
    compile: Compile | None = None
    verification: Verification

    @property
    def has_float(self) -> bool:
        """Whether a node may run in float: always where the artifact is float, else where nodes may fall back to it."""
        return not self.artifact.calibrated or self.quantization.float_fallback

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        """Contradictions between tables. A message begins with the key that it is about."""
        artifact, wanted = self.artifact, FORMATS[self.artifact.runtime]
        dtypes = {dtype for unit in self.units for dtype in unit.dtypes}
        if not self.units:
            raise ValueError("units: a target has at least one unit")
        if artifact.format != wanted:
            raise ValueError(f"artifact.format: runtime {artifact.runtime} runs {wanted} artifacts, not {artifact.format}")
        allowed_io = IO_DTYPES.get(artifact.precision, ("float32",))
        if artifact.io_dtype not in allowed_io:
            allowed = ", ".join(allowed_io)
            raise ValueError(f"artifact.io_dtype: precision {artifact.precision} has {allowed}, not {artifact.io_dtype}")
        for key, precision in (("precision", artifact.precision), *(("precisions", entry) for entry in artifact.precisions)):
            needed = self.quantization.stored(ACTIVATIONS[precision])
            if needed not in dtypes:
                raise ValueError(f"artifact.{key}: no unit has the dtype {needed} of {precision}; they have {sorted(dtypes)}")
        if artifact.calibrated and self.quantization.float_fallback and "float32" not in dtypes:
            raise ValueError("quantization.float_fallback: no unit has the dtype float32, so nothing can fall back to it")
        releases = FLOORS.get(artifact.runtime)
        if artifact.floor and artifact.floor.partition(">=")[0] != releases:
            allowed = f'"{releases}>=RELEASE" or ""' if releases else '""'
            raise ValueError(f"artifact.floor: {artifact.floor} is no floor of runtime {artifact.runtime}; allowed: {allowed}")
        if artifact.opset is not None and (artifact.format != "onnx" or artifact.floor):
            raise ValueError("artifact.opset: it is of onnx artifacts without a floor, which has an opset of its own")
        if artifact.explicit_defaults and artifact.format != "onnx":
            raise ValueError("artifact.explicit_defaults: it is of onnx artifacts")
        if self.compile is not None:
            known = COMPILER_OPTIONS[self.compile.compiler]
            for option, value in self.compile.options.items():
                if option not in known:
                    raise ValueError(f"compile.options.{option}: {self.compile.compiler} has the options {', '.join(known)}")
                if type(value) is not known[option]:
                    raise ValueError(f"compile.options.{option}: {value!r} is no {known[option].__name__}")
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            raise ValueError(f"units: two units have the same name: {names}")
        if unknown := sorted(set(self.verification.options) - set(self.verification.runtimes)):
            raise ValueError(f"verification.options: {unknown[0]} is none of the runtimes {list(self.verification.runtimes)}")
        if self.verification.level in ("run", "emulated") and not self.verification.runtimes:
            raise ValueError(f"verification.runtimes: level {self.verification.level} needs at least one runtime")
        return self
