"""A live line on the terminal: rounds done, mean accuracy, bytes sent."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .summary import headline


class LiveProgress:
    """Shows an Observer's news with rich, on the console given; use it in a `with`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._part: TaskID | None = None
        self._title = ""
        self._metrics: dict[str, float] = {}
        self._bytes: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, title: str, rounds: int) -> None:
        """Begin a new bar."""
        self._end_part()
        self._metrics, self._bytes, self._title = {}, {}, title
        self._part = self._progress.add_task(title, total=rounds, news="")

    def advance(self, title: str, done: int, total: int) -> None:
        """Move the bar of a part without rounds, beginning it if it is new."""
        if self._part is None or self._title != title:
            self.phase(title, total)
        if self._part is not None:
            self._progress.update(self._part, completed=done)

    def round(self, node: str, round_: int, fields: Mapping[str, Any]) -> None:
        """Count a round."""
        metrics = fields["metrics"]
        name = headline(metrics)
        if name:
            self._metrics[node] = metrics[name]
        self._bytes[node] = fields["bytes_out"]
        mean = sum(self._metrics.values()) / max(1, len(self._metrics))
        told = f"mean {name} {mean:.3f}, " if name else ""
        if self._part is not None:
            news = f"{told}{sum(self._bytes.values()) / 1e6:.2f} MB sent"
            self._progress.update(self._part, advance=1, news=news)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def _end_part(self) -> None:
        if self._part is not None:
            self._progress.stop_task(self._part)
