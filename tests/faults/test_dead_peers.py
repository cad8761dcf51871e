"""How long the others take to notice that a node is dead, stopped, cut off, or leaves."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random

import grpc
import pytest

from peermerge.node.config import NodeConfig
from peermerge.protocol.grpc_channels import PEER_SERVICE
from peermerge.protocol.grpc_settings import CHANNEL_OPTIONS
from peermerge.protocol.messages import Point, PullRequest

from ..integration.daemons import NodeProcess, mesh
from .checker import KILL, PAUSE
from .lab import lab, needs_lab
from .processes import Watched, mesh_over, show, two_seeds, watched

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
NODES = 8
BROKEN_S = 0.5
"""A call under way to a killed process fails within this time."""
KILLED_MEDIAN_S, KILLED_WORST_S = 3.0, 6.0
SILENT_WORST_S = 10.0
LEFT_S = 1.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Watched]:
    """Eight nodes that finish rounds without end."""
    with mesh(tmp_path, NODES, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        two_seeds(nodes)
        seen.start()
        yield seen


def parked_call(node: NodeProcess) -> Callable[[], float]:
    """Pull a version that never comes; the value waits for the call's end and returns the wall time of it."""
    defaults = NodeConfig()
    request = PullRequest(
        network=defaults.network,
        run=defaults.run,
        name="watcher",
        incarnation=1,
        have=Point(),
        wait_round=1 << 40,
        wait_s=60.0,
        snapshot=True,
    )
    channel = grpc.insecure_channel(node.address, CHANNEL_OPTIONS)
    grpc.channel_ready_future(channel).result(30)
    call = channel.unary_stream(f"/{PEER_SERVICE}/Pull")(request.encode(), timeout=60)

    def end() -> float:
        with channel, pytest.raises(grpc.RpcError) as failure:
            next(call)
        ended = time.time()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        return ended

    pool = ThreadPoolExecutor(1)
    waiting: Future[float] = pool.submit(end)
    pool.shutdown(wait=False)
    return lambda: waiting.result(30)


@pytest.mark.parametrize("trials", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_node_is_left_out_by_all(running: Watched, trials: int) -> None:
    broken, times = [], []
    for victim in Random(trials).choices(running.nodes, k=trials):
        ended = parked_call(victim)
        with running.harm(KILL, victim) as killed:
            victim.signal(signal.SIGKILL)
            broken.append(ended() - killed)
            assert victim.wait() == -signal.SIGKILL
            times += [drop - killed for drop in running.left_out(victim, killed)]
            victim.start()
        running.settle(rounds=1)
    show("kill -9", {"call under way fails": broken, "left out": times})
    assert len(times) == trials * (NODES - 1)
    assert max(broken) <= BROKEN_S
    assert statistics.median(times) <= KILLED_MEDIAN_S
    assert max(times) <= KILLED_WORST_S


@pytest.mark.parametrize("trials", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_stopped_node_is_left_out_by_all_and_comes_back(running: Watched, trials: int) -> None:
    times, back = [], []
    for victim in Random(trials).choices(running.nodes, k=trials):
        with running.harm(PAUSE, victim) as stopped:
            victim.signal(signal.SIGSTOP)
            times += [drop - stopped for drop in running.left_out(victim, stopped)]
            victim.signal(signal.SIGCONT)
        continued = time.time()
        running.settle(rounds=1)
        back += [diary.entries("view")[-1]["time"] - continued for diary in running.others(victim)]
    show("SIGSTOP", {"left out": times, "back after SIGCONT": back})
    assert len(times) == trials * (NODES - 1)
    assert max(times) <= SILENT_WORST_S


@pytest.mark.parametrize("trials", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_node_that_ends_is_left_out_at_once(running: Watched, trials: int) -> None:
    times = []
    for victim in Random(trials).choices(running.nodes, k=trials):
        asked = time.time()
        assert victim.stop() == 0
        drops = running.left_out(victim, asked)
        (stop,) = next(diary for diary in running.diaries if diary.node is victim).entries("stop", asked)
        times += [drop - stop["time"] for drop in drops]
        victim.start()
        running.settle(rounds=1)
    show("SIGTERM", {"left out after `stop`": times})
    assert len(times) == trials * (NODES - 1)
    assert max(times) <= LEFT_S


@needs_lab
@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "trials"), [(4, 1), (NODES, 10)])
def test_a_node_that_is_cut_off_is_left_out_by_all(tmp_path: Path, hosts: int, trials: int) -> None:
    times = []
    with lab(hosts) as net, mesh_over(net, tmp_path, schedule__rounds=0) as nodes, watched(tmp_path, nodes) as seen:
        seen.start()
        for victim in Random(trials).choices(range(hosts), k=trials):
            before = net.counters().cut
            with seen.harm("cut", nodes[victim]) as since:
                net.cut([victim], set(range(hosts)) - {victim})
                times += [drop - since for drop in seen.left_out(nodes[victim], since)]
                net.heal()
            assert net.counters().cut > before
            seen.settle(rounds=1)
    show("black hole", {"left out": times})
    assert len(times) == trials * (hosts - 1)
    assert max(times) <= SILENT_WORST_S
