"""Real nodes as processes on the loopback interface, started by the command line.

Importing torch costs seconds of processor time: a fork server imports it once, and every node is a fork of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import grpc

from peermerge.protocol import wire_pb2 as wire

from .mesh import SMALL, dotted

T = TypeVar("T")
QUICK = {
    "task.arguments": SMALL,
    "schedule.local_steps": 2,
    "round.floor_s": 0.3,
    "round.ceiling_s": 2.0,
    "node.linger_s": 5.0,
    "membership.wait_s": 10.0,
    "log.checkpoint_every": 2,
}
"""Settings with which a round takes some ten milliseconds and nobody waits long for the dead."""
DEADLINE_S = 60.0
"""Far more than anything takes on an idle machine: it only ends what hangs."""


def eventually(predicate: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Return the first true answer of `predicate`; fail with `what` if none comes in time."""
    never, pause_s = Event(), 0.02
    for _ in range(int(deadline_s / pause_s)):
        if answer := predicate():
            return answer
        never.wait(pause_s)
    raise AssertionError(f"not within {deadline_s} s: {what}")


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback interface."""
    try:
        return bool(free_ports(1, "::1"))
    except OSError:
        return False


class NodeProcess:
    """One node: its settings, its folder, and the process that runs it now."""

    def __init__(
        self, folder: Path, name: str, address: str, settings: dict[str, Any], namespace: str | None = None
    ) -> None:
        # namespace: the file of the network namespace it runs in, if that is not ours.
        self.name = name
        self.address = address
        self.data = folder / name
        self.output = folder / f"{name}.out"
        self.settings = {**QUICK, "node.name": name, "node.listen": address, "node.data_dir": str(self.data)}
        self.settings |= settings
        self._folder = folder
        self._namespace = namespace
        self._process: BaseProcess | None = None

    def start(self, *flags: str, **over: Any) -> NodeProcess:
        """Start the process; `over` are settings of this start alone, `__` stands for a dot."""
        settings = self.settings | dotted(over)
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={_toml(value)}")]
        command = ["node", "start", *flags, *sets]
        script = str(Path(__file__).with_name("launched.py"))
        names = {
            "arguments": command,
            "folder": str(self._folder),
            "output": str(self.output),
            "namespace": self._namespace,
        }
        process = self._context().Process(target=runpy.run_path, args=(script,), kwargs={"init_globals": names})
        process.start()
        self._process = process
        return self

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Return the exit code, once it has ended."""
        if self._process is None:
            raise AssertionError(f"{self.name} was never started")
        self._process.join(deadline_s)
        code = self._process.exitcode
        assert code is not None, f"{self.name} did not end within {deadline_s} s: {self.said}"
        self._process.close()
        self._process = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self.wait()

    def stop(self) -> int:
        """Ask it to end and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it printed."""
        return self.output.read_text() if self.output.exists() else ""

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.is_alive()

    def history(self) -> list[dict[str, Any]]:
        """Return all events that are whole on disk."""
        path = self.data / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := _event(line)) is not None]

    def events(self, kind: str = "round") -> list[dict[str, Any]]:
        """Return the events of one kind."""
        return [event for event in self.history() if event["event"] == kind]

    def _context(self) -> ForkServerContext | SpawnContext:
        """Where its processes come from."""
        return _forks()

    @property
    def result(self) -> dict[str, Any]:
        """What it left at its end."""
        result: dict[str, Any] = json.loads((self.data / "result.json").read_text())
        return result

    def reached(self, round_: int, starts: int = 1) -> bool:
        """Whether it has ended this round since its `starts`-th start."""
        assert self.running, f"{self.name} ended early: {self.said}"
        seen = 0
        for event in self.history():
            seen += event["event"] == "start"
            if seen >= starts and event["event"] == "round" and event["round"] >= round_:
                return True
        return False

    def until(self, round_: int, starts: int = 1) -> None:
        """Wait until it has ended a round."""
        eventually(lambda: self.reached(round_, starts), f"{self.name} ends round {round_}")

    def call(self, service: str, method: str) -> Any:
        """Return the reply of a unary method of Status or Control."""
        with grpc.insecure_channel(self.address) as channel:
            return _unary(channel, service, method)

    def status(self) -> wire.StatusReply:
        """Return its status."""
        reply: wire.StatusReply = self.call("Status", "Get")
        return reply


@contextmanager
def mesh(folder: Path, count: int, **over: Any) -> Iterator[list[NodeProcess]]:
    """Describe nodes of one run of which the first is known to all; end whatever still runs.

    `over` are settings of all nodes; `__` stands for a dot.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    nodes = []
    for i, address in enumerate(addresses):
        settings: dict[str, Any] = {"task.index": i, "task.count": count, "membership.expect": count}
        settings["membership.peers"] = addresses[:1] if i else []
        nodes.append(NodeProcess(folder, f"n{i}", address, settings | dotted(over)))
    try:
        yield nodes
    finally:
        end(nodes)


def end(nodes: Sequence[NodeProcess]) -> None:
    """Kill what still runs."""
    for node in nodes:
        node.kill()


def refused(folder: Path, **over: Any) -> tuple[int, str]:
    """Start a node that should end by itself at once; return its exit code and what it printed."""
    node = NodeProcess(folder, "refused", "127.0.0.1:0", dotted(over))
    try:
        return node.start().wait(), " ".join(node.said.split())
    finally:
        node.kill()


def _event(line: str) -> dict[str, Any] | None:
    """Return an event, or None for a line that is still being written or that a full disk cut short."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event


def _unary(channel: grpc.Channel, service: str, method: str) -> Any:
    descriptor = wire.DESCRIPTOR.services_by_name[service].methods_by_name[method]
    request, reply = (getattr(wire, kind.name) for kind in (descriptor.input_type, descriptor.output_type))
    invoke = channel.unary_unary(
        f"/{descriptor.containing_service.full_name}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=reply.FromString,
    )
    return invoke(request(), timeout=DEADLINE_S, wait_for_ready=True)


def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torch._dynamo: the first optimizer step imports it, which takes longer than torch itself.
    context.set_forkserver_preload(["peermerge.node.daemon", "peermerge.node.cli", "sklearn.datasets", "torch._dynamo"])
    return context


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)
