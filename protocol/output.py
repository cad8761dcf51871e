"""How the commands print: sizes and times for people, errors in red, and nobody else's escape sequences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def complain(message: str) -> None:
    """Print an error to stderr, unwrapped, so that it can be searched for and copied."""
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("error:", "bold red"), " ", plain(message, keep="\n")), soft_wrap=True)


def plain(text: str, keep: str = "") -> str:
    """Return text from another machine without control characters, which could repaint the terminal."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def listed(what: str, names: Sequence[str], most: int = 5) -> str:
    """Write what some names stand for, the first of them, and how many more there are.

    >>> listed("left out", ["a", "b", "c"], most=2)
    'left out: a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"


def members(count: int) -> str:
    """Write how many members there are.

    >>> members(1), members(2)
    ('1 member', '2 members')
    """
    return "1 member" if count == 1 else f"{count} members"


def size(count: float) -> str:
    """Write bytes with three digits in decimal units.

    >>> size(1234567)
    '1.23 MB'
    """
    unit = 0
    while round(count, 1) >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Write seconds the way people say them.

    >>> duration(0.0123), duration(42), duration(3723)
    ('12 ms', '42.0 s', '1 h 02 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:02.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
