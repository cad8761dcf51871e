"""A node as a process: data directory, doors, rounds, signals, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import grpc
import torch
from safetensors.torch import save as save_bytes

from ..protocol.allocator import share_one_arena
from ..protocol.clock import Clock, RealClock
from ..protocol.errors import ConfigError, DataDirError, DegradedError
from ..protocol.grpc_transport import GrpcTransport
from ..protocol.rpc import handlers
from ..protocol.wire_pb2 import DESCRIPTOR
from .attachments import FOLDER
from .config import NodeConfig, differences
from .control import Controls, ControlService
from .events import EventFile, Events
from .exposure import check_dialable, check_exposure
from .greeting import greet_all, keep_greeting
from .metrics import serve_metrics
from .narrate import Narrated
from .params import load_tensors, ties
from .participant import Participant, choose_device
from .round import run_round
from .status import StatusService
from .storage import DiskStorage
from .tasks import Shard, load_task
from .workload import TaskWorkload, Workload

Mode = Literal["auto", "resume", "fresh"]
CONTENTS = (
    *("log", "replicas", "checkpoints", FOLDER),
    *("config.json", "manifest.json", "base.safetensors", "result.json"),
)
"""What `--fresh` removes."""
POLL_S = 0.05
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
    shard = Shard(config.task.index, config.task.count, config.seed)

    def workload() -> Workload:
        return TaskWorkload(load_task(config.task.name, shard, config.task.arguments), device)

    daemon = Daemon(config, workload, mode, partial(print, f"[{config.node.name}]", file=sys.stderr, flush=True))
    _on_signals(daemon.controls)
    try:
        await daemon.begin(device)
        await daemon.run()
    finally:
        await daemon.end()
    return 0


class Daemon:
    """One participant with its data directory, services and background tasks."""

    def __init__(
        self,
        config: NodeConfig,
        workload: Callable[[], Workload],
        mode: Mode = "auto",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.controls = Controls()
        self.clock: Clock = RealClock()
        self._make_workload = workload
        self._root = Path(config.node.data_dir)
        self._storage = DiskStorage(self._root)
        self._file = EventFile(self._root / "events.jsonl", config.node.name)
        self._events: Events = Narrated(self._file, config.schedule.rounds, say) if say else self._file
        try:
            self._prepare(mode)
        except BaseException:
            self._storage.close()
            raise
        self._tasks: list[asyncio.Task[None]] = []
        self._page: Any = None
        self.node: Participant | None = None

    async def begin(self, device: torch.device) -> None:
        """Load what is there, open the door and meet the others. Raises PeermergeError."""
        config = self.config
        workload: Workload = self._make_workload()
        incarnation = int((self._storage.read("incarnation") or b"0").decode()) + 1
        self._storage.write("incarnation", str(incarnation).encode())
        services: list[grpc.GenericRpcHandler] = []  # bound to the node further down, before the door opens
        transport = GrpcTransport(
            config.node.listen,
            advertise=config.node.advertise,
            services=services,
            reflection_names=[s.full_name for s in SERVICES],
        )
        node = self.node = Participant(
            config,
            workload,
            transport,
            self.clock,
            self._storage,
            self._events,
            device=device,
            base=self._base(),
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
        self._events.emit("start", incarnation=incarnation, round=node.round, address=node.membership.me.address)
        if config.node.metrics:
            self._page = serve_metrics(config.node.metrics, self.status.reply)
        node.progress.phase = "greeting"
        await self._until_stop(self._greet(node))
        self._tasks = [asyncio.create_task(keep_greeting(node), name="greeting")]
        if config.membership.gossip:
            self._tasks.append(asyncio.create_task(node.gossip.run(), name="gossip"))

    async def run(self) -> None:
        """Run rounds until the schedule ends or somebody says stop. Raises what a task of ours died of."""
        await self._until_stop(self._rounds(), *self._tasks)

    async def end(self) -> None:
        """Save, say what was done, close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        node = self.node
        if node is not None and hasattr(node, "gather"):
            self.status.stopped = True
            await self._save(node)
            if self.config.membership.gossip:
                await node.gossip.leave()
            await node.close()
        if self._page is not None:
            self._page[0].shutdown()
            self._page[0].server_close()
        self._file.close()
        self.clock.close()
        self._storage.close()

    async def _greet(self, node: Participant) -> None:
        missing = await greet_all(node)
        if missing:
            self._events.emit("missing", addresses=missing)
            self.status.warnings.append(f"went on without {', '.join(missing)}")

    async def _rounds(self) -> None:
        node = self.node
        if node is None:
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
        """Serve the last version until every neighbour has it, at most as long as configured."""
        if (node := self.node) is None:
            return
        head = (node.log.epoch, node.log.version)
        end = self.clock.now() + self.config.node.linger_s
        partners = node.partners(node.membership.view())
        while any(node.peers[p].served != head for p in partners) and self.clock.now() < end:
            await self.clock.sleep(POLL_S)

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
        if saved is not None and (changes := differences(_fixed(_parsed(saved, self._root)), _fixed(ours))):
            raise ConfigError(
                f"{self._root} was made with another configuration: {'; '.join(changes)}. "
                "Undo the change, use another --data-dir, or start anew with --fresh"
            )
        self._storage.write("config.json", json.dumps(ours, indent=1).encode())

    def _base(self) -> dict[str, torch.Tensor] | None:
        if (self._root / "base.safetensors").exists():
            return load_tensors(self._root / "base.safetensors")
        return load_tensors(Path(self.config.node.base)) if self.config.node.base else None

    def _keep_base(self, node: Participant) -> None:
        """Keep the base beside the log: an initialisation is not promised equal across builds."""
        if (self._root / "base.safetensors").exists():
            return
        full = {n: t.detach().cpu().contiguous().clone() for n, t in node.workload.model.state_dict().items()}
        self._storage.write("base.safetensors", save_bytes(full))
        specs = [[s.name, list(s.shape), s.dtype, s.full] for s in node.manifest.tensors]
        manifest = {"tensors": specs, "ties": ties(node.workload.model)}
        self._storage.write("manifest.json", json.dumps(manifest).encode())


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
