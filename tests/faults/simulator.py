"""Eight real participants in virtual time, a seeded schedule of faults, and the checker over what they wrote down.

`python -m tests.faults.simulator SEED...` replays seeds and prints their schedules and violations.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import permutations
from math import inf
from random import Random
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from peermerge.node.catch_up import join
from peermerge.node.config import NodeConfig, load
from peermerge.node.daemon import grace_s
from peermerge.node.events import EventList
from peermerge.node.greeting import greet_all, keep_greeting
from peermerge.node.participant import Participant
from peermerge.node.remember import keep_members, remembered
from peermerge.node.round import run_round
from peermerge.node.simulation.memory import torch_threads
from peermerge.node.storage import Draft, MemoryStorage
from peermerge.node.supervise import Background, until_stop
from peermerge.node.tasks import TrainReport
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import DegradedError
from peermerge.protocol.memory_transport import MemoryNetwork, MemoryTransport
from peermerge.protocol.transport import PeerHandler

from .checker import Fault, Run, Violation, check, table
from .pausing import NODE, Door, PausingLoop
from .schedules import OF_LIVES, Planned, Schedule, draw

CPU = torch.device("cpu")
CALM_S = 13.0
"""So long the simulation goes on behind the last fault: views have to agree after ten seconds."""
PATIENCE_S = 120.0
"""So long behind the last fault every node may take to have run its rounds."""
RETRY_S = 0.5
LATENCY_S = 0.01
SETTINGS = {
    "schedule.rounds": 0,
    "schedule.local_steps": 1,
    "round.evaluate_every": 0,
    "membership.wait_s": 3.0,
    "node.device": "cpu",
}


class Killed(BaseException):
    """The process ended in the midst of this."""


class Pull(nn.Module):
    """A model of 1,040 parameters: a matrix, and a vector that is always sent in full."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"matrix": (32, 32), "bias": (16,)}.items():
            self.register_parameter(name, nn.Parameter(0.1 * torch.randn(shape, generator=generator)))


class PullWorkload:
    """Training without an optimizer: a noisy step towards the node's own target. It goes on where it was saved."""

    def __init__(self, index: int) -> None:
        self.model: nn.Module = Pull()
        generator = torch.Generator().manual_seed(1 + index)
        self._targets = [torch.randn(p.shape, generator=generator) for p in self.model.parameters()]
        self._steps = 0
        self._index = index

    @torch.no_grad()
    def train(self, steps: int) -> TrainReport:
        """Take steps."""
        for _ in range(steps):
            self._steps += 1
            generator = torch.Generator().manual_seed(1000 * self._steps + self._index)
            for parameter, target in zip(self.model.parameters(), self._targets, strict=True):
                parameter.lerp_(target, 0.05).add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
        return TrainReport(steps, steps, 1.0)

    def evaluate(self) -> dict[str, float]:
        """Measure nothing."""
        return {}

    def calibration(self) -> Iterable[Tensor]:
        """Offer nothing."""
        return ()

    def second_moments(self) -> Mapping[str, Tensor]:
        """Keep none."""
        return {}

    def reset_optimizer(self) -> None:
        """There is none."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps: it seeds the noise."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up."""
        self._steps = state["steps"]


