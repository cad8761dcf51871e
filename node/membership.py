"""Who is there: a view of the members, and the static form in which nodes introduce each other.

A node is told some addresses. It greets them; every greeting carries the members the other side lists, so
lists grow to their union. A view is only names; the topology is a pure function of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..protocol.limits import MAX_MEMBERS
from ..protocol.messages import Member


@dataclass(frozen=True)
class View:
    """The members as a node sees them now, sorted by name."""

    members: tuple[Member, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(m.name for m in self.members)

    @cached_property
    def id(self) -> int:
        """A hash of the names: equal views have equal ids."""
        return int.from_bytes(hashlib.sha256("\n".join(self.names).encode()).digest()[:8], "little")

    def address(self, name: str) -> str | None:
        """Return where a member is reached."""
        return next((m.address for m in self.members if m.name == name), None)


class StaticMembership:
    """Members learnt from a list of addresses and from whoever greets us. Nobody is ever dropped."""

    def __init__(self, me: Member, peers: Iterable[str], expect: int = 0) -> None:
        self.me = me
        self.peers = tuple(peers)
        self._expect = expect or len(self.peers) + 1
        self._known: dict[str, Member] = {me.name: me}

    def view(self) -> View:
        """Return everybody known, ourselves included."""
        return View(tuple(sorted(self._known.values())))

    def moved(self, address: str) -> None:
        """Take up our own address once the door is open."""
        self.me = Member(self.me.name, address)
        self._known[self.me.name] = self.me

    def learn(self, members: Iterable[Member], *, first_hand: bool = False) -> None:
        """Add members, up to the limit; only their own word changes an address that is already known."""
        for member in members:
            known = member.name in self._known
            if member.name != self.me.name and (first_hand if known else len(self._known) < MAX_MEMBERS):
                self._known[member.name] = member

    @property
    def complete(self) -> bool:
        """Whether as many members are known as are expected."""
        return len(self._known) >= self._expect

    def unknown_addresses(self) -> list[str]:
        """Return the addresses we were told whose owners have not introduced themselves."""
        met = {m.address for m in self._known.values()}
        return [address for address in self.peers if address not in met]
