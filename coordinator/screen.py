"""A coordinator's overview as people read it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..protocol.members import MemberState
from ..protocol.output import duration, members, plain
from ..protocol.wire_pb2 import MeshOverview, OverviewReply


def screen(address: str, reply: OverviewReply) -> Group:
    """Return all that is worth showing of a reply; names and texts from the wire lose control characters."""
    parts: list[RenderableType] = [
        Text(f"coordinator at {address}: peermerge {plain(reply.software)}, up {duration(reply.uptime_s)}")
    ]
    parts += [Text(f"suggests {plain(key)} = {plain(text)}") for key, text in sorted(reply.suggestions.items())]
    for mesh in reply.meshes:
        parts += [_headline(mesh), *([_members(mesh)] if mesh.members else [])]
    if not reply.meshes:
        parts.append(Text("nobody has joined"))
    parts += [Text(f"warning: {plain(warning)}", style="yellow") for warning in reply.warnings]
    return Group(*parts)


def _headline(mesh: MeshOverview) -> Text:
    there = sum(MemberState(each.member.state).live for each in mesh.members)
    return Text.assemble((plain(f"{mesh.network}/{mesh.run}"), "bold"), f": {members(there)}, epoch {mesh.epoch}")


def _members(mesh: MeshOverview) -> Table:
    table = Table(box=None, header_style="cyan", pad_edge=False)
    for column in ("member", "address"):
        table.add_column(column, overflow="fold")
    for column in ("state", "incarnation", "round", "silent for"):
        table.add_column(column, justify="right")
    for each in mesh.members:
        table.add_row(
            Text(plain(each.member.name)),
            Text(plain(each.member.address)),
            MemberState(each.member.state).name.lower(),
            str(each.member.incarnation),
            str(each.round) if each.round >= 0 else "",
            duration(each.silent_s),
        )
    return table
