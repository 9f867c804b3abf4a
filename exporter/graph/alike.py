"""What is said alike of many nodes, said once: how many they are, the first of them by name, and the reasons.

::

    a (Sqrt): no kernel; b (Sqrt): no kernel; c (Sqrt): no kernel        3 Sqrt (a, b and 1 more): no kernel
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["alike", "named"]

_SHOWN: Final = 2


def alike(entries: Iterable[tuple[str, str, Sequence[str]]]) -> tuple[str, ...]:
    """One line for all nodes of one kind with the same reasons, in the order of the first of each.

    Args:
        entries: name of the node, its kind (the operator, with whatever else tells it from others; "" where the name does), reasons.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, kind, reasons in entries:
        groups.setdefault((kind, tuple(reasons)), []).append(name)
    return tuple(f"{_counted(kind, names)}: {'; '.join(reasons)}" for (kind, reasons), names in groups.items())


def named(names: Sequence[str]) -> str:
    """All names where they are few, else the first two and how many more."""
    shown = names if len(names) <= _SHOWN + 1 else names[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > len(shown) else "")


def _counted(kind: str, names: Sequence[str]) -> str:
    if not kind:
        return named(names)
    return f"{names[0]} ({kind})" if len(names) == 1 else f"{len(names)} {kind} ({named(names)})"
