"""A runtime in this very process, spoken to as if it were a worker: for callers that are disposable processes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnostics import RuntimeFailure
from exporter.runtimes import worker

__all__ = ["InProcess"]


class InProcess:
    """Answers as `process.Worker` does. No time limit holds, and a crash of the runtime ends the caller.

    Raises RuntimeFailure EW-R001 where the runtime is not installed, EW-R002 where it refuses the artifact.
    """

    def __init__(self, adapter: str, artifact: Path, options: dict[str, Any]) -> None:
        try:
            self._adapter: worker.Adapter | None = worker.ADAPTERS[adapter](str(artifact), options)
        except ImportError as error:
            raise RuntimeFailure("EW-R001", f"the runtime {adapter} is not installed", why=str(error)) from error
        except Exception as error:  # runtimes share no base class of errors
            why = f"{type(error).__name__}: {error}"
            raise RuntimeFailure("EW-R002", f"{adapter} could not load {artifact.name}", where=str(artifact), why=why) from error
        self.hello: dict[str, Any] = {"inputs": self._adapter.inputs, "outputs": self._adapter.outputs}

    def ask(self, meta: Mapping[str, Any], arrays: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer to a request of the worker's protocol."""
        assert self._adapter is not None
        try:
            return worker.answer(self._adapter, dict(meta), dict(arrays))
        except Exception as error:  # as the worker's loop does
            return {"error": f"{type(error).__name__}: {error}", "kind": "refused"}, {}

    def close(self) -> None:
        """Let go of the runtime; closing twice does nothing."""
        self._adapter = None
