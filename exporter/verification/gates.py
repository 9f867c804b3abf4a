"""Gates: conditions on metrics that set the exit status, for example ``top1_agreement>=0.98`` or ``logits.sqnr_db>=20``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diagnostics import GateError, UsageError
from exporter.verification.compare import Comparison
from exporter.verification.metrics import AT_MOST_ONE, HIGHER_IS_BETTER, json_number

__all__ = ["Gate", "GateResult", "check", "require"]

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM: Final = re.compile(r"\s*(?:(?P<output>.+)\.)?(?P<metric>[A-Za-z_]\w*)\s*(?P<op>>=|<=|==|>|<)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """``[output.]metric operator limit``. Without an output the worst output is judged."""

    metric: str
    operator: str
    limit: float
    output: str | None = None

    @classmethod
    def parse(cls, text: str, *, task: bool = False) -> Gate:
        """Read a gate's expression. With `task`, names of the user's own scores are allowed and looked up by `check`.

        Raises UsageError EW-G002 where the form, the number or the metric is not known.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                "EW-G002",
                f"the gate {text!r} cannot be read",
                fix="write METRIC>=NUMBER or OUTPUT.METRIC>=NUMBER; operators are >=, <=, >, <, ==",
            )
        try:
            limit = float(match["limit"])
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            raise UsageError("EW-G002", f"the gate {text!r} has no number behind {match['op']}")
        if match["metric"] not in HIGHER_IS_BETTER and not task:
            raise _unknown(match["metric"], HIGHER_IS_BETTER)
        if match["metric"] in AT_MOST_ONE and match["op"].startswith(">") and not _OPERATORS[match["op"]](1, limit):
            raise UsageError(
                "EW-G002", f"the gate {text!r} can never hold", why=f"{match['metric']} is 1 at most", fix=_as_share(match, limit)
            )
        return cls(match["metric"], match["op"], limit, match["output"])

    def holds(self, value: float) -> bool:
        """Whether a value passes; NaN never does."""
        return not math.isnan(value) and _OPERATORS[self.operator](value, self.limit)

    def __str__(self) -> str:
        return f"{self.output + '.' if self.output else ''}{self.metric}{self.operator}{repr(self.limit).removesuffix('.0')}"


@dataclass(frozen=True)
class GateResult:
    """A gate, the output that it was judged on ("" for a task score), its value there and whether it holds."""

    gate: Gate
    output: str
    value: float
    passed: bool

    def __str__(self) -> str:
        where = f" at {self.output}" if self.output else ""
        return f"{self.gate}: {'holds' if self.passed else 'fails'} with {self.value:.6g}{where}"

    def to_dict(self) -> dict[str, float | str | bool | None]:
        """Plain data for JSON."""
        return {"gate": str(self.gate), "output": self.output, "value": json_number(self.value), "passed": self.passed}


def check(gates: Sequence[Gate], comparison: Comparison) -> list[GateResult]:
    """Judge every gate. A task score ``name`` is the artifact's; ``name_drop`` is what it lost against the original.

    Raises UsageError EW-G002 where a gate names an output or a metric that the comparison does not have.
    """
    return [_judge(gate, comparison) for gate in gates]


def require(results: Sequence[GateResult]) -> None:
    """Raise GateError EW-G001 (exit status 1) where any gate did not hold, naming each that did not."""
    failed = [str(result) for result in results if not result.passed]
    if failed:
        raise GateError("EW-G001", f"{len(failed)} of {len(results)} gates did not hold", why="; ".join(failed))


def _judge(gate: Gate, comparison: Comparison) -> GateResult:
    output, value = _measured(gate, comparison)
    return GateResult(gate, output, value, gate.holds(value))


def _measured(gate: Gate, comparison: Comparison) -> tuple[str, float]:
    if gate.output is None and gate.metric not in HIGHER_IS_BETTER:
        scores = {name: score.artifact for name, score in comparison.task.items()}
        scores |= {f"{name}_drop": score.drop for name, score in comparison.task.items()}
        if gate.metric not in scores:
            raise _unknown(gate.metric, [*HIGHER_IS_BETTER, *scores])
        return "", scores[gate.metric]
    if gate.metric not in HIGHER_IS_BETTER:
        raise _unknown(gate.metric, HIGHER_IS_BETTER)
    if gate.output is None:
        worst = comparison.worst(gate.metric)
        if worst is None:
            raise UsageError("EW-G002", f"no output has the metric {gate.metric}", why="none of them is a class vector")
        return worst
    if gate.output not in comparison.outputs:
        raise UsageError(
            "EW-G002", f"the gate {gate} names no output of the model", fix=f"name one of {', '.join(comparison.outputs)}"
        )
    value = comparison.outputs[gate.output].get(gate.metric)
    if value is None:
        raise UsageError("EW-G002", f"output {gate.output} has no metric {gate.metric}", why="it is not a class vector")
    return gate.output, value


def _as_share(match: re.Match[str], limit: float) -> str:
    return f"give a share: {match['metric']}{match['op']}{limit / 100:g}" if limit <= 100 else "give a share of 1"


def _unknown(metric: str, known: Mapping[str, bool] | Sequence[str]) -> UsageError:
    return UsageError("EW-G002", f"there is no metric {metric!r}", fix=f"name one of {', '.join(known)}")
