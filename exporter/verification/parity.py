"""Parity of the TFLite and the ONNX QDQ artifact of one plan, layer by layer.

The TFLite artifact runs with all tensors kept. The QDQ model is cut at every quantized value, so that each layer reads the integers that
the TFLite layer read; all layers are one ONNX model with many inputs and outputs, run once a sample::

    x_quantized -> DQ -> Conv -> Q -> y_quantized -> DQ -> ...        becomes

    x_quantized_fed -> DQ -> Conv -> Q -> y_quantized (output)
    y_quantized_fed -> DQ -> ...

What is left is the difference of the two runtimes' rounding in that one layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import DataError, ModelError
from exporter.quantization.plan import Plan
from exporter.runtimes.session import open_session
from exporter.verification.cut import cut_layers, find_points
from exporter.verification.kept import stored_layouts
from exporter.verification.runner import ArtifactRunner

__all__ = ["LayerParity", "Parity", "Tally", "artifact_parity", "layer_parity"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerParity:
    """One layer over all samples: of `elements` integers `off_by_one` differ by 1 LSB and `more` by more, at most by `max_lsb`.

    `name` is the value that the layer writes; `op` its ONNX operators, joined by "+".
    """

    name: str
    op: str
    elements: int
    off_by_one: int
    more: int
    max_lsb: int

    @property
    def equal(self) -> int:
        """Elements without any difference."""
        return self.elements - self.off_by_one - self.more

    @classmethod
    def of(cls, name: str, op: str, tally: Tally) -> LayerParity:
        """What a tally came to."""
        _, one, more = (int(bucket) for bucket in tally.histogram)
        return cls(name, op, tally.elements, one, more, tally.largest)


@dataclass(frozen=True)
class Parity:
    """All compared layers in execution order, and the quantized values that have no tensor of the same encoding in the TFLite artifact.

    `between` names what is compared, for reports.
    """

    samples: int
    layers: tuple[LayerParity, ...]
    uncompared: tuple[str, ...]
    between: str = "the TFLite and ONNX artifacts"

    def __iter__(self) -> Iterator[LayerParity]:
        return iter(self.layers)

    @property
    def max_lsb(self) -> int:
        """The largest difference of all layers."""
        return max((layer.max_lsb for layer in self.layers), default=0)

    def beyond(self, lsb: int = 1) -> tuple[LayerParity, ...]:
        """Layers that differ by more than `lsb` somewhere."""
        return tuple(layer for layer in self.layers if layer.max_lsb > lsb)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for report.json."""
        return {
            "samples": self.samples,
            "max_lsb": self.max_lsb,
            "layers": [asdict(layer) for layer in self.layers],
            "uncompared": list(self.uncompared),
        }


@dataclass
class Tally:
    """Differences of one layer's integers in the course of the samples."""

    elements: int = 0
    histogram: Array = field(default_factory=lambda: np.zeros(3, np.int64))
    largest: int = 0

    def add(self, difference: Array) -> None:
        """Add absolute differences."""
        self.elements += difference.size
        self.histogram += np.bincount(np.minimum(difference.ravel(), 2), minlength=3)
        self.largest = max(self.largest, int(difference.max(initial=0)))


def artifact_parity(
    tflite: str | Path,
    qdq: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    layouts: Mapping[str, str] | None = None,
    kernels: str = "litert-ref",
    optimize: bool = True,
    threads: int = 1,
    timeout_s: float = 120.0,
) -> Parity:
    """Compare every layer of the two artifacts on the same integer inputs.

    Args:
        tflite, qdq: the artifacts of one plan.
        samples: canonical samples (float, channels-first).
        layouts: "channels_last" for every value that the TFLite artifact holds so; of graph inputs and outputs as the artifact's
            user sees them.
        kernels: the runtime of the TFLite artifact (one that keeps its tensors).
        optimize: let onnxruntime fuse the QDQ form into integer kernels, as it does when shipped.

    Raises:
        DataError: EW-D001, there is no sample.
        ModelError: EW-Q002, the artifacts share no quantized value: they are not of one plan.
        RuntimeFailure: as `open_session`.
    """
    import onnx

    model = onnx.load(str(qdq))
    layouts = layouts or {}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_session(kernels, tflite, threads=threads, timeout_s=timeout_s, keep_tensors=True) as lite,
    ):
        walk = iter(samples)
        first = next(walk, None)
        if first is None:
            raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
        run_lite = ArtifactRunner(lite, layouts)
        run_lite(first)
        points, uncompared = find_points(model, lite.tensors(), lite.encodings(), layouts)
        layers = {point.tensor: point for point in points if point.op}
        if not layers:
            raise ModelError("EW-Q002", f"{tflite} and {qdq} share no quantized value", why="they are not artifacts of one plan")
        path = Path(folder) / "layers.onnx"
        path.write_bytes(cut_layers(model, points))
        tallies = {name: Tally() for name in layers}
        count = 0
        with open_session("onnxruntime", path, threads=threads, timeout_s=timeout_s, options={"optimize": optimize}) as ort:
            wanted = {info.name for info in ort.inputs}
            sample: Mapping[str, Array] | None = first
            while sample is not None:
                if count:
                    run_lite(sample)
                count += 1
                tensors = lite.tensors()
                integers = {point.tensor: point.of_tflite(tensors) for point in points}
                feeds = {point.fed: integers[point.tensor] for point in points if point.fed in wanted}
                feeds |= {name: array for name, array in sample.items() if name in wanted}
                for name, found in ort.run(feeds).items():
                    tallies[name].add(np.abs(found.astype(np.int32) - integers[name].astype(np.int32)))
                sample = next(walk, None)
    return Parity(
        count, tuple(LayerParity.of(layers[name].value, layers[name].op, tally) for name, tally in tallies.items()), uncompared
    )


def layer_parity(
    graph: ir.Model, plan: Plan, tflite: str | Path, samples: Iterable[Mapping[str, Array]], *, timeout_s: float = 120.0
) -> Parity:
    """`artifact_parity` of a TFLite artifact and the QDQ model that its own legalized graph and plan give (uint8 activations)."""
    from exporter.backends.onnx.qdq import insert_qdq

    model = graph.clone()
    insert_qdq(model, plan, "uint8")
    with tempfile.TemporaryDirectory() as folder:
        qdq = Path(folder) / "qdq.onnx"
        qdq.write_bytes(ir.serde.serialize_model(model).SerializeToString())
        return artifact_parity(tflite, qdq, samples, layouts=stored_layouts(graph, plan), timeout_s=timeout_s)
