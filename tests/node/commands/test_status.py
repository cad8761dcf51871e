from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from rich.console import Console

from peermerge.node.commands import status as module
from peermerge.node.commands.screen import screen
from peermerge.protocol import wire_pb2 as wire

from .command_line import REPLY, FakeControl, FakeStatus, Outcome, fake_node, run


async def ask(*options: str) -> Outcome:
    async with fake_node(Status=FakeStatus()) as address:
        return await asyncio.to_thread(run, "status", address, *options)


def drawn(reply: wire.StatusReply, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(screen(reply))
    return capture.get()


async def test_status_shows_the_node_its_metrics_and_its_peers() -> None:
    done = await ask()
    assert (done.code, done.err) == (0, "")
    for part in (
        "round 7 of 30",
        "gathering",
        "version 1.7",
        "accuracy 0.875",
        "25,874 parameters, 43.8 x",
        "1.23 MB",
    ):
        assert part in done.out


async def test_every_reason_for_leaving_a_peer_out_is_shown() -> None:
    done = await ask()
    assert "b left out 2 x: NORM_OUTLIER 2 x; last error: DEADLINE" in done.out
    assert "warning: DIVERGENCE" in done.out


async def test_text_from_the_wire_cannot_move_the_cursor() -> None:
    assert "\x1b" not in (await ask()).out


async def test_json_has_the_names_of_the_protocol() -> None:
    reply = json.loads((await ask("--json")).out)
    assert reply["peers"][0]["skipped_reasons"] == {"NORM_OUTLIER": "2"}
    assert reply["gamma"] == 0.0, "defaults are printed too"


async def test_a_watch_prints_one_json_object_a_line() -> None:
    done = await ask("--watch", "--json")
    assert [json.loads(line)["round"] for line in done.out.splitlines()] == ["7", "8"]


async def test_a_watch_draws_the_latest_status() -> None:
    done = await ask("--watch")
    assert done.code == 0
    assert "round 8 of 30" in done.out


def test_a_watch_ends_well_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_watch", interrupted)
    assert run("status", "127.0.0.1:1", "--watch") == Outcome(0, "", "")


def test_a_node_that_is_not_there_gives_one_sentence_with_address_and_cure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = run("status", address)
    assert done.code == 4
    assert done.err.startswith(f"error: {address} cannot be reached: check the address")
    assert done.err.count("\n") == 1


async def test_a_stranger_that_speaks_grpc_is_told_from_a_node() -> None:
    async with fake_node(Control=FakeControl()) as address:
        done = await asyncio.to_thread(run, "status", address)
    assert done.code == 4
    assert "is no Peermerge node" in done.err


async def test_a_node_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeStatus):
        async def get(self, _request: wire.StatusRequest, _context: object) -> wire.StatusReply:
            await asyncio.Event().wait()
            return REPLY

    monkeypatch.setattr(module, "STATUS_S", 0.2)
    async with fake_node(Status=Hanging()) as address:
        done = await asyncio.to_thread(run, "status", address)
    assert done.code == 4
    assert "did not answer in time" in done.err


def test_a_malformed_address_is_a_usage_error() -> None:
    assert run("status", "somewhere").code == 2


def test_an_empty_reply_can_be_drawn() -> None:
    assert "none yet" in drawn(wire.StatusReply())


def test_status_shows_how_long_rounds_wait_and_for_whom_they_do_not() -> None:
    peers = [
        wire.PeerStatus(name="b", waited_for=True),
        wire.PeerStatus(name="c"),
        wire.PeerStatus(name="d", state=wire.SUSPECT, waited_for=True, failures=3, retry_s=1.5),
    ]
    shown = drawn(wire.StatusReply(deadline_s=2.5, arrival_median_s=0.5, arrival_spread_s=0.25, peers=peers))
    assert "at most 2.5 s; peers arrive after 500 ms (median, deviation 250 ms)" in shown
    states = {line.split()[0]: line for line in shown.splitlines() if line[:2] in ("b ", "c ", "d ") and "0 B" in line}
    assert "alive" in states["b"]
    assert "not awaited" in states["c"]
    assert "suspect" in states["d"]
    assert "d 3 failed transfers running, asked again in 1.5 s" in shown


def test_every_peer_has_one_whole_line_in_a_terminal_of_80_columns() -> None:
    figures: dict[str, Any] = {"staleness": 10, "bytes_in": 123_456_789, "bytes_out": 98_765_432}
    figures |= {"round_trip_s": 0.1234, "consensus_distance": 0.012345, "merged": 12_345}
    peers = [wire.PeerStatus(name=f"berlin-gpu-{n}", waited_for=n > 1, **figures) for n in range(1, 5)]
    lines = [line.split() for line in drawn(wire.StatusReply(peers=peers), 80).splitlines()]
    row = ["10", "123", "MB", "98.8", "MB", "123", "ms", "0.0123", "12345"]
    assert ["peer", "state", "behind", "received", "sent", "trip", "distance", "merged"] in lines
    assert ["berlin-gpu-1", "not", "awaited", *row] in lines
    for n in (2, 3, 4):
        assert [f"berlin-gpu-{n}", "alive", *row] in lines


def test_a_state_that_a_later_version_knows_can_be_drawn() -> None:
    reply = wire.StatusReply(peers=[wire.PeerStatus(name="b", state=17)])  # type: ignore[arg-type]
    assert "17" in drawn(reply)


def test_status_tells_trouble_with_services_and_health_only_where_there_is_some() -> None:
    quiet = drawn(wire.StatusReply())
    assert "services" not in quiet
    assert "health" not in quiet
    shown = drawn(wire.StatusReply(coordinator="connected", broker="unreachable", telemetry_dropped=7, health=2))
    assert "coordinator connected, broker unreachable, 7 figures not told to the broker" in shown
    assert "answers late itself (level 2)" in shown


def test_large_meshes_are_counted_and_named_in_part() -> None:
    shown = drawn(wire.StatusReply(members=[f"n{i:03}" for i in range(200)]))
    assert "200: n000, n001" in shown
    assert "n015 and 184 more" in shown
    assert "n016" not in shown


def test_why_a_node_is_degraded_is_shown() -> None:
    assert "warning: DEGRADED: no space left" in drawn(wire.StatusReply(warnings=["DEGRADED: no space left"]))
