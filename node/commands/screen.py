"""A node's status as people read it: from a StatusReply to tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...protocol.output import duration, plain, size
from ...protocol.wire_pb2 import ALIVE, MemberState, PeerStatus, StatusReply

MEMBERS = 16
"""So many members are named; of larger meshes the first ones."""


def screen(reply: StatusReply) -> Group:
    """Return all that is worth showing of a reply; names and texts from the wire lose control characters."""
    parts: list[RenderableType] = [_headline(reply), _facts(reply)]
    if reply.peers:
        parts.append(_peers(reply))
    parts += [_troubles(peer) for peer in reply.peers if peer.skipped or peer.last_error or peer.failures]
    parts += [Text(f"warning: {plain(warning)}", style="yellow") for warning in reply.warnings]
    return Group(*parts)


def _headline(reply: StatusReply) -> Text:
    rounds = f"{reply.round} of {reply.rounds}" if reply.rounds else str(reply.round)
    where = f"{reply.network}/{reply.run} at {reply.address}"
    return Text.assemble(
        (plain(reply.node), "bold"),
        f" in {plain(where)}: round {rounds}, {plain(reply.phase)}, "
        f"version {reply.epoch}.{reply.version}, up {duration(reply.uptime_s)}",
    )


def _facts(reply: StatusReply) -> Table:
    metrics = ", ".join(f"{plain(name)} {value:.4g}" for name, value in sorted(reply.metrics.items()))
    software = f"peermerge {reply.software} on {reply.device}, {size(reply.memory_bytes)} of memory"
    smaller = f", {reply.compression_ratio:.3g} x smaller on the wire than float32" if reply.compression_ratio else ""
    facts = {
        "metrics": metrics or "none yet",
        "model": f"{reply.parameters:,} parameters" + smaller,
        "traffic": f"{size(reply.bytes_out)} sent, {size(reply.bytes_in)} received",
        "waiting": f"at most {duration(reply.deadline_s)}; peers arrive after {duration(reply.arrival_median_s)} "
        f"(median, deviation {duration(reply.arrival_spread_s)})",
        "agreement": f"distance {reply.consensus_distance:.4g}, unpublished {reply.residue:.4g}, "
        f"omega {reply.omega:.3g}, gamma {reply.gamma:.3g}, unpaid weight {reply.unpaid_weight:.3g}",
        "members": _members(reply),
        "services": _services(reply),
        "process": plain(software) + f", incarnation {reply.incarnation}" + (", insecure" if reply.insecure else ""),
        "health": f"answers late itself (level {reply.health}): it suspects others later" if reply.health else "",
    }
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        if text:
            table.add_row(Text(name, style="cyan"), Text(text))
    return table


def _members(reply: StatusReply) -> str:
    names = ", ".join(reply.members[:MEMBERS])
    more = f" and {len(reply.members) - MEMBERS} more" if len(reply.members) > MEMBERS else ""
    return plain(f"{len(reply.members)}: {names}{more}")


def _services(reply: StatusReply) -> str:
    """Say how the node stands with what it may use besides its peers; nothing if that is not configured."""
    found = [f"{name} {getattr(reply, name)}" for name in ("coordinator", "broker") if getattr(reply, name)]
    found += [f"{reply.telemetry_dropped} figures not told to the broker"] if reply.telemetry_dropped else []
    return plain(", ".join(found))


def _peers(reply: StatusReply) -> Table:
    """Return what tells peers apart, as far as 80 columns hold it: `--json` has the rest."""
    table = Table(box=None, header_style="cyan", pad_edge=False)
    table.add_column("peer", overflow="fold")
    table.add_column("state")
    for column in ("behind", "received", "sent", "trip", "distance", "merged"):
        table.add_column(column, justify="right", no_wrap=True)
    for peer in reply.peers:
        table.add_row(
            Text(plain(peer.name)),
            _state(peer),
            str(peer.staleness),
            size(peer.bytes_in),
            size(peer.bytes_out),
            duration(peer.round_trip_s),
            f"{peer.consensus_distance:.3g}",
            str(peer.merged),
        )
    return table


def _state(peer: PeerStatus) -> Text:
    if peer.state != ALIVE:
        known = peer.state in MemberState.values()
        return Text(MemberState.Name(peer.state).lower() if known else str(peer.state), style="yellow")
    return Text("alive") if peer.waited_for else Text("not awaited", style="yellow")


def _troubles(peer: PeerStatus) -> Text:
    reasons = ", ".join(f"{plain(reason)} {count} x" for reason, count in sorted(peer.skipped_reasons.items()))
    parts = [f"left out {peer.skipped} x: {reasons}"] if peer.skipped else []
    again = f"asked again in {duration(peer.retry_s)}" if peer.retry_s else "asked again in the next round"
    parts += [f"{peer.failures} failed transfers running, {again}"] if peer.failures else []
    parts += [f"last error: {plain(peer.last_error)}"] if peer.last_error else []
    return Text(f"{plain(peer.name)} {'; '.join(parts)}", style="yellow" if peer.skipped else "dim")
