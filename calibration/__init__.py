"""Calibration data: readers, preprocessing, streaming observers, statistics."""

from __future__ import annotations

from calibration.observers import ValueStats
from calibration.preprocess import Audio, Preprocess
from calibration.readers import open_samples
from calibration.samples import InputSpec, Samples, held_out
from calibration.statistics import Statistics, collect

__all__ = [
    "Audio",
    "InputSpec",
    "Preprocess",
    "Samples",
    "Statistics",
    "ValueStats",
    "collect",
    "held_out",
    "open_samples",
]
