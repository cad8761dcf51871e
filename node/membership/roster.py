"""The roster: the latest claim about everybody a node has heard of.

Every source feeds it: greetings, whose members grow to their union; gossip; a coordinator; MQTT. Any of them may
add a member. A member goes by its own word or when failure detection holds it for dead. The roster does no I/O and
knows no time; who wants to hear of changes watches it.

Two processes with one name (a copied data directory, a name given twice) would deny each other's claims for ever.
So whoever hears that it lives elsewhere calls there and says who it is (`rivals.py`). Who is called by its own name
calls back, and if it is refused for the name there too, the other is its `rival`. Of two rivals the one that was
started fewer times (at a tie, the one with the lesser address) is `outranked` and has to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter
from random import Random

from ...protocol.limits import MAX_INCARNATION, MAX_MEMBERS, MAX_REFUTED
from ...protocol.members import Member, MemberState
from .view import View

Watcher = Callable[[Member | None, Member], None]
"""Told the claim that held before, if there was one, and the one that holds now."""

_BY_NAME = attrgetter("name")


class Roster:
    """Everybody known, ourselves included, and the view that follows."""

    def __init__(self, me: Member, peers: Iterable[str] = (), expect: int = 0) -> None:
        self.peers = tuple(peers)
        """The addresses we were told."""
        self._expect = expect or len(self.peers) + 1
        self._started = me.incarnation
        self.me = me
        """What we claim about ourselves."""
        self._live: dict[str, Member] = {me.name: me}
        self._gone: dict[str, Member] = {}
        """The dead and departed, in the order in which they went."""
        self._view: View | None = None
        self._watchers: list[Watcher] = []
        self.digest = me.mark
        """Sum of the marks of the live members, mod 2^64: equal for equal views."""
        self.may_return: Callable[[], bool] = lambda: True
        """Whether we may deny our death now; what is not denied is told to us again."""
        self.denied: Member | None = None
        """The last claim about ourselves that we denied."""
        self.rival: Member | None = None
        """Another process that goes by our name, as it presented itself."""

    def __len__(self) -> int:
        """How many live members there are, ourselves included."""
        return len(self._live)

    def view(self) -> View:
        """Return the live members, ourselves included."""
        if self._view is None:
            self._view = View(tuple(sorted(self._live.values(), key=_BY_NAME)))
        return self._view

    def get(self, name: str) -> Member | None:
        """Return the claim that holds about somebody."""
        return self._live.get(name) or self._gone.get(name)

    def everybody(self) -> tuple[Member, ...]:
        """Return all claims, those about the dead and departed too, by name."""
        return tuple(sorted((*self._live.values(), *self._gone.values()), key=_BY_NAME))

    def lost(self) -> list[Member]:
        """Return who is held for dead, in the order in which they went."""
        return [member for member in self._gone.values() if member.state is MemberState.DEAD]

    def some(self, most: int, rng: Random, but: str = "") -> list[Member]:
        """Draw some others, fewer if suspects are drawn."""
        members = self.view().members
        drawn = rng.sample(members, min(most + 2, len(members)))
        return [m for m in drawn if m.state is MemberState.ALIVE and m.name not in (self.me.name, but)][:most]

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` for every claim that changed, right after: it must be quick and must not raise."""
        self._watchers.append(watcher)

    def moved(self, address: str) -> None:
        """Take up our own address once the door is open."""
        self._take_up(replace(self.me, address=address))

    def leave(self) -> None:
        """Claim that we leave: only a new start of the process comes back from that."""
        self._take_up(replace(self.me, state=MemberState.LEFT))

    def learn(self, claims: Iterable[Member], *, first_hand: bool = False) -> None:
        """Take up what is claimed, as far as it is news.

        Claims by others are taken up in any order with the same result. A member's own word (`first_hand`) also
        changes its address in a claim of the same age. What is said of ourselves is answered: a rumour that would
        hold against our own claim makes us claim more loudly.
        """
        changes = []
        for claim in claims:
            if claim.incarnation == MAX_INCARNATION and claim.state is not MemberState.ALIVE:
                continue  # whom it is about could not deny it: there is nothing higher to claim
            known = self.get(claim.name)
            held = self._denial(claim) if claim.name == self.me.name else self._held(claim, known, first_hand)
            if held is not None and held != known:
                self._put(held)
                changes.append((known, held))
        for known, held in changes:
            self._tell(known, held)

    def judge(self, name: str, state: MemberState) -> None:
        """Hold a member for suspect or dead, as its claim stands now: a later one of its own revokes that."""
        known = self.get(name)
        if known is not None and name != self.me.name and state > known.state:
            self._take_up(replace(known, state=state))

    def forget(self, name: str) -> None:
        """Drop a claim about somebody who is no member; nobody is told."""
        self._gone.pop(name, None)

    @property
    def complete(self) -> bool:
        """Whether as many members are known as are expected."""
        return len(self) >= self._expect

    def unknown_addresses(self) -> list[str]:
        """Return the addresses we were told behind which no live member is known."""
        met = {m.address for m in self._live.values()}
        return [address for address in self.peers if address not in met]

    @property
    def original(self) -> Member:
        """What we claimed when we were started, before we outdid anything: rivals compare it."""
        return replace(self.me, incarnation=self._started, refuted=0)

    @property
    def outranked(self) -> bool:
        """Whether we have to stop: a rival keeps our name."""
        mine, rival = self.original, self.rival
        return rival is not None and (rival.incarnation, rival.address) > (mine.incarnation, mine.address)

    def _held(self, claim: Member, known: Member | None, first_hand: bool) -> Member | None:
        """Return what holds about another member after this claim, if it says anything new."""
        if known is None:
            return claim if claim.state.live and self._has_room() else None
        if claim.supersedes(known):
            return claim
        return replace(known, address=claim.address) if first_hand and claim.age == known.age else None

    def _denial(self, rumour: Member) -> Member | None:
        """Return the claim that outdoes one about ourselves: a rumour, or what is left of a life we forgot."""
        if not self.me.state.live or not rumour.supersedes(self.me):
            return None
        if not rumour.state.live and not self.may_return():
            return None
        self.denied = rumour
        incarnation, refuted = rumour.age
        if refuted < MAX_REFUTED:
            refuted += 1
        elif incarnation < MAX_INCARNATION:
            incarnation, refuted = incarnation + 1, 0
        return replace(self.me, incarnation=incarnation, refuted=refuted)

    def _has_room(self) -> bool:
        """Make room for one more where that costs no live member."""
        if len(self._live) + len(self._gone) >= MAX_MEMBERS and self._gone:
            del self._gone[next(iter(self._gone))]
        return len(self._live) + len(self._gone) < MAX_MEMBERS

    def _take_up(self, claim: Member) -> None:
        known = self.get(claim.name)
        self._put(claim)
        self._tell(known, claim)

    def _put(self, claim: Member) -> None:
        before = self._live.pop(claim.name, None)
        self._gone.pop(claim.name, None)
        (self._live if claim.state.live else self._gone)[claim.name] = claim
        if claim.name == self.me.name:
            self.me = claim
        for member, sign in ((before, -1), (claim, 1)):
            if member is not None and member.state.live:
                self.digest = (self.digest + sign * member.mark) % 2**64
        self._view = None

    def _tell(self, before: Member | None, claim: Member) -> None:
        for watcher in self._watchers:
            watcher(before, claim)
