"""A node as a process: data directory, doors, rounds, signals, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import grpc
import torch
from safetensors.torch import save as save_bytes

from ..protocol.allocator import share_one_arena
from ..protocol.clock import Clock, RealClock
from ..protocol.errors import ConfigError, DataDirError, DegradedError, Refusal
from ..protocol.grpc_transport import GrpcTransport
from ..protocol.members import Member
from ..protocol.parts import ANY_BASE
from ..protocol.rpc import handlers
from ..protocol.wire_pb2 import DESCRIPTOR
from .attachments import FOLDER
from .base import FILE as BASE_FILE
from .base import read_base
from .catch_up import join
from .config import NodeConfig, differences
from .control import Controls, ControlService
from .events import EventFile, Events
from .exposure import check_dialable, check_exposure
from .fetch import DIGEST, BaseFetch, wanted
from .fetch import FOLDER as INCOMING
from .gather import Identity
from .greeting import MISMATCHES, greet_all, greet_many, keep_greeting
from .membership.coordinator import CoordinatorClient
from .membership.sources import sources
from .metrics import serve_metrics
from .narrate import Narrated
from .params import describe, load_tensors, ties
from .participant import Participant, choose_device, taking_part
from .remember import keep_members, remembered
from .round import run_round
from .status import StatusService
from .storage import DiskStorage
from .suggestions import FILE as SUGGESTIONS
from .suggestions import keep, recall_or_ask, suggested
from .tasks import Shard, load_task
from .telemetry import Telemetry
from .workload import TaskWorkload, Workload

Mode = Literal["auto", "resume", "fresh"]
CONTENTS = (
    *("log", "replicas", "checkpoints", FOLDER, INCOMING),
    *("config.json", "manifest.json", BASE_FILE, "result.json", SUGGESTIONS),
)
"""What `--fresh` removes."""
POLL_S = 0.05
ASK_S = 0.25
"""How often a node that lingers asks members who are not known to be done."""
ASKED = 16
"""So many of them at a time."""
RIVAL_S = 1.0
"""How often a node looks whether another process has taken its name."""
EXCHANGING = ("publishing", "gathering", "merging", "evaluating", "checkpointing")
GRACE_S = 10.0
"""How long a stop waits for the end of an exchange under way; training is cut short at once."""
SERVICES = [DESCRIPTOR.services_by_name[name] for name in ("Peer", "Status", "Control")]


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
    config, asked = await _suggested(config, mode)
    shard = Shard(config.task.index, config.task.count, config.seed)

    def workload() -> Workload:
        return TaskWorkload(load_task(config.task.name, shard, config.task.arguments), device)

    say = partial(print, f"[{config.node.name}]", file=sys.stderr, flush=True)
    daemon = Daemon(config, workload, mode, say, asked)
    _on_signals(daemon.controls)
    try:
        await daemon.begin(device)
        await daemon.run()
    finally:
        await daemon.end()
    return 0


async def _suggested(config: NodeConfig, mode: Mode) -> tuple[NodeConfig, dict[str, str]]:
    """Lay what the coordinator suggests under a configuration; return what was suggested, too."""
    root = Path(config.node.data_dir)
    begun = mode != "fresh" and (root / "config.json").exists()
    asked = await recall_or_ask(config, DiskStorage(root, lock=False), begun=begun)
    return suggested(config, asked).config, asked


class Daemon:
    """One participant with its data directory, services and background tasks."""

    def __init__(
        self,
        config: NodeConfig,
        workload: Callable[[], Workload],
        mode: Mode = "auto",
        say: Callable[[str], None] | None = None,
        asked: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # asked: what a coordinator suggested, and the configuration holds already.
        self.config = config
        self._asked = asked
        self.controls = Controls()
        self.clock: Clock = RealClock()
        self._make_workload = workload
        self._root = Path(config.node.data_dir)
        self._storage = DiskStorage(self._root)
        self._file = EventFile(self._root / "events.jsonl", config.node.name)
        told = config.membership.mqtt is not None and config.membership.telemetry
        self._telemetry = Telemetry(self._file, config.node.name) if told else None
        events: Events = self._telemetry or self._file
        self._events: Events = Narrated(events, config.schedule.rounds, say) if say else events
        try:
            self._prepare(mode)
        except BaseException:
            self._storage.close()
            raise
        self._tasks: list[asyncio.Task[None]] = []
        self._transport: GrpcTransport | None = None
        self._page: Any = None
        self.node: Participant | None = None

    async def begin(self, device: torch.device) -> None:
        """Load what is there, open the door, meet the others and catch up. Raises PeermergeError."""
        config = self.config
        workload: Workload = self._make_workload()
        incarnation = int((self._storage.read("incarnation") or b"0").decode()) + 1
        self._storage.write("incarnation", str(incarnation).encode())
        services: list[grpc.GenericRpcHandler] = []  # bound to the node further down, before the door opens
        transport = self._transport = GrpcTransport(
            config.node.listen,
            advertise=config.node.advertise,
            services=services,
            reflection_names=[s.full_name for s in SERVICES],
        )
        base = await self._base(workload, transport, incarnation)
        if self.controls.stop.is_set():
            return
        node = self.node = Participant(
            config,
            workload,
            transport,
            self.clock,
            self._storage,
            self._events,
            device=device,
            base=base,
            folder=self._root / "replicas",
            incarnation=incarnation,
            threads=config.node.threads or len(os.sched_getaffinity(0)),
        )
        self._keep_base(node)
        self.status = StatusService(node)
        self.status.warnings += node.recover()
        control = ControlService(node, self.controls)
        services += [handlers(s, i) for s, i in zip(SERVICES[1:], (self.status, control), strict=True)]
        await node.open()
        self._storage.write("address", node.membership.me.address.encode(), durable=False)
        place = {"round": node.round, "epoch": node.log.epoch, "version": node.log.version}
        self._events.emit("start", incarnation=incarnation, address=node.membership.me.address, **place)
        if config.node.metrics:
            self._page = serve_metrics(config.node.metrics, self.status.reply)
        await self._until_stop(self._introduce(node))
        node.progress.phase = "greeting"
        known = remembered(self._storage)
        await self._until_stop(self._greet(node, known), *self._tasks)
        background = {
            "greeting": keep_greeting(node, known),
            "members": keep_members(node.membership, self._storage),
            "name": _stay_unique(node),
        }
        if config.membership.gossip:
            background["gossip"] = node.gossip.run()
        self._tasks += [asyncio.create_task(work, name=name) for name, work in background.items()]
        await self._until_stop(join(node), *self._tasks)

    async def run(self) -> None:
        """Run rounds until the schedule ends or somebody says stop. Raises what a task of ours died of."""
        await self._until_stop(self._rounds(), *self._tasks)

    def check(self) -> None:
        """Raise what a background task died of, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Save, say what was done, close everything."""
        node = self.node
        connected = node.sources if node is not None else {}
        for task in self._tasks:
            if task.get_name() not in connected:
                task.cancel()
        await asyncio.gather(*(t for t in self._tasks if t.get_name() not in connected), return_exceptions=True)
        if node is not None and hasattr(node, "gather"):
            self.status.stopped = True
            await self._save(node)
            if self.config.membership.gossip:
                await node.gossip.leave()
            await asyncio.gather(*(source.leave() for source in connected.values()))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await node.close()
        elif self._transport is not None:
            await self._transport.close()
        if self._page is not None:
            self._page[0].shutdown()
            self._page[0].server_close()
        self._file.close()
        self.clock.close()
        self._storage.close()

    async def _introduce(self, node: Participant) -> None:
        """Connect to what may introduce members; a coordinator is given one try before anybody is greeted."""
        settings = self.config.membership
        node.sources = sources(
            settings,
            node.identity,
            node.membership,
            self.clock,
            node.gossip.doubt,
            lambda: node.round,
            self._telemetry,
        )
        if self._telemetry is not None:
            node.telemetry_dropped = partial(getattr, self._telemetry, "dropped")
        self._tasks += [asyncio.create_task(source.run(), name=name) for name, source in node.sources.items()]
        if isinstance(coordinator := node.sources.get("coordinator"), CoordinatorClient):
            await coordinator.tried.wait()

    async def _greet(self, node: Participant, known: tuple[Member, ...]) -> None:
        missing = await greet_all(node, known)
        if missing:
            self._events.emit("missing", addresses=missing)
            self.status.warnings.append(f"went on without {', '.join(missing)}")

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
        self._write_result(node)
        await self.linger()
        if self.config.node.stay:
            await self.controls.stop.wait()

    async def linger(self) -> None:
        """Serve until every neighbour has the last version and nobody's last round needs us as a member.

        At most as long as configured.
        """
        if (node := self.node) is None:
            return
        now = self.clock.now()
        end, ask = now + self.config.node.linger_s, now
        while now < end:
            busy = _not_done(node) if node.last_round and self.config.membership.gossip else []
            if not busy and not _not_served(node):
                return
            if busy and now >= ask:
                ask = now + ASK_S
                await greet_many(node, busy[:ASKED])
            await self.clock.sleep(POLL_S)
            now = self.clock.now()

    async def _until_stop(self, main: Awaitable[None], *background: asyncio.Task[None]) -> None:
        """Await `main`; end it early at a stop; raise if it or a background task fails."""
        work = asyncio.ensure_future(main)
        stop = asyncio.create_task(self.controls.stop.wait(), name="stop")
        try:
            await asyncio.wait([work, stop, *background], return_when=asyncio.FIRST_COMPLETED)
            if stop.done() and self.node is not None and self.node.progress.phase in EXCHANGING:
                self.node.gather.hurry()  # a published round is also merged and noted: it will not be run again
                await asyncio.wait([work, *background], timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, *background):
                if task.done():
                    task.result()
        finally:
            for pending in (work, stop):
                pending.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _save(self, node: Participant) -> None:
        try:
            await self.clock.work(node.save)
        except DegradedError as error:
            self._events.emit("degraded", round=node.round, reason=str(error))
        self._write_result(node)
        self._events.emit("stop", round=node.round)

    def _write_result(self, node: Participant) -> None:
        result = {
            "node": node.name,
            "round": node.round,
            "rounds": node.schedule.rounds,
            "finished_rounds": node.round,
            "version": node.log.version,
            "epoch": node.log.epoch,
            "metrics": node.progress.metrics,
            "bytes_out": node.peers.bytes_out,
            "bytes_in": node.peers.bytes_in,
            "frame_bytes": node.progress.frame_bytes,
            "exchange_s": node.progress.exchange_s,
            "exchange_rounds": node.progress.exchanges,
            "consensus": node.progress.consensus,
            "omega": node.omega.value,
            "residue": node.progress.residue,
            "unpaid_weight": node.progress.unpaid_weight,
            "links": {name: record.bytes_out for name, record in sorted(node.peers.items())},
            "skipped": {name: dict(record.skipped) for name, record in sorted(node.peers.items())},
            "warnings": self.status.all_warnings(),
        }
        try:
            self._storage.write("result.json", json.dumps(result, indent=1).encode(), durable=False)
        except DegradedError as error:
            self._events.emit("degraded", round=node.round, reason=str(error))

    # ---- The data directory. ----

    def _prepare(self, mode: Mode) -> None:
        """Wipe for --fresh, refuse what is not ours to resume, note the configuration."""
        saved = self._storage.read("config.json")
        if mode == "fresh" and saved is not None:
            for name in CONTENTS:
                path = self._root / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            saved = None
        if mode == "resume" and saved is None:
            raise DataDirError(f"{self._root}: nothing to resume here; leave out --resume or give another --data-dir")
        ours = self.config.model_dump(mode="json")
        ours["membership"]["mqtt"] = None  # it may hold a password
        if saved is not None and (changes := differences(_fixed(_parsed(saved, self._root)), _fixed(ours))):
            raise ConfigError(
                f"{self._root} was made with another configuration: {'; '.join(changes)}. "
                "Undo the change, use another --data-dir, or start anew with --fresh"
            )
        if saved is None and self._asked:
            keep(self._storage, self._asked)
        self._storage.write("config.json", json.dumps(ours, indent=1).encode())

    async def _base(
        self, workload: Workload, transport: GrpcTransport, incarnation: int
    ) -> dict[str, torch.Tensor] | None:
        """Return the base that is kept, given, or fetched; None for the task's own, and where a stop came first."""
        given = self.config.node.base
        if (self._root / BASE_FILE).exists():
            return load_tensors(self._root / BASE_FILE)
        if (digest := wanted(given)) is None:
            return load_tensors(Path(given)) if given else None
        config, manifest = self.config, describe(workload.model, taking_part(workload.model, self.config))
        me = Identity(config.network, config.run, config.node.name, incarnation, digest, manifest)
        search = BaseFetch(me, config, transport, self.clock, self._root / INCOMING)
        found: list[Path] = []

        async def fetch() -> None:
            found.append(await search.fetch(config.membership.peers))

        await self._until_stop(fetch())
        if not found:
            return None
        self._events.emit("base", sha256=found[0].name, received=search.received)
        return read_base(found[0], manifest)

    def _keep_base(self, node: Participant) -> None:
        """Keep the base beside the log: an initialisation is not promised equal across builds."""
        asked = wanted(self.config.node.base)
        if asked not in (None, ANY_BASE, node.identity.base):
            raise ConfigError(
                f"node.base = {self.config.node.base!r}, but the base here is {DIGEST}{node.identity.base.hex()}; "
                "use another --data-dir or start anew with --fresh"
            )
        if (self._root / BASE_FILE).exists():
            return
        full = {n: t.detach().cpu().contiguous().clone() for n, t in node.workload.model.state_dict().items()}
        self._storage.write(BASE_FILE, save_bytes(full))
        specs = [[s.name, list(s.shape), s.dtype, s.full] for s in node.manifest.tensors]
        manifest = {"tensors": specs, "ties": ties(node.workload.model)}
        self._storage.write("manifest.json", json.dumps(manifest).encode())
        shutil.rmtree(self._root / INCOMING, ignore_errors=True)


