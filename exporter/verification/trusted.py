"""Which runtimes may judge an artifact: one that computes a precision wrongly says nothing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from diagnostics import RuntimeFailure
from exporter.runtimes.places import base_name

__all__ = ["trusted"]

# (runtime, precision) -> what is wrong there, measured on LiteRT 2.3.0.
_WRONG: Final[Mapping[tuple[str, str], str]] = {
    ("litert-ref", "dynamic_int4"): "LiteRT's reference kernels read weights in blocks as if they had no scales",
}


def trusted(runtimes: Sequence[str], precision: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runtimes that compute `precision` right, and a warning for each of the others.

    Raises RuntimeFailure EW-R002 where none is left.
    """
    wrong = {name: _WRONG[key] for name in runtimes if (key := (base_name(name), precision)) in _WRONG}
    left = tuple(name for name in runtimes if name not in wrong)
    if runtimes and not left:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        raise RuntimeFailure("EW-R002", f"no runtime here can judge precision {precision}", why=reasons)
    return left, tuple(f"{name} was not asked: {reason}" for name, reason in wrong.items())
