"""How long a node takes on a device: the peak rates of its profile, and what its runtime's kernels make of them.

A kernel of `macs` multiply-accumulates that moves `bytes` takes ``(macs / rate + bytes / bandwidth) * factor + dispatch``. Rates are the
profile's. Factors are the runtime's: `kernels/RUNTIME.toml` holds them as `tools.kernels` measured them, relative to the rates of the machine
that measured, so that a kernel which is a plain loop beside vector code of other kernels is told from them on any device. They are
no clock: what they are for is to compare one form of a graph with another, and an estimate made of them is called one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from targets.schema import Cost, Form, Target, Unit

__all__ = ["CostModel", "KernelTable", "kernel_table", "rates_of"]

_HOME: Final = Path(__file__).parent / "kernels"
# Rates of a device whose profile gives none: only their proportions matter.
_RATES: Final = Cost(gmacs_int8=40.0, gmacs_float=10.0, bandwidth=20.0)


class KernelTable(BaseModel):
    """What the kernels of one runtime take, on the machine where it was measured.

    Attributes:
        measured_on: that machine and the runtime's release.
        dispatch_us: microseconds that a node takes beside its work.
        dequantizes_for_each: whether the runtime converts a value once for every node that reads it in float, not once for all of them.
        factors: by kernel (`exporter.ops.base.Operator.kernel`) and form; 1 where a kernel has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measured_on: str = ""
    dispatch_us: float = Field(default=0.1, ge=0)
    dequantizes_for_each: bool = False
    factors: Mapping[str, Mapping[Form, float]] = Field(default_factory=dict)


@cache
def kernel_table(runtime: str) -> KernelTable:
    """The table of a runtime (`Artifact.runtime`); an empty one where none was measured."""
    path = _HOME / f"{runtime}.toml"
    return KernelTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))) if path.is_file() else KernelTable()


def rates_of(target: Target, unit: Unit) -> Cost:
    """The rates of a unit: its own, else those of the target, which are about its first unit and others of that kind."""
    if unit.cost is not None:
        return unit.cost
    return target.cost if unit.kind == target.units[0].kind else Cost()


class CostModel:
    """Estimated times on one target, in microseconds, at the rates of its first unit or of the one that is given.

    What a runtime's kernels take was measured on CPUs: other units have the profile's own factors alone.
    """

    def __init__(self, target: Target, unit: Unit | None = None) -> None:
        unit = unit or target.units[0]
        rates = rates_of(target, unit)
        self._table = kernel_table(target.artifact.runtime if unit.kind == "cpu" else "")
        self._own = rates.kernels
        self._rates = rates
        self.dequantizes_for_each = self._table.dequantizes_for_each
        self._float = rates.gmacs_float or _RATES.gmacs_float or 1.0
        self._integer = rates.gmacs_int8 or _RATES.gmacs_int8 or 1.0
        self._bandwidth = rates.bandwidth or _RATES.bandwidth or 1.0

    def lacks(self, macs: int, form: Form) -> str:
        """The rate without which nothing can be said of a node's time in seconds, as a key of ``[cost]``; "" where all are known."""
        rate = "gmacs_float" if form == "float32" else "gmacs_int8"
        if macs and getattr(self._rates, rate) is None:
            return rate
        return "bandwidth" if self._rates.bandwidth is None else ""

    @property
    def constants_slower(self) -> float:
        """How many times longer a byte of a constant takes than one of an activation, where the profile says so; else 1."""
        slow, fast = self._rates.weights_bandwidth, self._rates.bandwidth
        return fast / slow if slow is not None and fast is not None else 1.0

    def node_us(self, kernel: str, macs: int, bytes_moved: float, form: Form) -> float:
        """Of a node: its kernel's name, multiply-accumulates, and the bytes of all that it reads and writes in that form."""
        rate = self._float if form == "float32" else self._integer
        work = (macs / rate + bytes_moved / self._bandwidth) / 1e3
        return work * self.factor(kernel, form) + self._table.dispatch_us

    def convert_us(self, elements: int, *, wide: bool = False) -> float:
        """Of the conversion of so many floats, or integers of 16 bits where `wide`, to 8 bits, or back."""
        return self.node_us("Conversion", 0, (3 if wide else 5) * elements, "int8")

    def measured(self, kernel: str, form: Form) -> bool:
        """Whether it is known how long a kernel takes in a form, so that it can be compared with others."""
        return any(form in factors.get(kernel, {}) for factors in (self._own, self._table.factors))

    def factor(self, kernel: str, form: Form) -> float:
        """How many times longer a kernel takes than the rates alone say: the profile's own figure, or its runtime's, or 1."""
        for factors in (self._own, self._table.factors):
            if form in factors.get(kernel, {}):
                return factors[kernel][form]
        return 1.0
