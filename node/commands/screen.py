"""A node's status as people read it: from a StatusReply to tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...protocol.wire_pb2 import PeerStatus, StatusReply
from .output import duration, plain, size


def screen(reply: StatusReply) -> Group:
    """Return all that is worth showing of a reply; names and texts from the wire lose control characters."""
    parts: list[RenderableType] = [_headline(reply), _facts(reply)]
    if reply.peers:
        parts.append(_peers(reply))
    parts += [_left_out(peer) for peer in reply.peers if peer.skipped or peer.last_error]
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
        "traffic": f"{size(reply.bytes_out)} sent, {size(reply.bytes_in)} received, "
        f"waits at most {duration(reply.deadline_s)}",
        "agreement": f"distance {reply.consensus_distance:.4g}, unpublished {reply.residue:.4g}, "
        f"omega {reply.omega:.3g}, gamma {reply.gamma:.3g}, unpaid weight {reply.unpaid_weight:.3g}",
        "members": plain(", ".join(reply.members)),
        "process": plain(software) + f", incarnation {reply.incarnation}" + (", insecure" if reply.insecure else ""),
    }
    table = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        table.add_row(Text(name, style="cyan"), Text(text))
    return table


def _peers(reply: StatusReply) -> Table:
    table = Table(box=None, header_style="cyan", pad_edge=False)
    table.add_column("peer", overflow="fold")
    for column in ("version", "behind", "received", "sent", "trip", "distance", "weight", "merged", "left out"):
        table.add_column(column, justify="right")
    for peer in reply.peers:
        table.add_row(
            Text(plain(peer.name)),
            f"{peer.epoch}.{peer.version}",
            str(peer.staleness),
            size(peer.bytes_in),
            size(peer.bytes_out),
            duration(peer.round_trip_s),
            f"{peer.consensus_distance:.3g}",
            f"{peer.weight:.3g}",
            str(peer.merged),
            str(peer.skipped),
        )
    return table


def _left_out(peer: PeerStatus) -> Text:
    reasons = ", ".join(f"{plain(reason)} {count} x" for reason, count in sorted(peer.skipped_reasons.items()))
    parts = [f"left out {peer.skipped} x: {reasons}"] if peer.skipped else []
    parts += [f"last error: {plain(peer.last_error)}"] if peer.last_error else []
    return Text(f"{plain(peer.name)} {'; '.join(parts)}", style="yellow" if peer.skipped else "dim")
