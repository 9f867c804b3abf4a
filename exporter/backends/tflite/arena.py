"""How large an arena a TFLite artifact takes on TensorFlow Lite Micro, told from the file alone, and what fills it at its peak.

The head of the arena holds activations and scratch, laid out by the runtime's planner; the tail what is kept as long as the model: a
structure for each tensor and operator, and what kernels keep. `tests/backends/test_tflite_arena.py` holds both to what the runtime's
recording allocator measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from exporter.backends.tflite.kernel_memory import kept, scratch
from exporter.backends.tflite.program import Program, buffers_of, program_of
from exporter.graph.artifacts import ArtifactFacts
from targets.arena import Buffer, aligned, greedy, live
from targets.schema import Scratch

__all__ = ["Forecast", "forecast", "forecast_program", "planned"]

# Structures of tflite-micro with 64-bit pointers, in bytes.
_BASE: Final = 504  # allocators, planner, one subgraph
_TENSOR: Final = 24  # TfLiteEvalTensor
_OPERATOR: Final = 64  # NodeAndRegistration
_BOUNDARY: Final = 64 + 32 + 8  # of an input or output: TfLiteTensor, its encoding, a pointer to it


@dataclass(frozen=True)
class Forecast:
    """What an artifact will ask of the arena, in bytes.

    Attributes:
        kernels: whose scratch is counted.
        head: activations and scratch; tail: structures, with 64-bit pointers (a microcontroller's take less).
        operator: the operator at the peak, as "OP -> output".
        peak: what exists while it runs, largest first: (tensor, bytes); scratch is named after its operator.
        live: bytes of them all, below which no planner gets.
    """

    kernels: Scratch
    head: int
    tail: int
    operator: str
    peak: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return self.head + self.tail

    @property
    def live(self) -> int:
        return sum(size for _, size in self.peak)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json`` and the report."""
        return {
            "kernels": self.kernels,
            "head": self.head,
            "tail": self.tail,
            "total": self.total,
            "operator": self.operator,
            "peak": [{"tensor": name, "bytes": size} for name, size in self.peak],
        }


def forecast(facts: ArtifactFacts, kernels: Scratch = "reference") -> Forecast | None:
    """Of a .tflite that `read_tflite` read; None where it has more than one subgraph, or tensors of open or unknown size."""
    open_sizes = any(min(tensor.shape, default=0) < 0 for tensor in facts.tensors)
    if facts.subgraphs != 1 or open_sizes or any(tensor.dtype in ("string", "resource", "variant") for tensor in facts.tensors):
        return None
    return forecast_program(program_of(facts), kernels)


def forecast_program(program: Program, kernels: Scratch = "reference") -> Forecast:
    """The same of a program."""
    buffers = planned(program, kernels)
    steps = live(buffers)
    step = max(range(len(steps)), key=steps.__getitem__, default=0)
    at_peak = sorted((buffer for buffer in buffers if buffer.first <= step <= buffer.last), key=lambda entry: -entry.bytes)
    tail = _BASE + _TENSOR * len(program.tensors) + _OPERATOR * len(program.operators)
    tail += _BOUNDARY * (len(program.inputs) + len(program.outputs)) + sum(kept(program, entry) for entry in program.operators)
    return Forecast(
        kernels,
        greedy(buffers).bytes,
        aligned(tail),
        _label(program, step - 1) if 0 < step <= len(program.operators) else "",
        tuple((buffer.name, buffer.bytes) for buffer in at_peak),
    )


def planned(program: Program, kernels: Scratch) -> list[Buffer]:
    """What the runtime's planner is given, in its order: tensors by index, then scratch by operator."""
    temporary = [
        Buffer(f"scratch of {_label(program, position)}", aligned(size), position + 1, position + 1)
        for position, operator in enumerate(program.operators)
        for size in scratch(program, operator, kernels)
    ]
    return [*buffers_of(program).values(), *temporary]


def _label(program: Program, position: int) -> str:
    operator = program.operators[position]
    return f"{operator.op} -> {program.tensors[operator.outputs[0]].name}"
