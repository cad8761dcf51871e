"""The lab does what it says: delay, loss, rate, duplication, cuts, and nothing else."""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from random import Random

import pytest

from .lab import Host, Lab, lab, needs_lab
from .switch import QUEUE_S, Direction, Link

pytestmark = pytest.mark.faults
SILENCE_S = 0.3
SO_RCVBUFFORCE = 33
"""From Linux' socket.h; Python has no name for it."""


@pytest.fixture
def net() -> Iterator[Lab]:
    with lab(3) as made:
        yield made


def open_port(host: Host) -> socket.socket:
    """Return a datagram socket in a host."""
    with host.inside():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    opened.bind((host.address, 0))
    opened.settimeout(SILENCE_S)
    return opened


def received(port: socket.socket) -> list[int]:
    """Return the numbers that arrive until none does for a while."""
    numbers = []
    while True:
        try:
            numbers.append(int.from_bytes(port.recv(2048)[:4], "big"))
        except TimeoutError:
            return numbers


def send(port: socket.socket, to: socket.socket, count: int, size: int = 32, pause_s: float = 0.0) -> None:
    for number in range(count):
        port.sendto(number.to_bytes(4, "big").ljust(size, b"\0"), to.getsockname())
        if pause_s:
            time.sleep(pause_s)


def round_trips(asks: socket.socket, answers: socket.socket, count: int) -> list[float]:
    """Return the seconds of so many questions and answers."""
    seconds = []
    for _ in range(count):
        started = time.monotonic()
        asks.sendto(b"ask", answers.getsockname())
        _, sender = answers.recvfrom(64)
        answers.sendto(b"answer", sender)
        asks.recv(64)
        seconds.append(time.monotonic() - started)
    return seconds


@needs_lab
def test_frames_take_the_delay_of_each_direction(net: Lab) -> None:
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        net.shape([(0, 1)], delay_s=0.02)
        net.shape([(1, 0)], delay_s=0.05)
        far = round_trips(a, b, 20)
        assert min(far) >= 0.07
        assert net.counters([(0, 1)]).delayed_s > 20 * 0.02 - 1e-6
        assert net.counters([(2, 0), (0, 2)]).delayed_s == 0


@needs_lab
def test_jitter_varies_the_delay_and_keeps_the_order(net: Lab) -> None:
    net.shape(delay_s=0.02, jitter_s=0.01)
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        times = round_trips(a, b, 30)
        assert min(times) >= 0.02
        assert statistics.stdev(times) > 0.002
        send(a, b, 500)
        assert received(b) == list(range(500))


@needs_lab
def test_so_many_frames_are_lost_as_asked(net: Lab) -> None:
    net.shape([(0, 1)], loss=0.05)
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        send(a, b, 4000, pause_s=2e-5)
        arrived = received(b)
        counters = net.counters([(0, 1)])
        assert counters.overflowed == 0
        assert len(arrived) == counters.passed == 4000 - counters.lost
        assert 0.035 < counters.lost / 4000 < 0.065
        send(b, a, 200)
        assert len(received(a)) == 200


@needs_lab
def test_frames_are_doubled(net: Lab) -> None:
    net.shape([(0, 1)], duplication=0.5)
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        send(a, b, 400)
        arrived = received(b)
        assert set(arrived) == set(range(400))
        assert len(arrived) - 400 == net.counters([(0, 1)]).duplicated
        assert 140 < len(arrived) - 400 < 260


@needs_lab
def test_a_link_carries_no_more_than_its_rate(net: Lab) -> None:
    net.shape([(0, 1)], rate_bytes_s=200_000)
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        started = time.monotonic()
        send(a, b, 300, size=1000)
        arrived = len(received(b))
        took = time.monotonic() - started - SILENCE_S
        assert arrived * 1000 / took < 1.1 * 200_000
        assert arrived * 1000 > QUEUE_S * 190_000
        assert net.counters([(0, 1)]).overflowed == 300 - arrived > 0


@needs_lab
def test_a_cut_separates_sides_and_heals(net: Lab) -> None:
    with (
        closing(open_port(net.hosts[0])) as a,
        closing(open_port(net.hosts[1])) as b,
        closing(open_port(net.hosts[2])) as c,
    ):
        net.cut([0], [1, 2])
        send(a, b, 3)
        send(c, a, 3)
        assert received(b) == received(a) == []
        assert net.counters([(0, 1)]).cut == net.counters([(2, 0)]).cut == 3
        send(b, c, 3)
        assert received(c) == [0, 1, 2]
        net.heal()
        send(a, b, 3)
        assert received(b) == [0, 1, 2]


@needs_lab
def test_a_one_way_cut_lets_the_other_way_pass(net: Lab) -> None:
    with closing(open_port(net.hosts[0])) as a, closing(open_port(net.hosts[1])) as b:
        net.cut([0], [1], one_way=True)
        send(a, b, 3)
        send(b, a, 3)
        assert received(b) == []
        assert received(a) == [0, 1, 2]


@needs_lab
def test_a_stream_survives_loss_and_a_short_cut(net: Lab) -> None:
    net.shape(delay_s=0.005, loss=0.02)
    with net.hosts[0].inside(), socket.create_server((net.hosts[0].address, 0)) as door, net.hosts[1].inside():
        sends = socket.create_connection(door.getsockname()[:2], timeout=20)
        receives, _ = door.accept()
    data = Random(1).randbytes(400_000)
    with closing(sends), closing(receives):
        receives.settimeout(20)
        arrived = b""
        for start in range(0, len(data), 100_000):
            sends.sendall(data[start : start + 100_000])
            net.cut([0], [1])
            time.sleep(0.05)
            net.heal()
            while len(arrived) < start + 100_000:
                arrived += receives.recv(1 << 16)
    assert arrived == data
    assert net.counters().lost > 0
    assert net.counters().cut > 0


@needs_lab
def test_nothing_is_left_of_a_lab() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with lab(2) as net:
        paths = [host.path for host in net.hosts]
        assert all(os.path.exists(path) for path in paths)
        home = os.readlink("/proc/thread-self/ns/net")
        with net.hosts[0].inside():
            assert os.readlink("/proc/thread-self/ns/net") != home
        assert os.readlink("/proc/thread-self/ns/net") == home
    assert len(set(os.listdir("/proc/self/fd")) - before) == 0


def test_a_direction_at_its_defaults_passes_everything_at_once() -> None:
    direction = Direction(Random(0))
    assert [direction.arrivals(float(now), 1500) for now in range(5)] == [(float(now),) for now in range(5)]


def test_a_full_queue_drops_what_comes_next() -> None:
    direction = Direction(Random(0))
    direction.link = Link(rate_bytes_s=1000.0)
    arrivals = [direction.arrivals(0.0, 100) for _ in range(10)]
    assert [round(due[0], 3) for due in arrivals if due] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert direction.counters.overflowed == 4
