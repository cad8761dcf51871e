"""Greet the configured addresses until the expected members are known, and go on greeting who is missing."""

from __future__ import annotations

from ..protocol.errors import ConfigError, PeerError, Refusal
from ..protocol.messages import Hello
from .participant import Participant

HELLO_S = 5.0
RETRY_S = 0.5
REFRESH_S = 30.0

MISMATCHES = {
    Refusal.BASE_MISMATCH: "start all nodes from one base file: copy base.safetensors of one node and set node.base",
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


async def greet_all(node: Participant) -> list[str]:
    """Greet until all expected members are known or the wait is over; return the addresses still missing.

    Raises ConfigError if every peer that answered refused us for what we are.
    """
    deadline = node.clock.now() + node.config.membership.wait_s
    refused: dict[str, PeerError] = {}
    greeted: set[str] = set()
    while True:
        addresses = {*node.membership.peers, *(m.address for m in node.membership.view().members)}
        addresses.discard(node.membership.me.address)
        if node.membership.complete:
            # Until then those greeted are asked again: they may have met others since.
            addresses -= greeted
        for address in sorted(addresses):
            try:
                await greet(node, address)
                greeted.add(address)
                refused.pop(address, None)
            except PeerError as error:
                refused[address] = error
        missing = sorted(addresses - greeted)
        if node.membership.complete and not missing:
            return []
        if not greeted:
            _give_up(refused, set(node.membership.peers))
        if node.clock.now() >= deadline:
            return missing
        await node.clock.sleep(RETRY_S)


async def keep_greeting(node: Participant) -> None:
    """Greet neighbours now and then: it shows round-trip times, new addresses and restarted peers."""
    while True:
        await node.clock.sleep(REFRESH_S)
        view = node.membership.view()
        addresses = {view.address(peer) for peer in node.partners(view)} | set(node.membership.unknown_addresses())
        for address in sorted(a for a in addresses if a):
            try:
                await greet(node, address)
            except PeerError as error:
                for member in view.members:
                    if member.address == address:
                        node.peers[member.name].fail(error)


def _give_up(refused: dict[str, PeerError], peers: set[str]) -> None:
    """Raise if every configured peer has refused us for a reason that waiting does not cure."""
    reasons = {address: error for address, error in refused.items() if error.refusal in MISMATCHES}
    if peers and peers <= reasons.keys():
        address, error = next(iter(sorted(reasons.items())))
        raise ConfigError(f"{address} refuses this node: {error}; {MISMATCHES[error.refusal]}")