async def _stay_unique(node: Participant) -> None:
    """Raise ConfigError once another process keeps our name."""
    while (rival := node.membership.rival) is None or not node.membership.outranked:
        await node.clock.sleep(RIVAL_S)
    raise ConfigError(
        f"DUPLICATE_ID: another process is {node.name!r} as well: it answers at {rival.address}, this one is at "
        f"{node.membership.me.address}; {MISMATCHES[Refusal.DUPLICATE_ID]}"
    )


def _not_served(node: Participant) -> list[str]:
    """Return the neighbours who have not been sent our last version."""
    head = (node.log.epoch, node.log.version)
    return [peer for peer in node.partners(node.membership.view()) if node.peers[peer].served != head]


def _not_done(node: Participant) -> list[str]:
    """Return the addresses of members who may still have to look who is a member in the last round.

    Whose last version we hold has done that, and who says that all rounds are over.
    """
    view, last = node.membership.view(), node.schedule.rounds - 1
    held = {peer for peer in node.partners(view) if (r := node.replicas.get(peer)) is not None and r.round >= last}
    done = {name for name in view.names if node.peers[name].round > last}
    return [m.address for m in view.members if m.name not in held | done | {node.name}]


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must not change on resume: addresses, deployment and the number of rounds may."""
    shared = {k: v for k, v in config.items() if k not in ("node", "membership", "schedule")}
    shared["schedule"] = {k: v for k, v in config["schedule"].items() if k != "rounds"}
    return shared | {"node": {k: config["node"][k] for k in ("name", "start_noise", "base")}}


def _parsed(data: bytes, root: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(data)
        _fixed(saved)
    except (ValueError, KeyError) as error:
        raise DataDirError(f"{root}/config.json is damaged: restore it or start anew with --fresh") from error
    return saved


def _on_signals(controls: Controls) -> None:
    """Let SIGINT and SIGTERM end the node cleanly; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if controls.stop.is_set():
            os._exit(130)
        controls.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