class Disk(MemoryStorage):
    """A disk that can be full, and whose power can go: then what was not synced is lost, or comes back."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._synced: dict[str, bytes] = {}
        self.full = False
        self.refused = 0
        self.cut_off: Callable[[], None] | None = None
        """Called once the power goes."""
        self.commits_left = 0.0

    @contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[Draft]:
        """Lend a draft, refuse one, or let the power go at its commit."""
        self._room()
        with super().create(name, durable=durable) as draft:
            yield replace(draft, commit=lambda: self._commit(draft, name, durable))

    def remove(self, name: str) -> None:
        """Drop the bytes; they are back after a power cut unless something was synced beside them meanwhile."""
        self._room()
        super().remove(name)

    def scratch(self, size: int) -> BinaryIO:
        """Return a buffer, or refuse one."""
        self._room()
        return io.BytesIO()

    def cut_power(self) -> None:
        """Keep what was synced; of the rest a file is whole, empty or not there."""
        unsynced = {n: data for n, data in self._data.items() if self._synced.get(n) != data}
        self._data = dict(self._synced)
        for name, data in unsynced.items():
            fate = self._rng.randrange(3)
            self._data |= {name: b"" if fate else data} if fate < 2 else {}
        self._synced = dict(self._data)

    def _room(self) -> None:
        if self.full:
            self.refused += 1
            raise DegradedError("no space left on the disk")

    def _commit(self, draft: Draft, name: str, durable: bool) -> None:
        if self.cut_off is None or self.commits_left >= 1:
            self.commits_left -= 1
            self._write(draft, name, durable)
            return
        if self.commits_left > 0:
            self._write(draft, name, durable)
        cut_off, self.cut_off = self.cut_off, None
        cut_off()
        raise Killed

    def _write(self, draft: Draft, name: str, durable: bool) -> None:
        draft.commit()
        if durable:
            self._synced[name] = self._data[name]
            folder = name.rpartition("/")[0]
            for gone in [n for n in self._synced if n.rpartition("/")[0] == folder and n not in self._data]:
                del self._synced[gone]


class LifeLog(EventList):
    """One life's events, with the virtual time, at the end of its node's; none once it is over."""

    def __init__(self, node: str, events: list[dict[str, Any]]) -> None:
        super().__init__(node)
        self.events = events
        self.over = False

    def emit(self, event: str, **fields: object) -> None:
        """Append."""
        if not self.over:
            super().emit(event, time=round(asyncio.get_running_loop().time(), 6), **fields)


class OwnDoor:
    """A node's end of the network that answers in the node's own context."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport

    async def serve(self, handler: PeerHandler) -> None:
        """Open the door."""
        await self._transport.serve(Door(handler, copy_context()))

    def __getattr__(self, name: str) -> Any:
        """Be the transport in all else."""
        return getattr(self._transport, name)


class Host:
    """One machine: its disk and its events, and the node that lives on it, life after life."""

    def __init__(self, name: str, config: NodeConfig, network: MemoryNetwork, step_s: float, rng: Random) -> None:
        self.name = name
        self.disk = Disk(rng)
        self.events: list[dict[str, Any]] = []
        self.node: Participant | None = None
        self.rounds = 0
        """How many rounds it has finished, in all its lives."""
        self._config = config
        self._network = network
        self._step_s = step_s
        self.doors: list[MemoryTransport] = []
        """The ends of the network that its lives have had."""
        self._life: asyncio.Task[None] | None = None
        self._log = LifeLog(name, self.events)
        self._stop = asyncio.Event()

    @property
    def alive(self) -> bool:
        """Whether a node lives here."""
        return self._life is not None and not self._life.done() and not self._log.over

    async def start(self) -> None:
        """Begin a life, once what is left of the last one is gone."""
        if self._life is not None:
            await asyncio.wait([self._life])
        self._network.revive(self.name)
        self._log = LifeLog(self.name, self.events)
        self._stop = asyncio.Event()
        context = copy_context()
        context.run(NODE.set, self.name)
        self._life = asyncio.create_task(self._supervised(self._log), name=self.name, context=context)

    def kill(self) -> None:
        """End this life at once."""
        self._log.over = True
        self._network.kill(self.name)
        if self._life is not None:
            self._life.cancel()

    def cut_power(self) -> None:
        """End this life at once, and lose what is not synced."""
        self.kill()
        self.disk.cut_power()

    async def leave(self) -> None:
        """End this life as a signal would."""
        self._stop.set()
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _supervised(self, log: LifeLog) -> None:
        """Live; a disk that refuses the very start is tried again."""
        while True:
            try:
                return await self._live(log)
            except DegradedError:
                self._network.kill(self.name)  # the door that may stand open is nobody's
                self._network.revive(self.name)
                await asyncio.sleep(RETRY_S)
            except (Killed, asyncio.CancelledError):
                return None
            except Exception as error:
                return log.emit("unhandled", error=repr(error))

    async def _live(self, log: LifeLog) -> None:
        """Do what the daemon does: recover, open the door, greet, run rounds, save, leave."""
        incarnation = int(self.disk.read("incarnation") or b"0") + 1
        self.disk.write("incarnation", str(incarnation).encode())
        self.doors.append(self._network.transport(self.name))
        transport: Any = OwnDoor(self.doors[-1])
        node = Participant(
            self._config,
            PullWorkload(self._config.task.index),
            transport,
            VirtualClock(),
            self.disk,
            log,
            device=CPU,
            incarnation=incarnation,
        )
        node.recover()
        await node.open()
        place = {"round": node.round, "epoch": node.log.epoch, "version": node.log.version}
        log.emit("start", incarnation=incarnation, address=self.name, **place)
        self.node = node
        background = Background()
        try:
            known = remembered(self.disk)
            await greet_all(node, known)
            jobs = (keep_greeting(node, known), keep_members(node.membership, self.disk), node.gossip.run())
            for i, job in enumerate(jobs):
                background.start(f"{self.name} {i}", job)
            await until_stop(self._rounds(node), self._stop, background, lambda: grace_s(node))
            await background.end()
            self._save(node)
            await node.gossip.leave()
        finally:
            await background.end()
            await node.close()

    async def _rounds(self, node: Participant) -> None:
        await join(node)
        while not self._stop.is_set():
            await run_round(node, self._step_s)
            self.rounds += 1

    def _save(self, node: Participant) -> None:
        try:
            node.save()
        except DegradedError as error:
            node.events.emit("degraded", round=node.round, reason=str(error))
        node.events.emit("stop", round=node.round)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to."""

    schedule: Schedule
    run: Run = field(repr=False)  # asyncio formats the result of a main task
    violations: Sequence[Violation]
    fired: Counter[str]
    """How often each kind of fault did something."""

    @property
    def events(self) -> bytes:
        """All events, to the byte."""
        return json.dumps(self.run.logs, sort_keys=True).encode()

    @property
    def digest(self) -> str:
        """Their SHA-256."""
        return hashlib.sha256(self.events).hexdigest()

    @property
    def report(self) -> str:
        """What to print of a seed that failed: how to replay it, what was done, what went wrong."""
        command = f"replay: python -m tests.faults.simulator {self.schedule.seed}"
        return "\n".join([command, str(self.schedule), table(self.violations)])


def simulate(seed: int) -> Outcome:
    """Run a seed's schedule and check what came of it."""
    return play(draw(seed))


