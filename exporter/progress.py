"""How a long call tells that it is alive: stages with a count, shown by the command line and silent in the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Progress", "RichProgress"]

Advance = Callable[[int], None]  # called with the number of steps done so far


class Progress(Protocol):
    """Receives the stages of a call."""

    def stage(self, label: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A context manager that spans one stage and gives the function to call after each step."""
        ...

    def warn(self, message: str) -> None:
        """Something that the user should know and that stops nothing."""
        ...


class _Silent:
    @contextmanager
    def stage(self, label: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda done: None

    def warn(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()


class RichProgress:
    """Bars on a terminal's stderr, one line a stage elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, label: str, total: int | None = None) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if not self._console.is_terminal:
            self._console.print(label)
            yield lambda done: None
            return
        columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(label, total=total)
            yield lambda done: bars.update(task, completed=done)
            finished = bars.tasks[0].completed or 1
            bars.update(task, total=total or finished, completed=total or finished)

    def warn(self, message: str) -> None:
        from rich.text import Text

        self._console.print(Text.assemble(("warning:", "yellow"), " ", message), soft_wrap=True)
