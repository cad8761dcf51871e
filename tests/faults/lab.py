"""Real hosts on one machine: network namespaces whose TAP devices the switch joins. Needs root.

The namespaces have no names: the kernel removes each with its last descriptor and process, whatever becomes of the
test. Nothing in them reaches the machine's own network. Addresses and neighbours are set by hand, so that a cut is
never confused with a failing address resolution.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from .switch import Counters

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
TUN = "/dev/net/tun"
END_S = 5.0

Pair = tuple[int, int]
"""A direction: from which host to which."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with an address."""

    number: int
    """Counted from 0."""
    namespace: int
    """A descriptor."""

    @property
    def address(self) -> str:
        """Its IP address."""
        return f"10.77.0.{self.number + 1}"

    @property
    def hardware(self) -> str:
        """Its hardware address."""
        return f"02:00:00:00:00:{self.number + 1:02x}"

    @property
    def path(self) -> str:
        """A file by which other processes of ours can enter it."""
        return f"/proc/{os.getpid()}/fd/{self.namespace}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into it: sockets that are made here, and processes started here, stay in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.namespace, CLONE_NEWNET), "setns")
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET), "setns")
            os.close(home)


class Lab:
    """Hosts and the switch between them."""

    def __init__(self, hosts: Sequence[Host], switch: subprocess.Popen[str]) -> None:
        self.hosts = list(hosts)
        self._switch = switch

    def shape(self, pairs: Iterable[Pair] | None = None, **changes: float | bool) -> None:
        """Change fields of `switch.Link` for directions (from, to), or for all; it holds on return."""
        self._order(self._all() if pairs is None else pairs, changes)

    def cut(self, some: Iterable[int], others: Iterable[int], *, one_way: bool = False) -> None:
        """Let no frame pass from some hosts to others and, unless `one_way`, back."""
        others = list(others)
        pairs = [(a, b) for a in some for b in others]
        self.shape([*pairs, *([] if one_way else [(b, a) for a, b in pairs])], cut=True)

    def heal(self) -> None:
        """End all cuts."""
        self.shape(cut=False)

    def counters(self, pairs: Iterable[Pair] | None = None) -> Counters:
        """Return what became of all frames so far of these directions, or of all."""
        found = self._order((), {})
        chosen = [found[pair] for pair in (self._all() if pairs is None else pairs)]
        return Counters(*(sum(getattr(each, name) for each in chosen) for name in Counters.__slots__))

    def _all(self) -> list[Pair]:
        numbers = range(len(self.hosts))
        return [(a, b) for a in numbers for b in numbers if a != b]

    def _order(self, pairs: Iterable[Pair], changes: dict[str, float | bool]) -> dict[tuple[int, int], Counters]:
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        print(json.dumps({"pairs": list(pairs), "changes": changes}), file=self._switch.stdin, flush=True)
        answer = self._switch.stdout.readline()
        assert answer, "the switch has ended"
        return {(source, target): Counters(**counts) for source, target, counts in json.loads(answer)}


@contextmanager
def lab(count: int) -> Iterator[Lab]:
    """Set up so many hosts, all joined; take everything down at the end."""
    with ExitStack() as stack:
        hosts = [_host(number, stack) for number in range(count)]
        devices = [_device(host, stack) for host in hosts]
        for host in hosts:
            _configure(host, hosts)
        command = [sys.executable, str(Path(__file__).with_name("switch.py")), *map(str, devices)]
        pipe = subprocess.PIPE
        switch = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=devices)
        stack.enter_context(switch)
        stack.callback(_end, switch)
        yield Lab(hosts, switch)


def missing() -> str:
    """Return why no lab can be set up here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid():
        return "network namespaces and TAP devices need root"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"there is no {TUN}"
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    try:
        with ExitStack() as stack:
            _device(_host(0, stack), stack)
    except OSError as error:
        return f"no network namespace with a TAP device can be made: {error}"
    return ""


def _host(number: int, stack: ExitStack) -> Host:
    """Make a namespace. A thread that ends makes it, for there is no way back from `unshare`."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = Thread(target=make)
    thread.start()
    thread.join()
    for error in failed:
        raise error
    stack.callback(os.close, made[0])
    return Host(number, made[0])


def _device(host: Host, stack: ExitStack) -> int:
    """Return a descriptor at which the frames of a host come and go."""
    with host.inside():
        device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, device)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
    return device


def _configure(host: Host, hosts: Sequence[Host]) -> None:
    lines = [
        "link set lo up",
        "link set eth0 addrgenmode none",  # no IPv6: it would send frames of its own, which nobody asked for
        f"link set eth0 address {host.hardware} up",
        f"addr add {host.address}/24 dev eth0",
        *(f"neigh add {o.address} lladdr {o.hardware} dev eth0 nud permanent" for o in hosts if o is not host),
    ]
    with host.inside():
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _end(switch: subprocess.Popen[str]) -> None:
    assert switch.stdin is not None
    with suppress(BrokenPipeError):
        switch.stdin.close()
    try:
        switch.wait(END_S)
    except subprocess.TimeoutExpired:
        switch.kill()


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


needs_lab = pytest.mark.skipif(bool(_missing := missing()), reason=_missing)
