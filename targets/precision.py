"""A profile at another precision than its own: what ``--precision`` and ``--io-dtype`` ask for, held against what the target takes."""

from __future__ import annotations

from diagnostics import TargetError
from targets.schema import ACTIVATIONS, IO_DTYPES, PRECISIONS, Target

__all__ = ["choose_io", "choose_precision", "precisions_of"]


def precisions_of(target: Target) -> tuple[str, ...]:
    """All precisions that a target takes, its own first."""
    return tuple(dict.fromkeys((target.artifact.precision, *target.artifact.precisions)))


def choose_precision(target: Target, precision: str) -> Target:
    """`target` with an artifact of `precision`. Inputs and outputs become what that precision has where their dtype is none of it.

    Raises TargetError EW-T006 where the target does not take that precision.
    """
    taken = precisions_of(target)
    if precision not in taken:
        known = precision in PRECISIONS
        raise TargetError(
            "EW-T006",
            f"target {target.name} does not take precision {precision}",
            why="" if known else f"there is none of that name; there are {', '.join(PRECISIONS)}",
            fix=f"choose one of {', '.join(taken)}",
        )
    allowed = IO_DTYPES.get(precision, ("float32",))
    own = target.artifact.io_dtype
    # Firmware that hands over integers goes on doing so, in the integers of the new precision.
    io_dtype = own if own in allowed else ACTIVATIONS[precision] if precision in IO_DTYPES else "float32"
    return _with(target, precision=precision, io_dtype=io_dtype)


def choose_io(target: Target, io_dtype: str) -> Target:
    """`target` with inputs and outputs of `io_dtype`. Raises TargetError EW-T006 where its precision has no such ones."""
    allowed = IO_DTYPES.get(target.artifact.precision, ("float32",))
    if io_dtype not in allowed:
        raise TargetError(
            "EW-T006",
            f"an artifact of precision {target.artifact.precision} has no {io_dtype} inputs and outputs",
            where=target.name,
            fix=f"choose one of {', '.join(allowed)}",
        )
    return _with(target, io_dtype=io_dtype)


def _with(target: Target, **chosen: str) -> Target:
    data = target.model_dump()
    return Target.model_validate({**data, "artifact": {**data["artifact"], **chosen}})
