"""Greet the configured addresses until the expected members are known, and go on greeting who is missing.

Who is remembered from before a restart is tried too: once before the first round, and now and then later. Nobody
waits for them, since some may be gone for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from random import Random

from ..protocol.errors import ConfigError, PeerError, Refusal
from ..protocol.members import Member
from ..protocol.messages import Hello
from .participant import Participant

HELLO_S = 5.0
RETRY_S = 0.5
REFRESH_S = 30.0
MISSING_S = 5.0
"""How often an address that was given and leads to no member is tried again."""
AT_ONCE = 32
"""Greetings under way at one time."""
TRIED_AGAIN = 8
"""So many of those who are remembered and not met are tried again at a time."""

MISMATCHES = {
    Refusal.BASE_MISMATCH: 'start all from one base: node.base = "peers" with --fresh takes theirs; or give all a file',
    Refusal.MANIFEST_MISMATCH: "all nodes must train the same model with the same include and exclude",
    Refusal.NETWORK_MISMATCH: "set the same network and run on all nodes",
    Refusal.UNSUPPORTED_VERSION: "install the same version of peermerge on all nodes",
    Refusal.DUPLICATE_ID: "give every node its own node.name",
}


async def greet(node: Participant, address: str) -> None:
    """Exchange Hellos with one address and take up what it tells. Raises PeerError."""
    receiver = next((m.name for m in node.membership.everybody() if m.address == address), "")
    request = node.service.greeting(receiver).encode()
    started = node.clock.now()
    theirs = Hello.decode(await node.transport.hello(address, request, timeout_s=HELLO_S))
    node.service.welcome(theirs)
    record = node.peers[theirs.name]
    record.round_trip_s = node.clock.now() - started
    record.bytes_out += len(request)


async def greet_many(node: Participant, addresses: Iterable[str]) -> dict[str, PeerError | None]:
    """Greet several addresses at once; return the error of each, or None where there was none."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(address: str) -> PeerError | None:
        async with turns:
            try:
                await greet(node, address)
            except PeerError as error:
                return error
        return None

    asked = sorted(addresses)
    outcome = dict(zip(asked, await asyncio.gather(*(one(address) for address in asked)), strict=True))
    for address, error in outcome.items():
        _note_mismatch(node, address, error)
    return outcome


def _note_mismatch(node: Participant, address: str, error: PeerError | None) -> None:
    """Say once of whom we greet that it can never be merged with: a coordinator or a broker may introduce anybody."""
    if error is None or error.refusal not in MISMATCHES or error.refusal is Refusal.DUPLICATE_ID:
        node.mismatches.pop(address, None)
    elif address not in node.mismatches:
        node.mismatches[address] = str(error)
        node.events.emit("mismatch", address=address, reason=str(error), cure=MISMATCHES[error.refusal])


async def greet_all(node: Participant, remembered: Collection[Member] = ()) -> list[str]:
    """Greet until all expected members are known or the wait is over; return the configured addresses still missing.

    Raises ConfigError if every peer that answered refused us for what we are, or if another process goes by our name.
    """
    deadline = node.clock.now() + node.config.membership.wait_s
    ours = {node.membership.me.address}
    refused: dict[str, PeerError] = {}
    greeted: set[str] = set()
    while True:
        needed = set(node.membership.peers) - ours
        known = _addresses(node, remembered) - ours
        # Until all expected are known, those greeted are asked again: they may have met others since.
        due = known - greeted - (refused.keys() - needed) if node.membership.complete else known
        for address, error in (await greet_many(node, due)).items():
            if error is None:
                greeted.add(address)
                refused.pop(address, None)
            else:
                refused[address] = error
        ours |= await _find_namesakes(node, refused)
        missing = sorted(needed - ours - greeted)
        new = _addresses(node, remembered) - ours - greeted - refused.keys()
        if node.membership.complete and not missing and not new:
            return []
        if not greeted:
            _give_up(refused, needed - ours)
        if node.clock.now() >= deadline:
            return missing
        if not new:
            await node.clock.sleep(RETRY_S)


async def keep_greeting(node: Participant, remembered: Collection[Member] = ()) -> None:
    """Greet neighbours now and then: it shows round-trip times, new addresses and restarted peers.

    Addresses that were given and lead to no member are tried more often: who starts while they cannot be reached has
    nobody else to hear from. So are members who do not know us. Some of those remembered are tried too: a network that
    was cut while both sides restarted heals by it.
    """
    rng = Random(f"{node.name}/{node.identity.incarnation}")
    refreshed = node.clock.now()
    while True:
        await node.clock.sleep(MISSING_S)
        view = node.membership.view()
        addresses = {*node.membership.unknown_addresses()}
        addresses.update(view.address(name) or "" for name in node.gossip.strange_to)
        if node.clock.now() - refreshed >= REFRESH_S:
            refreshed = node.clock.now()
            lost = _unmet(node, remembered)
            addresses.update(rng.sample(lost, min(TRIED_AGAIN, len(lost))))
            addresses.update(view.address(peer) or "" for peer in node.partners(view))
        outcome = await greet_many(node, filter(None, addresses))
        for member in view.members:
            if error := outcome.get(member.address):
                node.peers[member.name].fail(error)


def _addresses(node: Participant, remembered: Collection[Member]) -> set[str]:
    """Return every address that we know of."""
    met = {member.address for member in node.membership.view().members}
    return {*node.membership.peers, *met, *_unmet(node, remembered)}


def _unmet(node: Participant, remembered: Collection[Member]) -> list[str]:
    """Return the addresses of those remembered of whom nothing has been heard."""
    return sorted(member.address for member in remembered if node.membership.get(member.name) is None)


async def _find_namesakes(node: Participant, refused: dict[str, PeerError]) -> set[str]:
    """Return the addresses that lead to ourselves. Raises ConfigError if another process lives under our name."""
    suspects = {address for address, error in refused.items() if error.refusal is Refusal.DUPLICATE_ID}
    mine = node.membership.me.address
    leads_here = set()
    for address in sorted(suspects | node.service.namesakes):
        node.service.met_itself = False
        try:
            await node.transport.hello(address, node.service.greeting().encode(), timeout_s=HELLO_S)
        except PeerError as error:
            if error.refusal is Refusal.DUPLICATE_ID and not node.service.met_itself:
                raise ConfigError(
                    f"DUPLICATE_ID: another process is {node.name!r} already: it answers at {address}, this one is at "
                    f"{mine}; {MISMATCHES[error.refusal]}"
                ) from error
        if node.service.met_itself:
            leads_here.add(address)
    node.service.namesakes.clear()
    return leads_here


def _give_up(refused: dict[str, PeerError], peers: set[str]) -> None:
    """Raise if every configured peer has refused us for a reason that waiting does not cure."""
    reasons = {address: error for address, error in refused.items() if error.refusal in MISMATCHES}
    if peers and peers <= reasons.keys():
        address, error = next(iter(sorted(reasons.items())))
        raise ConfigError(f"{address} refuses this node: {error}; {MISMATCHES[error.refusal]}")
