"""Errors as users see them: what went wrong, where, why, how to mend it, under a stable code.

Every package may raise these; nothing else is imported here, so that `calibration` and `targets` need not know `exporter`.
The command line turns an `EdgewrightError` into one message and the exit status of its class; it never shows a traceback for one.
"""

from __future__ import annotations

from typing import ClassVar, Final

__all__ = [
    "CODES",
    "CompilerFailure",
    "DataError",
    "EdgewrightError",
    "GateError",
    "ModelError",
    "RuntimeFailure",
    "TargetError",
    "UsageError",
]


class EdgewrightError(Exception):
    """An error that the user can understand and mend.

    Args:
        code: stable identifier, a key of `CODES` (for example ``EW-Q012``).
        what: what went wrong, one sentence with the offending name or value.
        where: node, value, file or line, where known.
        why: the reason, where `what` does not say it.
        fix: what the user can do about it.
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, code: str, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        if code not in CODES:
            raise KeyError(f"error code {code} is not in diagnostics.CODES")
        super().__init__(what)
        self.code, self.what, self.where, self.why, self.fix = code, what, where, why, fix

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.what}"]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if "\n" in text.strip():
                lines += [f"  {label}:", *(f"    {line}" for line in text.strip().splitlines())]
            elif text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str | int]:
        """The same as plain data, for ``--json``."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "exit_status": self.exit_status,
        }


class GateError(EdgewrightError):
    """A verification gate did not hold (exit status 1)."""

    exit_status = 1


class UsageError(EdgewrightError):
    """The command or call itself is wrong (exit status 2)."""

    exit_status = 2


class ModelError(EdgewrightError):
    """The model is unreadable, invalid or holds something that no artifact can (exit status 3)."""

    exit_status = 3


class DataError(EdgewrightError):
    """Calibration or test data is missing or unusable (exit status 3)."""

    exit_status = 3


class TargetError(EdgewrightError):
    """The target is unknown, its profile invalid, or it cannot take the model (exit status 4)."""

    exit_status = 4


class RuntimeFailure(EdgewrightError):
    """A runtime or compiler is absent, crashed, hung or refused the artifact (exit status 5)."""

    exit_status = 5


class CompilerFailure(RuntimeFailure):
    """A vendor's compiler is absent, crashed, hung or refused the artifact: it concerns one target, not the others."""


# One line a code: the stable contract between messages, tests and docs/errors.md.
CODES: Final[dict[str, str]] = {
    # usage
    "EW-U001": "an option's value cannot be parsed",
    "EW-U002": "options contradict each other or one is missing",
    "EW-U003": "a module:callable cannot be imported or called",
    "EW-U004": "the destination exists or cannot be written",
    "EW-U005": "an optional dependency is not installed",
    # models
    "EW-M001": "the model file does not exist",
    "EW-M002": "the model file cannot be parsed",
    "EW-M003": "the model's format is not known or not yet read",
    "EW-M004": "the model cannot be traced or exported",
    "EW-M005": "a weight holds NaN or infinity",
    "EW-M006": "a dimension is dynamic and needs a fixed value",
    "EW-M007": "the graph failed a check after a stage",
    "EW-M008": "external data lies outside of the model's folder or is missing",
    "EW-M009": "an operator is not known",
    "EW-M010": "the model holds pickled code and --allow-pickle was not given",
    "EW-M011": "example inputs are missing or do not fit the model",
    # data
    "EW-D001": "the data does not exist or holds no sample",
    "EW-D002": "a sample holds NaN or infinity",
    "EW-D003": "a sample's shape or dtype does not fit the model's input",
    "EW-D004": "a data file cannot be read",
    "EW-D005": "the preprocessing specification is invalid",
    "EW-D006": "an iterator that gives its samples once was read a second time",
    "EW-D007": "a calibration store is of another model or of other data",
    # quantization
    "EW-Q001": "an int8 export needs calibration data",
    "EW-Q002": "a plan does not fit the graph or cannot be read",
    "EW-Q003": "an operator cannot be quantized and the target has no float",
    "EW-Q004": "a weight does not fit float16",
    # pruning
    "EW-P001": "the pruning goal cannot be reached",
    "EW-P002": "the pruning specification is invalid",
    # targets
    "EW-T001": "the target is not known",
    "EW-T002": "the target's profile is invalid",
    "EW-T003": "the model does not fit the target's memory",
    "EW-T004": "the target's runtime lacks an operator or a form of it",
    "EW-T005": "the artifact needs a newer runtime than the target has",
    "EW-T006": "the target does not take this precision, or the precision not these inputs and outputs",
    "EW-T007": "a dimension cannot stay open in the artifact",
    # runtimes and compilers
    "EW-R001": "a runtime is not installed",
    "EW-R002": "a runtime refused or could not load the artifact",
    "EW-R003": "a runtime crashed",
    "EW-R004": "a runtime exceeded its time limit",
    "EW-R005": "a written artifact does not compute what its original does",
    "EW-R006": "a target's compiler is not installed",
    "EW-R007": "a compiler refused the artifact, or what it wrote cannot be read",
    "EW-R008": "a compiler crashed",
    "EW-R009": "a compiler exceeded its time limit",
    "EW-R010": "a machine cannot be reached over ssh",
    "EW-R011": "a runtime exceeded its memory limit",
    # gates and verification
    "EW-G001": "a gate did not hold",
    "EW-G002": "a gate's expression is invalid or names an unknown metric",
    "EW-G003": "a bundle or artifact cannot be read",
}
