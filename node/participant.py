"""One node, put together: its weights, its log, its replicas of others, and the doors between them.

The round (`round.py`) is what it does; this file is what it has. The event loop never holds the model: all
that touches weights or states runs as the clock's work, one job at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from ..protocol.blob import Blob
from ..protocol.clock import Clock
from ..protocol.errors import ConfigError, DegradedError, PeerError, PeermergeError, Refusal, TransportError
from ..protocol.members import Member, MemberState
from ..protocol.messages import Attachment, Header, Merged
from ..protocol.statistics import max_statistics_bytes
from ..protocol.transport import Transport
from . import checkpoint as checkpoints
from .attachments import keep, kept
from .base import kept_base
from .budget import Budget
from .checkpoint import Checkpoint
from .config import NodeConfig
from .correct import Contribution, corrections, edge_seed
from .events import Events
from .gather import Attachments, Gather, Identity
from .guard import Alarm
from .ledger import Ledger
from .log import PublishedLog
from .membership import Roster, View
from .membership.gossip import Gossiper
from .membership.sources import Source
from .merging import make_method
from .merging.average import WeightedMean
from .params import Parameters, describe, live_tensors
from .peers import Peers
from .recovery import generators, restore_generators, resume
from .replicas import Pool, Replica, Replicas
from .schedule import Plan, Schedule, plan
from .service import PeerService
from .state import State, floors
from .statistics import Measured, Measuring, kinds_of, wire_kind
from .storage import Storage
from .topology import graph, is_dense, make_topology, neighbours, partners
from .workload import Workload

SMOOTHING = 0.8
PACE = ("omega", "drift", "push")
"""Smoothed figures that a checkpoint keeps."""


@dataclass(slots=True)
class Smoothed:
    """An exponential moving average that starts at its first value."""

    value: float = 0.0
    seen: bool = False

    def see(self, value: float) -> None:
        """Take one more value."""
        self.value = SMOOTHING * self.value + (1 - SMOOTHING) * value if self.seen else value
        self.seen = True


@dataclass(slots=True)
class Progress:
    """Figures of the latest round, for status and alarms."""

    phase: str = "starting"
    metrics: dict[str, float] = field(default_factory=dict)
    residue: float = 0.0
    gamma: float = 0.0
    consensus: float = 0.0
    frame_bytes: int = 0
    unpaid_weight: float = 0.0
    degraded: dict[str, str] = field(default_factory=dict)
    """What the disk refuses, and why."""
    exchange_s: float = 0.0
    """Real seconds spent in rounds beyond training and evaluation, in total."""
    exchanges: int = 0


def taking_part(model: nn.Module, config: NodeConfig) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that a node publishes."""
    return live_tensors(model, config.include, config.exclude, buffers=config.merge.statistics != "local")


def choose_device(name: str) -> torch.device:
    """Return the device of a configuration; raises ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device = {name!r} is not available here; use 'cpu' or 'auto'") from error
    return device


SHORT = 16
"""Digits of a digest in events."""

TRAIN_LOSS = "train_loss"
"""What headers call the mean loss of the round's training."""


