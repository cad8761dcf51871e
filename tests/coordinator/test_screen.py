from __future__ import annotations

from rich.console import Console

from peermerge.coordinator.screen import screen
from peermerge.protocol import wire_pb2 as wire

from .worlds import claim


def drawn(*names: str) -> str:
    members = [wire.MemberOverview(member=claim(name).message()) for name in names]
    mesh = wire.MeshOverview(network="net", run="one", epoch=3, members=members)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(screen("127.0.0.1:1", wire.OverviewReply(meshes=[mesh])))
    return capture.get()


def test_members_are_counted() -> None:
    assert "net/one: 1 member, epoch 3" in drawn("alice")
    assert "net/one: 2 members, epoch 3" in drawn("alice", "bob")
