"""What the system tells of this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["cpu_features", "processor"]


def processor() -> str:
    """The processor's name; what Python knows where the system has no /proc/cpuinfo."""
    return next(iter(_fields("model name")), platform.processor())


def cpu_features() -> frozenset[str]:
    """The instructions that the first processor has, by the kernel's names ("avx512_vnni", "asimddp"); empty where it does not say."""
    return frozenset(next(iter((*_fields("flags"), *_fields("Features"))), "").split())


def _fields(key: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key]
