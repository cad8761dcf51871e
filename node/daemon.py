"""A node as a process: it begins, runs its rounds, and ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ..protocol.allocator import share_one_arena
from ..protocol.clock import Clock, RealClock
from ..protocol.errors import ConfigError, DegradedError, Refusal
from .catch_up import join
from .config import NodeConfig
from .connections import Connections
from .control import Controls, ControlService
from .data_dir import REPLICAS, Mode, begun_with, next_incarnation, prepare
from .doors import Doors
from .events import EventFile, Events
from .exposure import check_dialable, check_exposure
from .find_base import find_base, keep_base
from .greeting import MISMATCHES, greet_all, keep_greeting
from .linger import linger
from .narrate import Narrated
from .participant import Participant, choose_device
from .remember import keep_members, remembered
from .result import write_result
from .round import run_round
from .status import StatusService
from .storage import DiskStorage
from .supervise import Background, stop_on_signals, until_stop
from .tasks import Shard, load_task
from .telemetry import Telemetry
from .workload import TaskWorkload, Workload

T = TypeVar("T")

RIVAL_S = 1.0
"""How often a node looks whether another process has taken its name."""
EXCHANGING = ("publishing", "gathering", "merging", "evaluating", "checkpointing")
GRACE_S = 10.0
"""How long a stop waits for the end of an exchange under way; training is cut short at once."""


def start(config: NodeConfig, mode: Mode = "auto") -> int:
    """Run a node until its schedule ends or it is told to stop; return the exit code."""
    check_exposure(config)
    check_dialable(config)
    share_one_arena()
    if config.node.threads:
        torch.set_num_threads(config.node.threads)
    return asyncio.run(_main(config, mode))


async def _main(config: NodeConfig, mode: Mode) -> int:
    device = choose_device(config.node.device)
    found, asked = await begun_with(config, mode)
    config = found.config
    say = partial(print, f"[{config.node.name}]", file=sys.stderr, flush=True)
    for sentence in found.sentences:
        say(sentence)
    shard = Shard(config.task.index, config.task.count, config.seed)

    def workload() -> Workload:
        return TaskWorkload(load_task(config.task.name, shard, config.task.arguments), device)

    daemon = Daemon(config, workload, mode, say, asked)
    stop_on_signals(daemon.controls.stop)
    try:
        await daemon.begin(device)
        await daemon.run()
    finally:
        await daemon.end()
    return 0


def grace_s(node: Participant | None) -> float:
    """Return how long a stop waits for a node; its exchange under way then waits for no peer any more."""
    if node is None or node.progress.phase not in EXCHANGING:
        return 0.0
    node.gather.hurry()  # a published round is also merged and noted: it will not be run again
    return GRACE_S


class Daemon:
    """One participant with its data directory, services and background tasks."""

    def __init__(
        self,
        config: NodeConfig,
        workload: Callable[[], Workload],
        mode: Mode = "auto",
        say: Callable[[str], None] | None = None,
        asked: Mapping[str, str] | None = None,
    ) -> None:
        # asked: what a coordinator suggested, and the configuration holds already.
        self.config = config
        self.controls = Controls()
        self.clock: Clock = RealClock()
        self.node: Participant | None = None
        self._make_workload = workload
        self._storage = DiskStorage(Path(config.node.data_dir))
        self._file = EventFile(self._storage.root / "events.jsonl", config.node.name)
        told = config.membership.mqtt is not None and config.membership.telemetry
        self._telemetry = Telemetry(self._file, config.node.name) if told else None
        events: Events = self._telemetry or self._file
        self._events: Events = Narrated(events, config.schedule.rounds, say) if say else events
        try:
            prepare(self._storage, config, mode, asked or {})
        except BaseException:
            self._storage.close()
            raise
        self._doors: Doors | None = None
        self._connections = Connections()
        self._background = Background()

    # ---- Begin. ----

    async def begin(self, device: torch.device) -> None:
        """Load what is there, open the door, meet the others and catch up. Raises PeermergeError."""
        workload = self._make_workload()
        incarnation = next_incarnation(self._storage)
        doors = self._doors = Doors(self.config)
        if (node := await self._build(workload, incarnation, doors, device)) is None:
            return
        await self._open(node, doors)
        await self._until_stop(self._connections.open(node, self._telemetry))
        await self._meet(node)
        await self._until_stop(join(node))

    async def _build(
        self, workload: Workload, incarnation: int, doors: Doors, device: torch.device
    ) -> Participant | None:
        """Return the node as it comes out of the data directory; None if it was told to stop meanwhile."""
        config = self.config
        base = await find_base(
            config, workload, incarnation, self._storage, doors.transport, self.clock, self._events, self._until_stop
        )
        if self.controls.stop.is_set():
            return None
        node = self.node = Participant(
            config,
            workload,
            doors.transport,
            self.clock,
            self._storage,
            self._events,
            device=device,
            base=base,
            folder=self._storage.root / REPLICAS,
            incarnation=incarnation,
            threads=config.node.threads or len(os.sched_getaffinity(0)),
        )
        keep_base(node, self._storage)
        self.status = StatusService(node)
        self.status.warnings += node.recover()
        return node

    async def _open(self, node: Participant, doors: Doors) -> None:
        """Let peers, commands, and those who ask how it goes come in."""
        doors.bind(self.status, ControlService(node, self.controls))
        await node.open()
        address = node.membership.me.address
        self._storage.write("address", address.encode(), durable=False)
        place = {"round": node.round, "epoch": node.log.epoch, "version": node.log.version}
        self._events.emit("start", incarnation=node.identity.incarnation, address=address, **place)
        doors.open_page(self.status)

    async def _meet(self, node: Participant) -> None:
        """Greet the others, and from then on keep an eye on them."""
        node.progress.phase = "greeting"
        known = remembered(self._storage)
        if missing := await self._until_stop(greet_all(node, known)):
            self._events.emit("missing", addresses=missing)
            self.status.warnings.append(f"went on without {', '.join(missing)}")
        self._background.start("greeting", keep_greeting(node, known))
        self._background.start("members", keep_members(node.membership, self._storage))
        self._background.start("name", _stay_unique(node))
        if self.config.membership.gossip:
            self._background.start("gossip", node.gossip.run())

    # ---- Run. ----

    async def run(self) -> None:
        """Run rounds until the schedule ends or somebody says stop. Raises what a task of ours died of."""
        await self._until_stop(self._rounds())

    async def _rounds(self) -> None:
        node = self.node
        if node is None:
            if self.controls.stop.is_set():
                return
            raise ConfigError("begin comes first")
        while not node.last_round:
            if self.controls.stop.is_set():
                return
            if not self.controls.running.is_set():
                node.progress.phase = "paused"
                await self.controls.running.wait()
            await run_round(node)
        node.progress.phase = "finished"
        self._events.emit("finished", round=node.round)
        write_result(node, self.status.all_warnings())
        await self.linger()
        if self.config.node.stay:
            await self.controls.stop.wait()

    async def linger(self) -> None:
        """Serve those who still need us, at most as long as configured."""
        if self.node is not None:
            await linger(self.node)

    def check(self) -> None:
        """Raise what a background task died of, if one did."""
        self._connections.check()
        self._background.check()

    async def _until_stop(self, main: Awaitable[T]) -> T | None:
        background = (*self._connections, *self._background)
        return await until_stop(main, self.controls.stop, background, lambda: grace_s(self.node))

    # ---- End. ----

    async def end(self) -> None:
        """Save, say what was done, close everything."""
        await self._background.end()
        if self.node is not None and hasattr(self.node, "gather"):
            await self._leave(self.node)
        elif self._doors is not None:
            await self._doors.transport.close()
        if self._doors is not None:
            self._doors.close_page()
        self._file.close()
        self.clock.close()
        self._storage.close()

    async def _leave(self, node: Participant) -> None:
        """Save, tell everybody that we leave, close the door."""
        self.status.stopped = True
        try:
            await self.clock.work(node.save)
        except DegradedError as error:
            self._events.emit("degraded", round=node.round, reason=str(error))
        write_result(node, self.status.all_warnings())
        self._events.emit("stop", round=node.round)
        if self.config.membership.gossip:
            await node.gossip.leave()
        await self._connections.leave(node)
        await node.close()


async def _stay_unique(node: Participant) -> None:
    """Raise ConfigError once another process keeps our name."""
    while (rival := node.membership.rival) is None or not node.membership.outranked:
        await node.clock.sleep(RIVAL_S)
    raise ConfigError(
        f"DUPLICATE_ID: another process is {node.name!r} as well: it answers at {rival.address}, this one is at "
        f"{node.membership.me.address}; {MISMATCHES[Refusal.DUPLICATE_ID]}"
    )
