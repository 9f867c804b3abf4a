"""Layer by layer: which value of an integer artifact is far from the float original's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import DataError
from exporter.graph.run import FloatRunner, observed_values
from exporter.graph.values import static_shape
from exporter.quantization.plan import Encoding, Plan, integer_range
from exporter.verification.cut import names_of_keys, partner
from exporter.verification.kept import open_kept, stored_layouts
from exporter.verification.metrics import Accumulator, json_number
from exporter.verification.runner import to_channels_first

__all__ = ["LayerQuality", "LayerWatch", "layer_sqnr", "watch_layers"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerQuality:
    """Distance of one value of the artifact from the same value of the float original, over all samples.

    `sqnr_db` and `max_abs` as in `metrics.Metrics`; `clipped` is the part of the float elements that lie outside of the encoding's
    range by more than half a step.
    """

    name: str
    sqnr_db: float
    max_abs: float
    clipped: float

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "sqnr_db": json_number(self.sqnr_db),
            "max_abs": json_number(self.max_abs),
            "clipped": self.clipped,
        }


class LayerWatch:
    """Collects `LayerQuality`, sample by sample, in constant memory.

    Args:
        encodings: of the artifact's integer tensors, by value name (per tensor; channel axes do not occur in activations).
        layouts: "channels_last" for every value that the artifact holds so.
    """

    def __init__(self, encodings: Mapping[str, Encoding], layouts: Mapping[str, str] | None = None) -> None:
        self._encodings, self._layouts = encodings, dict(layouts or {})
        self._accumulators: dict[str, Accumulator] = {}
        self._clipped: dict[str, list[int]] = {}

    def update(self, reference: Mapping[str, Array], tensors: Mapping[str, Array]) -> None:
        """Add one sample: float values of the original (canonical order of axes) and raw tensors of the artifact, by name.

        Names that only one side has are passed over (a fused activation has no tensor of its own). Raises RuntimeFailure EW-R005
        where the shapes of one value differ.
        """
        for name, wanted in reference.items():
            if name not in tensors:
                continue
            found = tensors[name]
            encoding = self._encodings.get(name)
            counts = self._clipped.setdefault(name, [0, 0])
            counts[0] += _outside(wanted, encoding) if encoding is not None else 0
            counts[1] += wanted.size
            real = encoding.dequantize(found) if encoding is not None else found
            if self._layouts.get(name) == "channels_last":
                real = to_channels_first(real)
            self._accumulators.setdefault(name, Accumulator(name)).update(wanted, real)

    def result(self) -> tuple[LayerQuality, ...]:
        """One entry a value, in the order of the reference."""
        return tuple(
            LayerQuality(name, metrics.sqnr_db, metrics.max_abs, self._clipped[name][0] / max(self._clipped[name][1], 1))
            for name, accumulator in self._accumulators.items()
            for metrics in [accumulator.result()]
        )


def _outside(real: Array, encoding: Encoding) -> int:
    """Elements of a float value that a per-tensor encoding cannot hold."""
    least, greatest = integer_range(encoding.dtype)
    low, high = (encoding.scale[0] * (end - encoding.zero_point[0]) for end in (least - 0.5, greatest + 0.5))
    return int(((real < low) | (real > high)).sum())


def watch_layers(
    graph: ir.Model,
    plan: Plan,
    artifact: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    layouts: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> tuple[LayerQuality, ...]:
    """Quality of every quantized value of an artifact against the float graph, in graph order.

    Args:
        graph: the legalized float graph that the artifact was written from.
        plan: the plan that it was written by.
        artifact: a .tflite file (run by LiteRT's reference kernels) or a .onnx file in QDQ form.
        samples: canonical samples.
        layouts: "channels_last" or "keep" of the artifact's inputs and outputs; default: as the plan says.

    Raises DataError EW-D001 where there is no sample; RuntimeFailure as `open_session`.
    """
    stored = {**stored_layouts(graph, plan), **(layouts or {})}
    shapes = {value.name: static_shape(value) for value in _values(graph) if value.name in plan.encodings}
    names = [name for name in observed_values(graph) if name in plan.encodings]
    reference = FloatRunner(graph, names)
    watch: LayerWatch | None = None
    sources: dict[str, str] = {}
    with open_kept(artifact, stored, timeout_s=timeout_s) as kept:
        for sample in samples:
            tensors = kept.run(sample)
            if watch is None:
                by_name, encodings = names_of_keys(tensors), kept.encodings()
                found = {n: partner(n, plan.encodings[n], shapes.get(n), by_name, tensors, encodings, stored) for n in names}
                sources = {name: pair[0] for name, pair in found.items() if pair is not None}
                last = {name: "channels_last" for name, pair in found.items() if pair is not None and pair[1]}
                watch = LayerWatch({name: encodings[key] for name, key in sources.items()}, last)
            watch.update(reference(sample), {name: tensors[key] for name, key in sources.items()})
    if watch is None:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    return watch.result()


def layer_sqnr(
    graph: ir.Model,
    plan: Plan,
    artifact: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    layouts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """SQNR in dB of every quantized value, by name; see `watch_layers`."""
    return {layer.name: layer.sqnr_db for layer in watch_layers(graph, plan, artifact, samples, layouts=layouts)}


def _values(graph: ir.Model) -> list[ir.Value]:
    return [*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs)]
