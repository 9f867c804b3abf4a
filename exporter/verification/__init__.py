"""Proof: original against artifact, gates, layer by layer, runtime against runtime."""

from __future__ import annotations

from exporter.verification.compare import Comparison, compare
from exporter.verification.gates import Gate, GateResult, check, require
from exporter.verification.layers import LayerQuality, LayerWatch, layer_sqnr, watch_layers
from exporter.verification.metric import TaskScore, evaluate
from exporter.verification.metrics import Metrics
from exporter.verification.parity import LayerParity, Parity, artifact_parity, layer_parity
from exporter.verification.runner import Agreement, ArtifactRunner, equal_outputs

__all__ = [
    "Agreement",
    "ArtifactRunner",
    "Comparison",
    "Gate",
    "GateResult",
    "LayerParity",
    "LayerQuality",
    "LayerWatch",
    "Metrics",
    "Parity",
    "TaskScore",
    "artifact_parity",
    "check",
    "compare",
    "equal_outputs",
    "evaluate",
    "layer_parity",
    "layer_sqnr",
    "require",
    "watch_layers",
]
