"""A bar for bytes on the terminal; nothing where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class BytesBar:
    """What a long job tells: how much there is, and how much more is done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def started(self, total: int) -> None:
        """Say how much there is."""
        self._progress.update(self._task, total=total)

    def told(self, count: int) -> None:
        """Say how much more is done."""
        self._progress.update(self._task, advance=count)


@contextmanager
def bytes_bar(console: Console, title: str) -> Iterator[BytesBar]:
    """Show a bar while the context lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield BytesBar(progress, progress.add_task(title, total=None))