class Participant:
    """Everything one node holds. Create it, `recover`, `open`, then run rounds."""

    def __init__(
        self,
        config: NodeConfig,
        workload: Workload,
        transport: Transport,
        clock: Clock,
        storage: Storage,
        events: Events,
        *,
        device: torch.device,
        base: Mapping[str, torch.Tensor] | None = None,
        folder: Path | None = None,
        pool: Pool | None = None,
        incarnation: int = 1,
        threads: int = 1,
    ) -> None:
        # threads: how many code and decode the segments of a frame.
        self.config = config
        self.workload = workload
        self.transport = transport
        self.clock = clock
        self.storage = storage
        self.events = events
        self.device = device
        self.name = config.node.name
        self.pool = pool
        self.topology = make_topology(config.topology.name, config.topology.parameters)
        self.method = make_method(config.merge.method, config.merge.parameters, config.merge.after)
        self.schedule = Schedule(**config.schedule.model_dump())
        tensors = taking_part(workload.model, config)
        self.params = Parameters(tensors, describe(workload.model, tensors), device)
        if base is not None:
            self.params.adopt(base)
        self.manifest = self.params.manifest
        self.method = self.method.counted(spec.name for spec in self.manifest.tensors)
        grid = floors(self.manifest, self.params.base.cpu(), config.log.grid_bits)
        self.identity = Identity(
            config.network, config.run, self.name, incarnation, self.params.base_digest, self.manifest
        )
        self.log = PublishedLog(
            storage,
            State(self.manifest, grid),
            self.name,
            self.params.base_digest,
            config.log.retention,
            retention_bytes=config.log.retention_bytes,
            threads=threads,
            effort=config.publish.effort,
        )
        self.replicas = Replicas(self.manifest, grid, self.params.base_digest, folder, pool, threads=threads)
        self.ledger = Ledger(epoch=self.log.epoch)
        self.peers = Peers()
        self.measuring = Measuring(kinds_of(self.method), workload, self.params)
        self.statistics: dict[str, Measured] = {}
        """What we measured last, as neighbours see it."""
        self.attachments: tuple[Attachment, ...] = ()
        """The same, as our next header announces it."""
        self.progress = Progress()
        self.alarms = [
            Alarm("the unpublished residue", config.guard.alarm_rounds),
            Alarm("the consensus distance", config.guard.alarm_rounds),
        ]
        self.round = 0
        self.omega = Smoothed(1.0)
        """Share of the residue's squared norm that frames remove."""
        self.drift = Smoothed()
        """Norm of what training moves in a round, over the sparse tensors."""
        self.push = Smoothed()
        """Norm of what corrections move in a round, over the sparse tensors."""
        self.debt = torch.zeros(0)
        """What the next correction holds beyond its merge: misses paid back, strangers of a full merge."""
        self.absorbed: dict[str, Merged] = {}
        self.absorbed_sum = torch.zeros(0)
        """What strangers of a full merge added to tau."""
        self.unpublished: State | None = None
        """What our state would be by now, while the disk refuses it; nobody else has seen it."""
        self.merged: list[Contribution] = []
        """What the round's merge used: the model that is evaluated is made of it."""
        self.skipped: dict[str, str] = {}
        """Who is left out of the merge under way, and why."""
        self.rng = np.random.default_rng([config.seed, config.task.index, 1])
        self.mismatches: dict[str, str] = {}
        """Addresses whose nodes can never be merged with as they are, and why."""
        self.sources: dict[str, Source] = {}
        """What may introduce members besides others of them, where it is configured: a coordinator, a broker."""
        self.telemetry_dropped: Callable[[], int] = lambda: 0
        """How many figures the broker was never told."""

    @property
    def last_round(self) -> bool:
        """Whether the schedule has ended."""
        return 0 < self.schedule.rounds <= self.round

    async def open(self) -> None:
        """Open the door: peers may greet and pull from now on."""
        self.membership = Roster(
            Member(self.name, "pending", self.identity.incarnation),
            self.config.membership.peers,
            self.config.membership.expect,
        )
        self.gossip = Gossiper(
            self.identity,
            self.membership,
            self.transport,
            self.clock,
            self.peers,
            self.config.membership,
            Random(f"{self.config.seed}/{self.name}/{self.identity.incarnation}"),
            lambda: self.round,
        )
        self.service = PeerService(
            self.identity,
            self.log,
            self.membership,
            self.peers,
            self.replicas.point,
            Budget(self.clock, self.config.node.bandwidth_bytes_s),
            lambda header: kept(self.storage, header.attachments),
            self.gossip.answer,
            lambda: kept_base(self.storage, self.manifest),
            lambda: self.round,
            lambda name: self.ledger.told(name) if self.mirrored else 0,
        )
        self.gather = Gather(
            self.identity,
            self.transport,
            self.clock,
            self.peers,
            self.config.round,
            self.replicas.point,
            self.follow,
            self.storage.scratch,
            self.attach,
            {
                wire_kind(kind): max_statistics_bytes(wire_kind(kind), self.manifest)
                for kind in sorted(self.measuring.kinds)
            },
            self.events,
            self._pull_failed,
        )
        self.membership.watch(self._member_changed)
        await self.service.announce(self.log.last_round)
        await self.transport.serve(self.service)
        self.membership.moved(self.transport.address)

    def _member_changed(self, before: Member | None, claim: Member) -> None:
        """Write down who came, went, or is suspected, and let rounds wait for nobody who is gone."""
        if claim.state is MemberState.SUSPECT:
            self.events.emit("suspect", name=claim.name, incarnation=claim.incarnation)
        if (before is not None and before.state.live) != claim.state.live:
            view = self.membership.view()
            changed = {"name": claim.name, "state": claim.state.name.lower(), "incarnation": claim.incarnation}
            self.events.emit("view", view=view.id, members=len(view.members), **changed)

        if before is not None and (not claim.state.live or claim.incarnation > before.incarnation):
            self.gather.drop(claim.name)
        elif before is not None and claim.age > before.age:
            self.gather.welcome(claim.name)

    def _pull_failed(self, peer: str, error: PeermergeError) -> None:
        if isinstance(error, TransportError):
            self.gossip.doubt(peer)

    async def close(self) -> None:
        """End what is under way with peers."""
        await self.gather.close()
        await self.transport.close()

    def plan(self) -> Plan:
        """Return the plan of the current round."""
        return plan(self.schedule, self.round)

    def offers(self, view: View, planned: Plan) -> dict[str, float]:
        """Return the neighbours of a round with the mixing weights we offer them."""
        if planned.everyone:
            others = [name for name in view.names if name != self.name]
            return dict.fromkeys(others, 1 / len(view.names))
        return neighbours(self.topology, view.names, self.name, planned.round, self.config.topology.weights)

    def partners(self, view: View) -> tuple[str, ...]:
        """Return whom we may meet in some round: their replicas are kept."""
        return partners(self.topology, view.names, self.name)

    def strangers(self, view: View, offers: Mapping[str, float]) -> list[str]:
        """Return those of a full merge whose replicas we do not keep."""
        return sorted(set(offers) - set(self.partners(view)))

    def dense(self, view: View, planned: Plan) -> bool:
        """Whether the round's graph is dense: many corrections add up at once."""
        return is_dense(graph(self.topology, view.names, planned.round), len(view.names))

    @property
    def linear(self) -> bool:
        """Whether contributions may be accumulated one by one."""
        return isinstance(self.method, WeightedMean) and self.config.merge.weights == "mixing"

    @property
    def contribution(self) -> Contribution:
        """Our own state as a merge takes it; its weight is what the others leave."""
        seed = edge_seed(self.name, self.name, self.round)
        return Contribution(self.name, self.own, 0.0, seed=seed, statistics=self.statistics)

    @property
    def own(self) -> State:
        """Our own state as merges take it: the published one, or what it would be if the disk had taken it."""
        return self.log.state if self.unpublished is None else self.unpublished

    @property
    def mirrored(self) -> bool:
        """Whether both ends of an edge move by opposite amounts: then a missed merge can be paid back."""
        return self.linear and self.config.round.mode == "sync"

    # ---- Work on states: runs as the clock's work. ----

    def follow(self, peer: str, header: Header, frame: Blob) -> Replica:
        """Apply a frame to a peer's replica, first paying back what the peer merged of us and we missed of it."""

        def settle(theirs: State | None) -> None:
            if self.mirrored and (owed := self.ledger.settle(self.name, header)):
                self._pay(theirs, owed)

        replica = self.replicas.apply(peer, header, frame, settle)
        place = {"epoch": header.epoch, "from_version": header.from_version, "version": header.version}
        self.events.emit("applied", peer=peer, round=header.round, sha256=header.frame_sha256.hex()[:SHORT], **place)
        if header.version > 1 and not header.from_version:
            settle(None)  # a snapshot tells of a merge and not of the state it was made with
        return replica

    def measure(self) -> None:
        """Measure what the merge needs to know of our tensors, and lay it out for peers. Raises DegradedError."""
        packed = self.measuring.measure()
        self.statistics = {kind: Measured.open(data, kind, self.manifest) for kind, data in packed.items()}
        self.attachments = keep(self.storage, {wire_kind(kind): data for kind, data in packed.items()})

    def attach(self, peer: str, attachments: Attachments) -> None:
        """Take up what came beside a peer's newest frame; what cannot be used is noted with its reason."""
        if replica := self.replicas.get(peer):
            replica.statistics = {
                kind: self._opened(peer, kind, attachments[wire_kind(kind)]) for kind in self.measuring.kinds
            }

    def _opened(self, peer: str, kind: str, found: Blob | PeermergeError) -> Measured | Refusal:
        try:
            if isinstance(found, PeermergeError):
                raise found
            return Measured.open(found, kind, self.manifest)
        except (PeermergeError, OSError) as error:
            known = error if isinstance(error, PeermergeError) else DegradedError(f"statistics of {peer}: {error}")
            self.peers[peer].fail(known)
            return known.refusal if isinstance(known, PeerError) else Refusal.NO_STATISTICS

    def owe(self, own: State, contribution: Contribution) -> None:
        """Add a contribution to what the next correction holds beyond its merge."""
        if not len(self.debt):
            self.debt = torch.zeros(self.manifest.length, device=self.device)
        for t, correction in corrections(
            WeightedMean(), Contribution(self.name, own, 0.0), [contribution], "own", self.params.base
        ):
            self.debt[self.params.place(t)] += correction

    def _pay(self, theirs: State | None, owed: Merged) -> None:
        own = None if theirs is None else self.log.state_at(owed.version)
        if theirs is None or own is None:
            self.progress.unpaid_weight += owed.weight
        else:
            self.owe(own, Contribution("", theirs, owed.weight, owed.gamma, owed.fresh))

    # ---- Durability. ----

    def save(self) -> None:
        """Write a checkpoint. Raises DegradedError."""
        self.params.collect()
        self.replicas.flush()
        checkpoints.save(
            self.storage,
            Checkpoint(
                round=self.round,
                epoch=self.log.epoch,
                version=self.log.version,
                tau=self.params.tau,
                state={
                    "workload": self.workload.state_dict(),
                    "debt": self.debt,
                    "rest": self._rest(),
                    "generators": generators(self.rng, self.device),
                },
                ledger=self.ledger.to_json(),
                pace={name: smoothed.value for name in PACE if (smoothed := getattr(self, name)).seen},
            ),
        )

    def recover(self) -> list[str]:
        """Take up the newest checkpoint and what the log knows beyond it; return warnings.

        Without any checkpoint the published state alone is taken up.
        """
        saved, damaged = checkpoints.load(self.storage)
        warnings = [f"{name} is damaged and was passed over" for name in [*damaged, *self.log.dropped]]
        if saved is None and not self.log.version:
            self._start_noise()
            return warnings
        tau, self.round = resume(saved, self.log)
        if tau.shape != self.params.tau.shape:
            raise ConfigError("the checkpoint is for another model; use --fresh or another --data-dir")
        self.params.tau.copy_(tau)
        if saved is not None:
            self.workload.load_state_dict(saved.state["workload"])
            self.debt = saved.state["debt"].to(self.device)
            self.workload.model.load_state_dict(saved.state["rest"], strict=False)
            restore_generators(saved.state.get("generators", {}), self.rng, self.device)
            self.ledger = Ledger.from_json(saved.ledger)
            self.ledger.replay(self.log.headers(saved.version) if saved.epoch == self.log.epoch else ())
            for name, value in saved.pace.items():
                setattr(self, name, Smoothed(value, True))
        self.params.write()
        return warnings

    def _rest(self) -> dict[str, torch.Tensor]:
        """Return the model's tensors that the manifest leaves out: counters, local statistics, what is frozen."""
        taking_part = {spec.name for spec in self.manifest.tensors}
        return {n: t for n, t in self.workload.model.state_dict().items() if n not in taking_part}

    def _start_noise(self) -> None:
        scale = self.config.node.start_noise
        if scale:
            generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + self.config.task.index)
            for spec, place in self.manifest.slices():
                if not spec.name.endswith("running_var"):
                    self.params.tau[place] = (scale * torch.randn(spec.size, generator=generator)).to(self.device)
            self.params.write()
