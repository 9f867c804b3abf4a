"""Which function reads which builtin operator: adding an operator is adding a function under `exporter.frontends.tflite.operators`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from exporter.frontends.tflite.reading import Reading

__all__ = ["Reader", "readers", "reads"]

Reader = Callable[["Reading"], None]

_READERS: Final[dict[str, Reader]] = {}


def reads(*kinds: str) -> Callable[[Reader], Reader]:
    """Decorator: enter a function as the reader of builtin operators. Raises ValueError where one has a reader already."""

    def enter(reader: Reader) -> Reader:
        for kind in kinds:
            if kind in _READERS:
                raise ValueError(f"operator {kind} is read twice: {_READERS[kind].__module__} and {reader.__module__}")
            _READERS[kind] = reader
        return reader

    return enter


def readers() -> Mapping[str, Reader]:
    """All readers by the schema's name of the operator."""
    if not _READERS:
        package = importlib.import_module("exporter.frontends.tflite.operators")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"exporter.frontends.tflite.operators.{module.name}")
    return _READERS
