"""The artifact against the integer reference of its plan, node by node, to the last bit.

Each node is computed from the tensors that the artifact's own node read, so that what one computes otherwise is not seen at the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import DataError
from exporter.backends.tflite.layout import CHANNELS_LAST
from exporter.graph.values import name_of, static_shape
from exporter.quantization.integers import steps, stored_encodings
from exporter.quantization.plan import Plan
from exporter.verification.cut import names_of_keys
from exporter.verification.kept import open_kept, stored_layouts
from exporter.verification.parity import LayerParity, Parity, Tally
from exporter.verification.runner import to_channels_first

__all__ = ["Comparison", "reference_parity"]

Array = np.ndarray[Any, Any]


class Comparison:
    """Compares the integer nodes of one artifact with the reference, run by run.

    Args:
        graph: the legalized graph that the artifact was written from.
        plan: the plan that it was written by.
    """

    def __init__(self, graph: ir.Model, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._homes = stored_encodings(graph, plan)
        values = [*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs if value.name)]
        self._values = {name_of(value): value for value in values}
        self._boundary = {name_of(value) for value in (*graph.graph.inputs, *graph.graph.outputs)}
        self._tallies: dict[str, Tally] = {}
        self._ops: dict[str, str] = {}
        self._alone: dict[str, None] = {}
        self._runs = 0

    def update(self, tensors: Mapping[str, Array]) -> None:
        """Add one run: the artifact's tensors by name, as they are stored ("index:name" where a name repeats).

        Raises Refused where a node has no integer reference.
        """
        self._runs += 1
        by_name = names_of_keys(tensors)
        stored: dict[str, Array] = {}
        for name in self._values.keys() & self._homes.keys():  # what an activation is fused behind is no value of the artifact
            found = self._stored(name, tensors, by_name)
            if found is not None:
                stored[name] = found
        known = dict(stored)
        for step in steps(self._graph, self._plan, known):
            for name, wanted in step.values.items():
                known.setdefault(name, wanted)  # an output that is another tensor under a second name
                if not step.integer:
                    continue
                if name not in stored:
                    self._alone[name] = None
                    continue
                self._ops[name] = step.node.op_type
                difference = np.abs(stored[name].astype(np.int64) - wanted.astype(np.int64))
                self._tallies.setdefault(name, Tally()).add(difference)

    def result(self) -> Parity:
        """One layer a value that an integer node writes, in execution order; `uncompared`: those that have no tensor of their own."""
        layers = [LayerParity.of(name, self._ops[name], tally) for name, tally in self._tallies.items()]
        return Parity(self._runs, tuple(layers), tuple(self._alone))

    def _stored(self, name: str, tensors: Mapping[str, Array], by_name: Mapping[str, list[str]]) -> Array | None:
        """A value as its producer's tensor holds it, in the canonical order of axes."""
        encoding, value = self._homes[name], self._values[name]
        dtype = encoding.dtype if encoding is not None else None if value.dtype is None else value.dtype.numpy().name
        last, shape = self._plan.layout.get(name) == CHANNELS_LAST, static_shape(value)
        forms = [(name, last)]
        if name in self._boundary:  # the plain name goes to what the user sees
            suffix = f"{'dequantized' if encoding is None else 'quantized'}{'_channels_last' if last else ''}"
            forms = [(f"{name}_{suffix}", last), (name, last and self._plan.io_layout == CHANNELS_LAST)]
        for label, moved in forms:
            for key in by_name.get(label, ()):
                array = to_channels_first(tensors[key]) if moved else tensors[key]
                if array.dtype.name == dtype and array.shape == shape:
                    return array
        return None


def reference_parity(
    graph: ir.Model, plan: Plan, tflite: str | Path, samples: Iterable[Mapping[str, Array]], *, timeout_s: float = 120.0
) -> Parity:
    """Compare every value that a TFLite artifact's integer nodes write, on LiteRT's reference kernels, with the integer reference.

    Args:
        graph: the legalized graph that the artifact was written from.
        plan: the plan that it was written by.
        samples: canonical samples (float, channels-first).

    Raises:
        DataError: EW-D001, there is no sample.
        Refused: a node has no integer reference.
        RuntimeFailure: as `open_session`.
    """
    comparison = Comparison(graph, plan)
    with open_kept(tflite, stored_layouts(graph, plan), timeout_s=timeout_s) as kept:
        for sample in samples:
            comparison.update(kept.run(sample))
    found = comparison.result()
    if not found.samples:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    return found
