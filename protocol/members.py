"""Claims about members, and the gossip that carries them.

A claim is one node's name, address and state at one moment of its life. Of two claims about one name the later
holds, by rules that need no clock: a process that was started later, then one that denied more rumours, then the
worse state, then the greater address, so that everybody comes to hold the same. Only a member itself raises the
first two, so it can always answer what is said of it (SWIM, Das et al. 2002, section 4.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from . import fields
from . import wire_pb2 as wire
from .errors import EnvelopeError, Refusal
from .limits import MAX_INCARNATION, MAX_MEMBERS, PROTOCOL_VERSION


class MemberState(IntEnum):
    """How a member stands, from better to worse."""

    ALIVE = 0
    SUSPECT = 1
    """It did not answer; it is a member until it is held for dead."""
    DEAD = 2
    LEFT = 3
    """It said so itself."""

    @property
    def live(self) -> bool:
        """Whether it counts as a member."""
        return self <= MemberState.SUSPECT


_STATES = {int(state): state for state in MemberState}


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One claim about a node."""

    name: str
    address: str
    incarnation: int = 0
    refuted: int = 0
    state: MemberState = MemberState.ALIVE

    @property
    def age(self) -> tuple[int, int]:
        """The part of a claim that only the member itself raises."""
        return self.incarnation, self.refuted

    def supersedes(self, other: Member) -> bool:
        """Whether this claim holds against another about the same name."""
        return (*self.age, self.state, self.address) > (*other.age, other.state, other.address)

    @property
    def mark(self) -> int:
        """A hash of the claim that does not ask whether it is suspected: equal rosters have equal sums."""
        text = f"{self.name}\n{self.address}\n{self.incarnation}\n{self.refuted}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    @property
    def room(self) -> int:
        """Bytes that it takes in a message, at most."""
        return 32 + len(self.name) + len(self.address.encode())

    def message(self) -> wire.Member:
        """Return the protobuf form."""
        return wire.Member(
            name=self.name,
            address=self.address,
            incarnation=self.incarnation,
            refuted=self.refuted,
            state=self.state.name,
        )

    @classmethod
    def read(cls, m: wire.Member) -> Member:
        """Check and return what a stranger claims; raises EnvelopeError."""
        if m.state not in _STATES:
            raise EnvelopeError(Refusal.BAD_HEADER, f"member state {m.state}")
        if m.incarnation > MAX_INCARNATION:
            raise EnvelopeError(Refusal.BAD_HEADER, f"incarnation {m.incarnation}")
        return cls(fields.name(m.name), fields.address(m.address), m.incarnation, m.refuted, _STATES[m.state])


def read_members(messages: Iterable[wire.Member]) -> tuple[Member, ...]:
    """Check and return a list of claims; raises EnvelopeError."""
    found = tuple(messages)
    if len(found) > MAX_MEMBERS:
        raise EnvelopeError(Refusal.OVERSIZE, f"{len(found)} members")
    return tuple(Member.read(m) for m in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip:
    """A question whether somebody lives, or the answer, with what the speaker has heard of members."""

    network: str
    run: str
    name: str
    round: int = 0
    target: str = ""
    """Another than the receiver: ask it for me, and answer if it answered you."""
    news: tuple[Member, ...] = ()
    """The speaker's own claim first."""
    roster: int = 0
    """Sum of the marks of all live members."""
    all: bool = False
    """`news` is everything the speaker knows: answer with the same."""
    doubts: tuple[str, ...] = ()
    """Members who did not answer the speaker itself."""
    protocol: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        """Serialize."""
        return wire.GossipMessage(
            protocol=self.protocol,
            network=self.network,
            run=self.run,
            name=self.name,
            round=self.round,
            target=self.target,
            news=[member.message() for member in self.news],
            roster=self.roster,
            all=self.all,
            doubts=self.doubts,
        ).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Gossip:
        """Read and check; raises EnvelopeError."""
        m = wire.GossipMessage()
        fields.parse(m, data)
        if len(m.doubts) > MAX_MEMBERS:
            raise EnvelopeError(Refusal.OVERSIZE, f"{len(m.doubts)} doubts")
        if m.protocol != PROTOCOL_VERSION:
            raise EnvelopeError(Refusal.UNSUPPORTED_VERSION, f"{m.protocol}, mine is {PROTOCOL_VERSION}")
        return cls(
            network=fields.name(m.network),
            run=fields.name(m.run),
            name=fields.name(m.name),
            round=m.round,
            target=fields.name(m.target) if m.target else "",
            news=read_members(m.news),
            roster=m.roster,
            all=m.all,
            doubts=tuple(fields.name(each) for each in m.doubts),
        )
