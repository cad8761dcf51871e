"""The C library's allocator, told once per process how buffers travel here."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8
"""glibc's malloc.h."""


def share_one_arena() -> None:
    """Let all threads of this process allocate from one arena; call it before threads start.

    gRPC's threads fill buffers that others free. With an arena each, glibc gives what is freed back to the system and
    takes it anew, which costs more than copying the bytes. Where the C library has no arenas this does nothing.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
