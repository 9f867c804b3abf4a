"""Does it fit? What an artifact takes of a target's flash and SRAM: as told from the file, as compiled, and as measured."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.backends.tflite.arena import Forecast, forecast
from exporter.built import Built, Written
from exporter.compilers.base import Compiled
from exporter.graph.artifacts import read_tflite
from targets.memory import require_fit
from targets.schema import Scratch, Target

__all__ = ["arena_forecasts", "device_arena", "require_compiled", "require_measured", "require_predicted"]

_SHOWN = 4  # tensors of the peak that a refusal names


def arena_forecasts(written: Written, target: Target) -> tuple[Forecast, ...]:
    """Of an artifact for TensorFlow Lite Micro: with the reference kernels, and with the device's where those take other scratch.

    Empty where nothing can be told (see `forecast`).
    """
    if target.artifact.runtime != "tflite-micro":
        return ()
    facts = read_tflite(written.content)
    kernels: Sequence[Scratch] = tuple(dict.fromkeys(("reference", target.memory.scratch)))
    return tuple(found for entry in kernels if (found := forecast(facts, entry)) is not None)


def require_predicted(written: Written, target: Target, model: str) -> None:
    """Before anything runs. What a compiler will make anew is not judged. Raises TargetError EW-T003."""
    if target.compile is not None:
        return
    require_fit(target, written.size, None, model)
    for found in arena_forecasts(written, target)[-1:]:
        held = ", ".join(f"{name} {size:,} bytes" for name, size in found.peak[:_SHOWN])
        more = len(found.peak) - _SHOWN
        why = f"the arena is full at {found.operator}, with {held}" + (f" and {more} more" if more > 0 else "")
        require_fit(target, None, found.total, model, why)


def require_compiled(compiled: Sequence[Compiled], target: Target, model: str) -> None:
    """As the compiler says of what it made. Raises TargetError EW-T003."""
    for entry in compiled:
        flash, sram = entry.figures.get("flash_bytes"), entry.figures.get("sram_bytes")
        require_fit(target, None if flash is None else int(flash), None if sram is None else int(sram), model)


def require_measured(built: Built, arena_total: int | None) -> None:
    """As tflite-micro measured the arena, with what the device's kernels take beyond the reference kernels. Raises TargetError EW-T003."""
    if built.target.compile is None:
        require_fit(built.target, None, device_arena(built, arena_total), built.source.name)


def device_arena(built: Built, arena_total: int | None) -> int | None:
    """Bytes of the arena on the device: measured with the reference kernels, and the scratch that the device's take more (or less)."""
    if arena_total is None:
        return None
    found = arena_forecasts(built.artifact, built.target)
    return arena_total + (found[-1].head - found[0].head if found else 0)
