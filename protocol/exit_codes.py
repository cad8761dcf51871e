"""What the command's exit code says: whose fault it was, as `errors.py` draws it."""

from __future__ import annotations

from enum import IntEnum

from .errors import ConfigError, DataDirError, DegradedError, PeerError, PeermergeError


class ExitCode(IntEnum):
    """Part of the interface: scripts branch on these."""

    DONE = 0
    """Done; a node that was told to stop counts."""
    BUG = 1
    """An error nobody foresaw, or a check of `doctor` that failed."""
    USAGE = 2
    """The configuration or the command line."""
    DATA_DIR = 3
    """The data directory, or its disk."""
    PEER = 4
    """Another node: not reached, or it refused."""
    FAILED = 5
    """The run itself: weights that are not finite, a node of a simulation that failed."""
    INTERRUPTED = 130
    """Interrupted twice: nothing more was saved."""


CODES: dict[type[PeermergeError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    DataDirError: ExitCode.DATA_DIR,
    DegradedError: ExitCode.DATA_DIR,
    PeerError: ExitCode.PEER,
    PeermergeError: ExitCode.FAILED,
}
"""From the branches of the error tree to codes; the root stands for what has no line of its own."""


def exit_code(error: PeermergeError) -> ExitCode:
    """Return the code of the nearest branch that an error belongs to."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
