"""Which ONNX files each onnxruntime release runs: what makes a runtime floor checkable.

From 1.15 on measured, by loading common operators at every opset: the first release that reads an opset may lack its kernels (1.15 reads
opset 19 and has no Reshape of it). Before that, what the version matrix of onnxruntime's documentation says of the release before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diagnostics import TargetError
from targets.floor import Floor

__all__ = ["Format", "first_release", "format_for"]


@dataclass(frozen=True)
class Format:
    """The newest opset of the standard domain and the newest IR version (of the file format itself) that a release runs."""

    opset: int
    ir_version: int


_FORMATS: Final[tuple[tuple[tuple[int, int, int], Format], ...]] = (
    ((1, 10, 0), Format(15, 7)),
    ((1, 12, 0), Format(16, 8)),
    ((1, 13, 0), Format(17, 8)),
    ((1, 15, 0), Format(18, 8)),
    ((1, 16, 0), Format(19, 9)),
    ((1, 17, 0), Format(20, 9)),
    ((1, 18, 0), Format(21, 10)),
    ((1, 21, 0), Format(22, 10)),
    ((1, 24, 0), Format(25, 13)),
    ((1, 26, 0), Format(26, 13)),
)


def format_for(floor: Floor) -> Format:
    """What every release from `floor` on runs. Raises TargetError EW-T005 where the floor is older than the table."""
    found = [form for release, form in _FORMATS if release <= floor.release]
    if not found:
        oldest = _text(_FORMATS[0][0])
        raise TargetError("EW-T005", f"nothing is written for {floor}", fix=f"the oldest release is onnxruntime {oldest}")
    return found[-1]


def first_release(opset: int) -> str:
    """The first release that runs an opset; "newer" than all where none does."""
    return next((_text(release) for release, form in _FORMATS if form.opset >= opset), f"newer than {_text(_FORMATS[-1][0])}")


def _text(release: tuple[int, int, int]) -> str:
    return f"{release[0]}.{release[1]}"
