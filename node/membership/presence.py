"""Presence at an MQTT broker: members announce themselves, and their last will hints that they are gone.

    peermerge/NETWORK/RUN/members/NAME      retained: the member's claim; a will or a farewell says DEAD or LEFT
    peermerge/NETWORK/RUN/telemetry/NAME    events as JSON, not retained

A broker introduces members and passes on hints. It decides nothing: who is announced must still be greeted, and who
is said to be dead is asked. It never carries deltas. A claim travels as an Envelope whose header is the serialized
Member: these very bytes are what a signature covers.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Literal

from aiomqtt import Client, Message, MqttError, ProtocolVersion, Will
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ...protocol import fields
from ...protocol import wire_pb2 as wire
from ...protocol.clock import Clock
from ...protocol.errors import EnvelopeError, PeerError, Refusal
from ...protocol.limits import MAX_MEMBERS, MAX_PRESENCE_BYTES
from ...protocol.members import Member, MemberState
from ...protocol.messages import Envelope
from ..backoff import CAP_S, Backoff
from ..broker import parse_broker
from ..gather import Identity
from ..telemetry import Telemetry
from .roster import Roster

KEEPALIVE_S = 5
"""A broker that stopped is noticed within twice this."""
PATIENCE_S = 5.0
"""For the broker to acknowledge."""
REPEAT_S = 1.0
"""At most one announcement of ourselves, and one hint about each member, in this time."""
TELEMETRY_S = 0.5
FAREWELL_S = 0.5
MAX_PACKET_BYTES = 4 * MAX_PRESENCE_BYTES
"""An honest broker sends us nothing larger."""


class Presence:
    """One member's connection to the broker: `run` keeps it, and what is heard goes to the roster or is doubted."""

    def __init__(
        self,
        me: Identity,
        roster: Roster,
        url: str,
        clock: Clock,
        doubt: Callable[[str], None],
        rng: Random,
        telemetry: Telemetry | None = None,
        keepalive_s: int = KEEPALIVE_S,
    ) -> None:
        # doubt: what a hint at somebody's death leads to.
        self.broker = parse_broker(url)
        self._tls = ssl.create_default_context() if self.broker.tls else None
        self._me = me
        self._roster = roster
        self._clock = clock
        self._doubt = doubt
        self._rng = rng
        self._telemetry = telemetry
        self._keepalive_s = keepalive_s
        root = f"peermerge/{me.network}/{me.run}"
        self._members = f"{root}/members"
        self._mine = f"{root}/members/{me.name}"
        self._figures = f"{root}/telemetry/{me.name}"
        self._client: Client | None = None
        self._leaving = False
        self._news = asyncio.Event()
        """What the broker holds of us is not what we claim."""
        self._hinted: dict[str, float] = {}
        """When each member was last hinted at."""
        self.connections = 0
        self.trouble = ""
        """Why the latest connection ended or failed."""
        self.refused = 0
        """Messages that were no presence."""
        roster.watch(self._changed)

    @property
    def state(self) -> Literal["connected", "unreachable"]:
        """How it stands with the broker."""
        return "connected" if self._client is not None else "unreachable"

    async def run(self) -> None:
        """Stay connected until cancelled. A broker that is away, refuses or stops answering is tried again."""
        backoff = Backoff()
        while not self._leaving:
            started = self._clock.now()
            try:
                await self._connect()
            except* MqttError as group:
                self.trouble = str(group.exceptions[0])
            now = self._clock.now()
            if now - started > CAP_S:
                backoff.reset()
            backoff.fail(now, self._rng)
            await self._clock.sleep(backoff.left_s(now))

    async def leave(self) -> None:
        """Publish what is queued, say that we leave, and take our presence back; `run` must still be under way."""
        self._leaving = True
        if self._client is None:
            return
        with suppress(MqttError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._client.publish(self._mine, _packed(self._claim(MemberState.LEFT)), 1)
                await self._client.publish(self._mine, b"", 1, retain=True)
                await self._publish_queued(self._client)

    # ---- Saying. ----

    async def _connect(self) -> None:
        """Connect, announce ourselves and listen; ends by an ExceptionGroup of MqttError or by being cancelled."""
        async with self._new_client() as client:
            try:
                await client.publish(self._mine, _packed(self._claim()), 1, retain=True)
                codes = await client.subscribe(f"{self._members}/+", 1)
                if any(isinstance(code, ReasonCode) and code.is_failure for code in codes):
                    raise MqttError("the broker does not let us subscribe")
                self._client = client
                self.connections += 1
                self.trouble = ""
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(client), name="listen to the broker")
                    group.create_task(self._announce(client), name="announce")
                    if self._telemetry is not None:
                        group.create_task(self._report(client), name="telemetry")
            except asyncio.CancelledError:
                self._leaving = True  # also if the broker fails us in taking leave of it, which hides this error
                raise
            finally:
                self._client = None

    def _new_client(self) -> Client:
        limit = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limit.MaximumPacketSize = MAX_PACKET_BYTES
        # A connection that we gave up and the broker did not is ended by the next one of the same name.
        name = hashlib.sha256(self._mine.encode()).hexdigest()[:20]
        return Client(
            self.broker.place.host,
            self.broker.place.port,
            username=self.broker.user,
            password=self.broker.password,
            identifier=f"pm{name}",
            protocol=ProtocolVersion.V5,
            will=Will(self._mine, _packed(self._claim(MemberState.DEAD)), 1, retain=True),
            timeout=PATIENCE_S,
            keepalive=self._keepalive_s,
            max_queued_incoming_messages=MAX_MEMBERS,
            tls_context=self._tls,
            properties=limit,
        )

    def _claim(self, state: MemberState = MemberState.ALIVE) -> Member:
        return replace(self._roster.me, state=state)

    async def _announce(self, client: Client) -> None:
        """Claim that we live whenever the broker holds anything else."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._roster.me.state.live and not self._leaving:
                await client.publish(self._mine, _packed(self._claim()), 1, retain=True)
            await self._clock.sleep(REPEAT_S)

    async def _report(self, client: Client) -> None:
        while True:
            await self._publish_queued(client)
            await self._clock.sleep(TELEMETRY_S)

    async def _publish_queued(self, client: Client) -> None:
        while self._telemetry is not None and (message := self._telemetry.oldest()) is not None:
            await client.publish(self._figures, message)
            self._telemetry.sent(message)

    # ---- Hearing. ----

    async def _listen(self, client: Client) -> None:
        async for message in client.messages:
            try:
                self._heard(message)
            except PeerError:
                self.refused += 1

    def _heard(self, message: Message) -> None:
        """Take up a member's presence. Raises PeerError for what is none."""
        payload = bytes(message.payload)
        name = fields.name(str(message.topic).removeprefix(f"{self._members}/"))
        if name == self._me.name and payload != _packed(self._claim()):
            self._news.set()  # a will that came late, another process of our name, or somebody's mischief
        if not payload or (name == self._me.name and self._leaving):
            return  # taken back, or our own farewell
        claim = _unpacked(payload, name)
        if claim.state is not MemberState.DEAD:
            self._roster.learn([claim])
        elif name != self._me.name:
            self._hint(claim)

    def _hint(self, claim: Member) -> None:
        """Doubt a member whose will we hear, unless that is of an earlier life of it, or was just heard."""
        known = self._roster.get(claim.name)
        now = self._clock.now()
        due = now - self._hinted.get(claim.name, -REPEAT_S) >= REPEAT_S
        if known is not None and claim.incarnation >= known.incarnation and due:
            self._hinted[claim.name] = now
            self._doubt(claim.name)

    def _changed(self, _before: Member | None, claim: Member) -> None:
        if claim.name == self._me.name:
            self._news.set()


def _packed(claim: Member) -> bytes:
    return Envelope(claim.message().SerializeToString(deterministic=True)).encode()


def _unpacked(payload: bytes, name: str) -> Member:
    """Check and return what is published under a member's name. Raises EnvelopeError."""
    if len(payload) > MAX_PRESENCE_BYTES:
        raise EnvelopeError(Refusal.OVERSIZE, f"{len(payload)} bytes")
    m = wire.Member()
    fields.parse(m, Envelope.decode(payload).header)
    claim = Member.read(m)
    if claim.name != name or claim.state is MemberState.SUSPECT:
        raise EnvelopeError(Refusal.BAD_HEADER, f"{claim.name} is {claim.state.name} under the name {name}")
    return claim
