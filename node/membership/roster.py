"""The roster: the latest claim about everybody a node has heard of.

Every source feeds it: greetings, whose members grow to their union; gossip; a coordinator; MQTT. Any of them may
add a member. A member goes by its own word or when failure detection holds it for dead. The roster does no I/O and
knows no time; who wants to hear of changes watches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ...protocol.limits import MAX_MEMBERS, MAX_REFUTED
from ...protocol.members import Member, MemberState
from .view import View

Watcher = Callable[[Member | None, Member], None]
"""Told the claim that held before, if there was one, and the one that holds now."""


class Roster:
    """Everybody known, ourselves included, and the view that follows."""

    def __init__(self, me: Member, peers: Iterable[str] = (), expect: int = 0) -> None:
        self.peers = tuple(peers)
        """The addresses we were told."""
        self._expect = expect or len(self.peers) + 1
        self._name = me.name
        self._known: dict[str, Member] = {me.name: me}
        self._view: View | None = None
        self._watchers: list[Watcher] = []
        self.digest = me.mark if me.state.live else 0
        """Sum of the marks of the live members, mod 2^64: equal for equal views."""

    @property
    def me(self) -> Member:
        """What we claim about ourselves."""
        return self._known[self._name]

    def view(self) -> View:
        """Return the live members, ourselves included."""
        if self._view is None:
            self._view = View(tuple(sorted(m for m in self._known.values() if m.state.live)))
        return self._view

    def get(self, name: str) -> Member | None:
        """Return the claim that holds about somebody."""
        return self._known.get(name)

    def everybody(self) -> tuple[Member, ...]:
        """Return all claims, those about the dead and departed too, by name."""
        return tuple(self._known[name] for name in sorted(self._known))

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` at every claim that changes, while it changes: it must be quick and must not raise."""
        self._watchers.append(watcher)

    def moved(self, address: str) -> None:
        """Take up our own address once the door is open."""
        self._put(replace(self.me, address=address))

    def leave(self) -> None:
        """Claim that we leave: only a new start of the process comes back from that."""
        self._put(replace(self.me, state=MemberState.LEFT))

    def learn(self, claims: Iterable[Member], *, first_hand: bool = False) -> None:
        """Take up what is claimed, as far as it is news.

        Of claims of one age only a member's own word (`first_hand`) changes its address. What others say of
        ourselves is answered: a rumour of our death makes us claim more loudly that we live.
        """
        for claim in claims:
            known = self._known.get(claim.name)
            if claim.name == self._name:
                self._answer(claim)
            elif known is None:
                if claim.state.live and len(self._known) < MAX_MEMBERS:
                    self._put(claim)
            elif claim.supersedes(known):
                self._put(claim if first_hand or claim.age > known.age else replace(claim, address=known.address))
            elif first_hand and claim.age == known.age and claim.address != known.address:
                self._put(replace(known, address=claim.address))

    def judge(self, name: str, state: MemberState) -> None:
        """Hold a member for suspect or dead, as its claim stands now: a later one of its own revokes that."""
        known = self._known.get(name)
        if known is not None and name != self._name and state > known.state:
            self._put(replace(known, state=state))

    def forget(self, name: str) -> None:
        """Drop a claim about somebody who is no member; nobody is told."""
        if name in self._known and not self._known[name].state.live:
            del self._known[name]

    @property
    def complete(self) -> bool:
        """Whether as many members are known as are expected."""
        return len(self.view().members) >= self._expect

    def unknown_addresses(self) -> list[str]:
        """Return the addresses we were told behind which no live member is known."""
        met = {m.address for m in self.view().members}
        return [address for address in self.peers if address not in met]

    def _answer(self, claim: Member) -> None:
        """Outdo a claim about ourselves that is not ours: a rumour, or what is left of a life we do not remember."""
        rumour = claim.state > self.me.state and claim.age >= self.me.age
        if not self.me.state.live or not (rumour or claim.age > self.me.age):
            return
        if claim.refuted < MAX_REFUTED:
            self._put(replace(self.me, incarnation=claim.incarnation, refuted=claim.refuted + 1))
        else:
            self._put(replace(self.me, incarnation=claim.incarnation + 1, refuted=0))

    def _put(self, claim: Member) -> None:
        before = self._known.get(claim.name)
        self._known[claim.name] = claim
        for member, sign in ((before, -1), (claim, 1)):
            if member is not None and member.state.live:
                self.digest = (self.digest + sign * member.mark) % 2**64
        self._view = None
        for watcher in self._watchers:
            watcher(before, claim)
