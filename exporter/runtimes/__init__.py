"""Run artifacts on real runtimes, each in a worker process of its own with time and memory limits."""

from __future__ import annotations

from exporter.runtimes.environments import Environment, list_environments
from exporter.runtimes.registry import Availability, all_runtimes, available
from exporter.runtimes.session import Session, TensorInfo, open_session

__all__ = [
    "Availability",
    "Environment",
    "Session",
    "TensorInfo",
    "all_runtimes",
    "available",
    "list_environments",
    "open_session",
]
