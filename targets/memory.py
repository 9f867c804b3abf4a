"""Does an artifact fit the target's memory? In numbers, for a refusal that the user can act on."""

from __future__ import annotations

from diagnostics import TargetError
from targets.schema import Target

__all__ = ["check_fit", "require_fit"]


def check_fit(target: Target, flash_bytes: int | None, sram_bytes: int | None) -> list[str]:
    """What does not fit, one sentence each; empty where all does.

    Args:
        target: the profile; memory that it does not limit always suffices.
        flash_bytes: size of the model file; None: not known yet.
        sram_bytes: size of the activations (the arena); None: not known yet.
    """
    wants = (("flash", "the model file", flash_bytes, target.memory.flash), ("SRAM", "the arena", sram_bytes, target.memory.sram))
    return [
        f"{what} needs {_size(needed)} of {memory}, {target.name} has {_size(available)}: {_size(needed - available)} too much"
        for memory, what, needed, available in wants
        if needed is not None and available is not None and needed > available
    ]


def require_fit(target: Target, flash_bytes: int | None, sram_bytes: int | None, model: str = "the model", why: str = "") -> None:
    """Raise TargetError EW-T003 with needed and available bytes where `model` does not fit, and `why`; see `check_fit`."""
    problems = check_fit(target, flash_bytes, sram_bytes)
    if problems:
        raise TargetError(
            "EW-T003",
            f"{model} does not fit the memory of {target.name}: {'; '.join(problems)}",
            why=why,
            fix="prune it (--prune), take a smaller model or input, or a target with more memory",
        )


def _size(count: int) -> str:
    return f"{count:,} bytes ({count / 1024:,.1f} KiB)"
