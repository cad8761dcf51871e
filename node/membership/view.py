"""A view: the members as a node sees them now. The topology is a pure function of it."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from ...protocol.members import Member


@dataclass(frozen=True)
class View:
    """The live members, sorted by name."""

    members: tuple[Member, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(m.name for m in self.members)

    @cached_property
    def id(self) -> int:
        """A hash of the names: equal views have equal ids, and rounds are tagged with it."""
        return int.from_bytes(hashlib.sha256("\n".join(self.names).encode()).digest()[:8], "little")

    def address(self, name: str) -> str | None:
        """Return where a member is reached."""
        place = bisect_left(self.names, name)
        return self.members[place].address if place < len(self.names) and self.names[place] == name else None

    def __contains__(self, name: str) -> bool:
        """Whether somebody is a member."""
        return self.address(name) is not None
