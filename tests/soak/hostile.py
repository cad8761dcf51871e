"""A peer that means harm: damaged requests to everybody, at a steady rate, from a thread of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from threading import Event, Thread

import grpc

from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.members import Gossip, Member
from peermerge.protocol.messages import Hello, Point, PullRequest

from ..fuzz.mutate import BYTES

RATE = 5.0
"""Requests a second."""
TIMEOUT_S = 2.0
SERVICE = wire.DESCRIPTOR.services_by_name["Peer"].full_name
NAME = "mallory"
DIGEST = bytes(32)
"""Of no model and no base: who greets with it is refused, however well the rest is made."""
EXPECTED = frozenset(
    {
        *("INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"),
        *("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"),
    }
)
"""What may come of damage: a refusal, or nobody was there to refuse."""


class Hostile:
    """Sends from the start until `close`, if there is anybody to send to; counts what came of it."""

    def __init__(self, addresses: Sequence[str], network: str, run: str, seed: int) -> None:
        self._addresses = addresses
        self._draw = Random(seed)
        self._valid = valid(network, run)
        self._enough = Event()
        self._channels: dict[str, grpc.Channel] = {}
        self._thread = Thread(target=self._work, name=NAME)
        self.answers: Counter[str] = Counter()
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._enough.set()
        self._thread.join()
        for channel in self._channels.values():
            channel.close()

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return self.answers.total()

    @property
    def unexpected(self) -> int:
        """How many were answered otherwise than by a refusal."""
        return sum(count for answer, count in self.answers.items() if answer not in EXPECTED)

    def _work(self) -> None:
        while self._addresses and not self._enough.wait(1 / RATE):
            address = self._draw.choice(self._addresses)
            method, data = request(self._valid, self._draw)
            self.answers[self._send(address, method, data)] += 1

    def _send(self, address: str, method: str, data: bytes) -> str:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address)
        channel, path = self._channels[address], f"/{SERVICE}/{method}"
        try:
            if method == "Pull":
                for _ in channel.unary_stream(path)(data, timeout=TIMEOUT_S):
                    pass
            else:
                channel.unary_unary(path)(data, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def valid(network: str, run: str) -> dict[str, bytes]:
    """Return a well-made request of each kind from somebody who is no member."""
    me = Member(NAME, "127.0.0.1:9", 1)
    hello = Hello(
        network=network,
        run=run,
        name=NAME,
        address=me.address,
        incarnation=me.incarnation,
        manifest=DIGEST,
        base=DIGEST,
        members=(me, replace(me, name="nobody")),
        round=1_000_000,
        published=Point(),
        held=Point(),
    )
    gossip = Gossip(network=network, run=run, name=NAME, news=(me,), roster=1, all=True)
    pull = PullRequest(network=f"{network}-2", run=run, name=NAME, incarnation=1, have=Point())
    return {"Hello": hello.encode(), "Gossip": gossip.encode(), "Pull": pull.encode()}


def request(valid: dict[str, bytes], draw: Random) -> tuple[str, bytes]:
    """Return a method and what to send it: noise, a damaged request, or a whole one of a false sender."""
    method = draw.choice(sorted(valid))
    match draw.choice(("noise", "damaged", "false sender")):
        case "noise":
            return method, draw.randbytes(draw.choice((1, 100, 10_000)))
        case "damaged":
            data = bytearray(valid[method])
            for _ in range(draw.choice((1, 2, 8))):
                draw.choice(BYTES)(data, draw)
            return method, bytes(data)
    return method, valid[method]
