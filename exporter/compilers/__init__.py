"""Vendors' compilers: what the device loads, made from a written artifact, in another process with a time limit."""

from __future__ import annotations

from exporter.compilers.agreement import Disagreement, disagreements
from exporter.compilers.base import Compiled, Compiler, OperatorPlacement, Task
from exporter.compilers.registry import COMPILERS, all_compilers, compile_for, compiler_of, how_to_get

__all__ = [
    "COMPILERS",
    "Compiled",
    "Compiler",
    "Disagreement",
    "OperatorPlacement",
    "Task",
    "all_compilers",
    "compile_for",
    "compiler_of",
    "disagreements",
    "how_to_get",
]
