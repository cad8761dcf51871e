from typing import Any

from peermerge.node.metrics import StatusCollector
from peermerge.protocol import wire_pb2 as wire


def samples(reply: wire.StatusReply) -> dict[tuple[str, ...], float]:
    """Return every value on the page by its name and labels."""
    families = StatusCollector(lambda: reply).collect()
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_the_page_tells_how_rounds_wait_and_for_whom() -> None:
    peers = [
        wire.PeerStatus(name="b", state=wire.SUSPECT, failures=3, retry_s=1.5, arrival_s=0.2),
        wire.PeerStatus(name="c", waited_for=True),
    ]
    figures: dict[str, Any] = {"deadline_s": 2.0, "arrival_median_s": 0.5, "arrival_spread_s": 0.25}
    page = samples(wire.StatusReply(**figures, members=["a", "b", "c"], peers=peers))
    assert {name: page[f"peermerge_{name}",] for name in figures} == figures
    assert page["peermerge_members",] == 3
    assert [page["peermerge_peer_waited_for", name] for name in "bc"] == [0, 1]
    assert [page[f"peermerge_peer_{name}", "b"] for name in ("state", "failures", "retry_s")] == [1, 3, 1.5]


def test_services_are_on_the_page_only_where_they_are_configured() -> None:
    assert ("peermerge_connected", "broker") not in samples(wire.StatusReply())
    page = samples(wire.StatusReply(coordinator="connected", broker="unreachable", telemetry_dropped=7))
    assert page["peermerge_connected", "coordinator"] == 1
    assert page["peermerge_connected", "broker"] == 0
    assert page["peermerge_telemetry_dropped_total",] == 7
