"""The facts of a report as plain data: one row class a table. A stage fills what it has; absent sections are left out of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.bundle.manifest import Manifest
from exporter.placement.report import PlacementReport

__all__ = [
    "ApproximationRow",
    "ArenaRow",
    "CompiledRow",
    "LatencyRow",
    "LayerRow",
    "OutputRow",
    "ParityRow",
    "ReportData",
    "SizeRow",
]


@dataclass(frozen=True)
class SizeRow:
    """One quantity of the original and of the artifact. `unit`: "bytes" or "count"; `limit`: what the target allows."""

    label: str
    before: int | None
    after: int | None
    unit: str = "bytes"
    limit: int | None = None


@dataclass(frozen=True)
class OutputRow:
    """Agreement of one output of the artifact on one runtime with the original, over `samples` samples.

    `metrics`: name (with its unit) -> value.
    """

    output: str
    runtime: str
    metrics: Mapping[str, float]
    shape: tuple[int, ...] = ()
    samples: int | None = None


@dataclass(frozen=True)
class LayerRow:
    """One node of the artifact.

    Attributes:
        node, op_type: of the legalized graph.
        sqnr_db: signal to quantization noise of its output against the float original.
        low, high: range of its output seen in calibration; encoded_low, encoded_high: range that its encoding can hold.
        macs: multiply-accumulates an inference; weight_bytes: of its constants as stored.
        precision: "int8", "float32", ...; unit: the compute unit that runs it; reason: why it is not an integer node there.
    """

    node: str
    op_type: str
    sqnr_db: float | None = None
    low: float | None = None
    high: float | None = None
    encoded_low: float | None = None
    encoded_high: float | None = None
    macs: int = 0
    weight_bytes: int = 0
    precision: str = ""
    unit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class LatencyRow:
    """Seconds of single inferences: median and the quartiles around it. `machine`: where, "" for this host."""

    label: str
    runtime: str
    median_s: float
    low_s: float
    high_s: float
    repeats: int
    threads: int = 1
    machine: str = ""


@dataclass(frozen=True)
class ArenaRow:
    """One figure of the memory that tflite-micro asked for, or will ask for on the device, with the target's limit where it has one."""

    label: str
    bytes: int
    limit: int | None = None


@dataclass(frozen=True)
class ParityRow:
    """Difference of one value between the TFLite and the ONNX artifact of one plan, both fed the same integers.

    `max_lsb`: greatest difference in steps of the encoding; `share`: fraction of elements that differ; `reason`: where over 1.
    """

    node: str
    op_type: str
    max_lsb: int
    share: float
    reason: str = ""


@dataclass(frozen=True)
class ApproximationRow:
    """A lowering that is not exact: "approximate" with its bound, or "conditional" with its condition."""

    node: str
    op_type: str
    kind: str
    bound: str


@dataclass(frozen=True)
class CompiledRow:
    """What a compiler made of the artifact for one architecture, see `exporter.compilers.Compiled`.

    Attributes:
        files: name -> bytes; figures: of the whole, by name with its unit.
        operators: (output, operator, kind of unit, why not on the accelerator, figures) in the order of execution.
    """

    compiler: str
    architecture: str
    files: Mapping[str, int]
    figures: Mapping[str, float]
    operators: tuple[tuple[str, str, str, str, Mapping[str, float]], ...]
    log: str = ""

    @property
    def left_out(self) -> int:
        """How many operators stay on the CPU."""
        return sum(unit == "cpu" for _, _, unit, _, _ in self.operators)


@dataclass(frozen=True)
class ReportData:
    """All facts of a report.

    `created` is an ISO 8601 time; `samples` the number of samples that verification used; `machines` where each runtime ran, with versions.
    `aims`: gates that the precision "auto" was chosen by -> what the plan's simulator reached on calibration samples.
    `moved`: values whose scales were moved so that all kernels agree -> what they were and are.
    `arena_peak`: (tensor, bytes) of what fills the arena while `arena_operator` runs, as told from the file.
    """

    manifest: Manifest
    created: str = ""
    samples: int | None = None
    calibration_samples: int | None = None
    aims: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sizes: tuple[SizeRow, ...] = ()
    outputs: tuple[OutputRow, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    latency: tuple[LatencyRow, ...] = ()
    arena: tuple[ArenaRow, ...] = ()
    arena_peak: tuple[tuple[str, int], ...] = ()
    arena_operator: str = ""
    compiled: tuple[CompiledRow, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    parity_between: str = ""
    approximations: tuple[ApproximationRow, ...] = ()
    warnings: tuple[str, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)
    machines: Mapping[str, str] = field(default_factory=dict)
    placement: PlacementReport | None = None

    @property
    def verdict(self) -> bool | None:
        """Whether all gates hold; None where there was none."""
        return all(gate.holds for gate in self.manifest.gates) if self.manifest.gates else None

    @property
    def float_layers(self) -> tuple[tuple[LayerRow, tuple[str, ...]], ...]:
        """Layers that are not integer ones although the target's artifact is: of those alike the first, and the names of all."""
        groups: dict[tuple[str, str, str], list[LayerRow]] = {}
        for layer in self.layers:
            if layer.reason:
                groups.setdefault((layer.op_type, layer.precision, layer.reason), []).append(layer)
        return tuple((rows[0], tuple(row.node for row in rows)) for rows in groups.values())