def play(schedule: Schedule) -> Outcome:
    """Run a schedule and check what came of it."""
    with torch_threads(1):
        return run_virtual(_World(schedule).run(), PausingLoop)


class _World:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.network = MemoryNetwork(latency_s=LATENCY_S, rate_bytes_s=inf, seed=schedule.seed)
        self.hosts = {name: self._host(i, name) for i, name in enumerate(schedule.names)}
        self.active: list[Planned] = []
        self.pauses: Counter[str] = Counter()
        """How many pauses of each node are under way."""
        self.fired: Counter[str] = Counter()
        self.done: list[Fault] = []

    def _host(self, index: int, name: str) -> Host:
        names = self.schedule.names
        seeds = [other for other in names[:2] if other != name]
        own = {"node.name": name, "task.index": index, "task.count": len(names), "membership.peers": seeds}
        config = load(NodeConfig, None, SETTINGS | {"seed": self.schedule.seed} | dict(self.schedule.settings) | own)
        rng = Random(f"disk {self.schedule.seed} {name}")
        return Host(name, config, self.network, self.schedule.step_s[name], rng)

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PausingLoop)
        self.loop = loop
        for name, host in self.hosts.items():
            if name not in self.schedule.late:
                await host.start()
        injections = [asyncio.create_task(self._inject(fault), name=str(fault)) for fault in self.schedule.faults]
        await asyncio.gather(*injections)
        calm = loop.time() + CALM_S
        await asyncio.sleep(CALM_S)
        while loop.time() < calm + PATIENCE_S and any(map(self._busy, self.hosts.values())):
            await asyncio.sleep(1.0)
        violations = [*self._unfinished(), *self._states(), *self._failures()]
        logs = {name: list(host.events) for name, host in self.hosts.items()}
        for host in self.hosts.values():
            host.kill()
        self.fired += self.network.faults
        self.fired["stopped"] = sum(self.network.link(a, b).stopped for a, b in permutations(self.hosts, 2))
        self.fired["pause"] = sum(loop.held.values())
        self.fired["disk"] = sum(host.disk.refused for host in self.hosts.values())
        staleness = 2 if self.schedule.settings.get("round.mode") == "async" else 0
        run = Run(logs, self.done, allowed=frozenset(self.schedule.names), staleness=staleness)
        return Outcome(self.schedule, run, [*violations, *check(run)], self.fired)

    # ---- Faults. ----

    async def _inject(self, fault: Planned) -> None:
        """Do what is planned, and undo it at its end."""
        await self._until(fault.start)
        if fault.kind in OF_LIVES or fault.kind in _OF_ONE:
            await (_OF_ONE | _OF_LIVES)[fault.kind](self, fault, self.hosts[fault.nodes[0]])
        else:
            self.active.append(fault)
            self._set_links()
            await self._until(fault.end)
            self.active.remove(fault)
            self._set_links()
            self.fired[fault.kind] += 1
        self.done.append(Fault(fault.kind, fault.start, self.loop.time(), fault.nodes))

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self.loop.time()))

    async def kill(self, fault: Planned, host: Host) -> None:
        self.loop.resume(host.name)
        host.kill()
        self.fired["kill"] += 1
        await self._until(fault.end)
        await host.start()

    async def power(self, fault: Planned, host: Host) -> None:
        host.disk.cut_off, host.disk.commits_left = host.cut_power, fault.amount
        await self._until(fault.end)
        if host.disk.cut_off is not None:  # nothing was written: it stood still
            host.disk.cut_off = None
            self.loop.resume(host.name)
            host.cut_power()
        self.fired["power"] += 1
        await host.start()

    async def leave(self, fault: Planned, host: Host) -> None:
        await host.leave()
        self.fired["leave"] += 1
        await self._until(fault.end)
        await host.start()

    async def join(self, fault: Planned, host: Host) -> None:
        await host.start()
        self.fired["join"] += 1

    async def pause(self, fault: Planned, host: Host) -> None:
        self.pauses[host.name] += 1
        self.loop.pause(host.name)
        await self._until(fault.end)
        self.pauses[host.name] -= 1
        if not self.pauses[host.name]:
            self.loop.resume(host.name)

    async def disk(self, fault: Planned, host: Host) -> None:
        host.disk.full = True
        await self._until(fault.end)
        host.disk.full = False

    def _set_links(self) -> None:
        """Make every link what the faults under way make of it."""
        for a, b in permutations(self.hosts, 2):
            link = self.network.link(a, b)
            bad = dict.fromkeys(_LINKS, 0.0) | {f.kind: f.amount for f in self.active}
            link.loss, link.duplicates, link.resets = bad["loss"], bad["duplicates"], bad["resets"]
            link.latency_s = LATENCY_S + bad["slow"]
            link.rate_bytes_s = 2000 / bad["slow"] if bad["slow"] else inf
            if any(_cuts(fault, a, b) for fault in self.active):
                link.cut()
            else:
                link.heal()

    # ---- What must hold in the end, beyond the invariants of the logs. ----

    def _busy(self, host: Host) -> bool:
        return not host.alive or host.rounds < self.schedule.rounds

    def _unfinished(self) -> Iterator[Violation]:
        for host in self.hosts.values():
            if self._busy(host):
                yield Violation("end", host.name, f"alive: {host.alive}, rounds: {host.rounds}")

    def _states(self) -> Iterator[Violation]:
        """Replicas are what their publishers published."""
        nodes = {host.name: host.node for host in self.hosts.values() if host.node is not None}
        published = cache(lambda name, version: nodes[name].log.state_at(version))
        for (name, node), (peer, publisher) in permutations(nodes.items(), 2):
            replica = node.replicas.get(peer)
            if replica is None or replica.point.epoch != publisher.log.epoch:
                continue
            then = published(peer, replica.point.version)
            if then is not None and then.digest != replica.state.digest:
                yield Violation("end", name, f"its replica of {peer} is not what {peer} published")

    def _failures(self) -> Iterator[Violation]:
        """No handler failed for a reason that nobody foresaw."""
        for host in self.hosts.values():
            for error in (error for door in host.doors for error in door.failures):
                yield Violation("I10", host.name, f"a handler failed: {error!r}")


_LINKS = ("loss", "duplicates", "resets", "slow")
_OF_LIVES: dict[str, Callable[[_World, Planned, Host], Awaitable[None]]] = {
    "kill": _World.kill,
    "power": _World.power,
    "leave": _World.leave,
    "join": _World.join,
}
_OF_ONE: dict[str, Callable[[_World, Planned, Host], Awaitable[None]]] = {"pause": _World.pause, "disk": _World.disk}


def _cuts(fault: Planned, a: str, b: str) -> bool:
    there = a in fault.nodes and b in fault.others
    back = b in fault.nodes and a in fault.others
    return {"partition": there or back, "one-way": there}.get(fault.kind, False)


def main(arguments: Sequence[str]) -> int:
    """Replay seeds; return 1 if any violates something."""
    failed = 0
    for outcome in (simulate(int(seed)) for seed in arguments):
        print(outcome.report)
        print(f"events: sha256 {outcome.digest}")
        print(dict(sorted(outcome.fired.items())))
        failed += bool(outcome.violations)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
