from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from peermerge.protocol.errors import PeerError

from .worlds import calling, claim, coordinator


async def test_the_page_tells_what_happened(tmp_path: Path) -> None:
    async with coordinator(tmp_path, metrics="127.0.0.1:0") as running, calling(running.address) as caller:
        await caller.join(claim("alice"))
        await caller.join(claim("bob", 2))
        await caller.beat(claim("alice"))
        await caller.leave(claim("bob", 2))
        with suppress(PeerError):
            await caller.leave(claim("carol"))
        page = await asyncio.to_thread(_read, running._page[0].server_port)
        epoch = running._roster.find(("net", "run")).epoch
    assert page['peermerge_coordinator_members{network="net",run="run"}'] == 1
    assert page['peermerge_coordinator_epoch{network="net",run="run"}'] == epoch
    assert page["peermerge_coordinator_joins_total"] == 2
    assert page["peermerge_coordinator_heartbeats_total"] == 1
    assert page["peermerge_coordinator_leaves_total"] == 1
    assert page["peermerge_coordinator_expiries_total"] == 0
    assert page["peermerge_coordinator_disk_errors_total"] == 0
    assert page['peermerge_coordinator_refusals_total{reason="UNKNOWN_SENDER"}'] == 1
    assert page["peermerge_coordinator_watchers"] == 0


def _read(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
