"""The oldest release of a runtime that an artifact must run on, as users and profiles write it: ``tflite>=2.14``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diagnostics import UsageError
from targets.schema import FLOORS, Target

__all__ = ["Floor", "floor_of", "lower_floors"]

_FORM: Final = re.compile(r"([a-z][a-z0-9-]*)\s*>=\s*([0-9]+(?:\.[0-9]+){0,2})")
_EXAMPLE: Final = 'for example --runtime "tflite>=2.14" or --runtime "onnxruntime>=1.17"'


@dataclass(frozen=True)
class Floor:
    """A runtime whose releases are comparable ("tflite" or "onnxruntime") and its least release, three numbers."""

    runtime: str
    release: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> Floor:
        """``"tflite>=2.14"`` -> tflite, (2, 14, 0). Raises UsageError EW-U001 for anything else."""
        found = _FORM.fullmatch(text.strip())
        if found is None or found[1] not in FLOORS.values():
            known = ", ".join(dict.fromkeys(FLOORS.values()))
            raise UsageError(
                "EW-U001",
                f"{text!r} is not a runtime's least release",
                why=f"wanted: RUNTIME>=RELEASE, where RUNTIME is one of {known}",
                fix=_EXAMPLE,
            )
        return cls(found[1], _padded(found[2]))

    def covers(self, release: str) -> bool:
        """Whether every runtime that is allowed has what came with `release` (for example "2.9.0")."""
        return _padded(release) <= self.release

    def __str__(self) -> str:
        numbers = self.release[:2] if self.release[2] == 0 else self.release
        return f"{self.runtime}>={'.'.join(map(str, numbers))}"


def floor_of(target: Target) -> Floor | None:
    """The floor of a profile; None where it has none. An opset alone counts as the first onnxruntime that reads it."""
    if target.artifact.opset is not None:
        from targets.releases.onnxruntime import first_release

        return Floor.parse(f"onnxruntime>={first_release(target.artifact.opset)}")
    return Floor.parse(target.artifact.floor) if target.artifact.floor else None


def lower_floors(targets: Sequence[Target], text: str) -> tuple[Target, ...]:
    """`targets` with the floor `text` instead of their own, where it is about the runtime of their artifact.

    Raises UsageError: EW-U001, it cannot be parsed; EW-U002, no target's artifact runs on that runtime.
    """
    floor = Floor.parse(text)
    concerned = [target for target in targets if FLOORS.get(target.artifact.runtime) == floor.runtime]
    if not concerned:
        runtimes: Mapping[str, str] = {target.name: target.artifact.runtime for target in targets}
        raise UsageError(
            "EW-U002",
            f"the floor {floor} is about none of the targets",
            why="; ".join(f"{name} runs on {runtime}" for name, runtime in runtimes.items()),
            fix="name the least release of the runtime that the target has",
        )
    return tuple(_with_floor(target, floor) if target in concerned else target for target in targets)


def _with_floor(target: Target, floor: Floor) -> Target:
    return target.model_copy(update={"artifact": target.artifact.model_copy(update={"floor": str(floor)})})


def _padded(release: str) -> tuple[int, int, int]:
    first, second, third = (*(int(part) for part in release.split(".")), 0, 0)[:3]
    return first, second, third
