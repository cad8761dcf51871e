"""Coordinator and broker go away and come back: the nodes go on, a newcomer joins, and nobody is restarted."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..coordinator.worlds import CoordinatorProcess
from ..integration.daemons import NodeProcess, eventually, free_ports, mesh
from ..node.brokers import Mosquitto, mosquitto
from .processes import Watched, agreed, watched

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
KNOWN = 4
BACK_S = 5.0


class Sources:
    """A coordinator and a broker, which go away and come back together."""

    def __init__(self, coordinator: CoordinatorProcess, broker: Mosquitto) -> None:
        self.coordinator = coordinator
        self.broker = broker

    def take_away(self, how: signal.Signals) -> None:
        """Kill or stop both."""
        self.coordinator.signal(how)
        self.broker.signal(how)

    def bring_back(self, how: signal.Signals) -> None:
        """Undo that."""
        if how is signal.SIGSTOP:
            self.take_away(signal.SIGCONT)
            return
        self.coordinator.wait()
        self.broker.kill()
        self.broker.start()
        _listening(self.coordinator.start())


@contextmanager
def sources(folder: Path) -> Iterator[Sources]:
    """Run a coordinator and a broker."""
    coordinator = CoordinatorProcess(folder, port=free_ports(1)[0])
    with mosquitto(folder) as broker:
        try:
            _listening(coordinator.start())
            yield Sources(coordinator, broker)
        finally:
            coordinator.kill()


def _listening(coordinator: CoordinatorProcess) -> None:
    place = coordinator.data / "address"
    eventually(lambda: place.exists() and place.read_text(), "the coordinator listens")


def standing(node: NodeProcess) -> tuple[str, str]:
    """Return how a node stands with coordinator and broker."""
    status = node.status()
    return status.coordinator, status.broker


def all_stand(seen: Watched, how: str) -> None:
    """Wait until all nodes say so of both."""
    eventually(lambda: all(standing(node) == (how, how) for node in seen.nodes), f"coordinator and broker are {how}")


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("away_s", [pytest.param(10.0), pytest.param(60.0, marks=pytest.mark.slow)])
def test_nothing_stops_while_coordinator_and_broker_are_away(
    tmp_path: Path, away_s: float, how: signal.Signals
) -> None:
    with sources(tmp_path) as both, mesh(tmp_path, KNOWN + 1, schedule__rounds=0) as nodes:
        for node in nodes:
            node.settings |= {"membership.coordinator": both.coordinator.address, "membership.mqtt": both.broker.url}
            node.settings |= {"membership.peers": [], "membership.expect": KNOWN}
        newcomer = nodes[KNOWN]
        newcomer.settings["membership.peers"] = [nodes[0].address]
        with watched(tmp_path, nodes[:KNOWN]) as seen:
            seen.start()
            all_stand(seen, "connected")
            known = list(seen.diaries)
            gone = time.time()
            both.take_away(how)
            all_stand(seen, "unreachable")
            newcomer.start()
            seen.add(newcomer)
            seen.settle()
            time.sleep(max(0.0, gone + away_s - time.time()))
            for diary in known:
                rounds = [event["round"] for event in diary.entries("round", gone)]
                assert rounds == list(range(rounds[0], rounds[0] + len(rounds))), f"{diary.name} misses rounds"
                assert {e["name"] for e in diary.entries("view", gone)} == {newcomer.name}, "the known stay members"
            both.bring_back(how)
            returned = time.time()
            eventually(lambda: agreed(seen.diaries), "equal views", BACK_S)
            all_stand(seen, "connected")
            seen.settle()
            assert agreed(seen.diaries)
            last = max(diary.entries("view")[-1]["time"] for diary in seen.diaries)
            assert last <= returned + BACK_S, "views still change after the return"
            assert all(len(diary.entries("start")) == 1 for diary in seen.diaries), "nobody was restarted"
    print(f"\n{how.name} for {away_s:.0f} s: a newcomer joined; the last view change came after {last - gone:.1f} s")
