"""Ask a running node how it does: python query_status.py HOST:PORT."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser

import grpc

from peermerge.protocol.rpc import Stub
from peermerge.protocol.wire_pb2 import DESCRIPTOR, StatusReply, StatusRequest


async def ask(address: str) -> StatusReply:
    """Return a node's status."""
    async with grpc.aio.insecure_channel(address) as channel:
        status = Stub(channel, DESCRIPTOR.services_by_name["Status"])
        reply: StatusReply = await status.call("Get", StatusRequest(), timeout_s=5)
        return reply


if __name__ == "__main__":
    parser = ArgumentParser(description="Ask a running node how it does.")
    parser.add_argument("address", metavar="HOST:PORT", help="where the node listens")
    node = asyncio.run(ask(parser.parse_args().address))
    print(f"{node.node}: round {node.round} of {node.rounds}, {node.phase}, {dict(sorted(node.metrics.items()))}")
    for peer in node.peers:
        print(f"  {peer.name}: merged {peer.merged} x, left out {peer.skipped} x {dict(peer.skipped_reasons)}")
