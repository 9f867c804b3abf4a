"""Calibration data: readers, preprocessing, streaming sketches, the store that holds them."""

from __future__ import annotations

from calibration.collecting import Checkpoint, collect
from calibration.observers import ValueStats
from calibration.preprocess import Audio, Preprocess
from calibration.readers import open_samples
from calibration.samples import InputSpec, Samples, held_out
from calibration.store import Statistics, Store

__all__ = [
    "Audio",
    "Checkpoint",
    "InputSpec",
    "Preprocess",
    "Samples",
    "Statistics",
    "Store",
    "ValueStats",
    "collect",
    "held_out",
    "open_samples",
]
