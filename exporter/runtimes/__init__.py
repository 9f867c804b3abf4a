"""Run artifacts on real runtimes, each in a worker process of its own with time and memory limits."""

from __future__ import annotations

from exporter.runtimes.registry import Availability, all_runtimes, available
from exporter.runtimes.session import Session, TensorInfo, open_session

__all__ = ["Availability", "Session", "TensorInfo", "all_runtimes", "available", "open_session"]
