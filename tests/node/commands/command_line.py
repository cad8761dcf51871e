"""Run `peermerge` within the test's process, and a node to ask that is no node."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import grpc

from peermerge.node.cli import main
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.errors import EnvelopeError, Refusal
from peermerge.protocol.rpc import handlers

REPLY = wire.StatusReply(
    node="a",
    network="net",
    run="one",
    address="127.0.0.1:50051",
    software="0.1.0",
    round=7,
    rounds=30,
    phase="gathering",
    epoch=1,
    version=7,
    metrics={"accuracy": 0.875},
    parameters=25874,
    compression_ratio=43.8,
    bytes_out=1_234_567,
    members=["a", "b"],
    warnings=["DIVERGENCE: the consensus distance rose"],
    peers=[
        wire.PeerStatus(
            name="b",
            epoch=1,
            version=6,
            staleness=1,
            skipped=2,
            skipped_reasons={"NORM_OUTLIER": 2},
            last_error="DEADLINE: \x1b[31mred",
        )
    ],
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def run(*arguments: str) -> Outcome:
    """Run one command line to its end; tables get a wide terminal."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", ["peermerge", *arguments]),
        patch.dict("os.environ", {"COLUMNS": "160", "NO_COLOR": "1"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Outcome(code, out.getvalue(), err.getvalue())


class FakeStatus:
    """Tells one status once, or two as it changes."""

    async def get(self, _request: wire.StatusRequest, _context: Any) -> wire.StatusReply:
        return REPLY

    async def watch(self, _request: wire.StatusRequest, _context: Any) -> AsyncIterator[wire.StatusReply]:
        for round_ in (7, 8):
            reply = wire.StatusReply()
            reply.CopyFrom(REPLY)
            reply.round = round_
            yield reply

    async def peers(self, _request: wire.StatusRequest, _context: Any) -> wire.PeersReply:
        return wire.PeersReply(peers=REPLY.peers)


class FakeControl:
    """Obeys, but never leaves."""

    async def pause(self, _request: wire.ControlRequest, _context: Any) -> wire.ControlReply:
        return wire.ControlReply(message="pausing after round 7")

    async def resume(self, _request: wire.ControlRequest, _context: Any) -> wire.ControlReply:
        return wire.ControlReply(message="resuming at round 7")

    async def checkpoint(self, _request: wire.ControlRequest, _context: Any) -> wire.ControlReply:
        return wire.ControlReply(message="saved at round 7")

    async def leave(self, _request: wire.ControlRequest, _context: Any) -> wire.ControlReply:
        raise EnvelopeError(Refusal.UNKNOWN_SENDER, "control is for callers on this machine")


@asynccontextmanager
async def fake_node(**services: object) -> AsyncIterator[str]:
    """Serve implementations by service name, on the loopback interface; yield the address."""
    server = grpc.aio.server()
    tables = [handlers(wire.DESCRIPTOR.services_by_name[name], each) for name, each in services.items()]
    server.add_generic_rpc_handlers(tuple(tables))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
