"""What a user chooses: the tables of node.toml and of a simulation, each key with its meaning.

`RunConfig` is what all nodes of a run share; `NodeConfig` adds what is one machine's own;
`SimulationConfig` adds how many nodes to play and how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from ..protocol.errors import ConfigError
from ..protocol.limits import GRID_BITS, NODE_NAME
from ..protocol.settings import STRICT
from ..protocol.settings import load as load
from ..protocol.settings import parse as parse
from ..protocol.settings import parse_value as parse_value
from ..protocol.settings import put as put
from .base_source import wanted
from .broker import parse_broker


def _read_by(parser: Callable[[str], object]) -> AfterValidator:
    """Return what refuses the texts that a parser refuses."""

    def checked(text: str) -> str:
        try:
            parser(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(checked)


Name = Annotated[str, Field(pattern=f"^{NODE_NAME}$")]
DENSITY = 0.1
"""What is published of sparse tensors where no budget is given."""
Share = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the file: immutable, and closed to unknown keys."""

    model_config = STRICT


class TaskConfig(Section):
    """What is trained."""

    name: str = "digits"
    """A built-in task, or `module:factory` of your own."""
    arguments: dict[str, Any] = {}
    """Handed to the factory."""
    index: Annotated[int, Field(ge=0)] = 0
    """Which shard of the data this node holds, counted from 0."""
    count: Annotated[int, Field(ge=1)] = 1
    """Into how many shards the data is split; 1: this node holds all of it."""


class TopologyConfig(Section):
    """Who is whose neighbour."""

    name: str = "complete"
    """ring, complete, star, torus, exponential, one-peer-exponential, random-regular, erdos-renyi,
    random-neighbour or edges."""
    parameters: dict[str, Any] = {}
    """The topology's own, such as degree or seed."""
    weights: Literal["metropolis", "uniform"] = "metropolis"
    """How mixing weights follow from degrees; both are symmetric and doubly stochastic."""


class ScheduleConfig(Section):
    """When to train and when to merge."""

    rounds: Annotated[int, Field(ge=0)] = 30
    """0 goes on until told to stop."""
    local_steps: Annotated[int, Field(ge=0)] = 10
    """Training steps between two rounds."""
    merge: Literal["every", "none", "final"] = "every"
    """In every `every`-th round, never, or in the last round only."""
    every: Annotated[int, Field(ge=1)] = 1
    """Merge in every so many rounds."""
    final: Literal["none", "all"] = "none"
    """`all`: the last round merges with every member, not only the neighbours."""


class PublishConfig(Section):
    """How much of the change is sent: give one of the budgets."""

    density: Share | None = None
    """Share of the entries of sparse tensors sent each round (default 0.1)."""
    bits: Annotated[float, Field(gt=0, le=32)] | None = None
    """Bits per parameter of sparse tensors; a frame's header and tables come on top."""
    relative_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Squared error over squared norm that may stay behind of sparse tensors."""
    lossless: bool = False
    """Everything, on a grid of 23 bits below each tensor's largest change: dense exchange."""
    selection: Literal["global", "tensor"] = "global"
    """Rank entries over the whole model, or within each tensor."""
    approximate: bool = False
    """Take the threshold from a sample: faster, the number of entries is right within 5 %."""
    effort: Literal["normal", "high"] = "normal"
    """How hard the coder tries: "high" takes some times longer and saves up to a few per cent of the bytes."""
    sparsifier: Literal["magnitude", "random"] = "magnitude"
    """Which entries go first: the largest changes, or any."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [k for k in ("density", "bits", "relative_error") if getattr(self, k) is not None]
        if len(given) + self.lossless > 1:
            raise ValueError(f"give one budget, not {', '.join(given)}{' and lossless' if self.lossless else ''}")
        if self.sparsifier == "random" and (self.bits is not None or self.relative_error is not None):
            raise ValueError("sparsifier = 'random' needs a density: only the largest entries can meet other budgets")
        return self


class MergeConfig(Section):
    """How neighbours' states become a correction."""

    method: str = "weighted-mean"
    """One of those that `peermerge methods` lists."""
    parameters: dict[str, Any] = {}
    """The method's own, such as density or scale."""
    after: list[dict[str, Any]] = []
    """Steps after the method, in order: tables with `step` (`peermerge methods` lists them too) and its parameters."""
    reference: Literal["own", "base"] = "own"
    """Merge relative to oneself (rounds) or to the base (one-shot and final merges)."""
    weights: Literal["mixing", "loss", "steps", "samples"] = "mixing"
    """Weigh contributors as the topology says or, relative to the base, by what each reports of its training."""
    gamma: Literal["measured"] | Share = "measured"
    """Step of the correction; a number is an expert's choice."""
    statistics: Literal["merge", "reestimate", "local"] = "merge"
    """Normalisation buffers: merged like weights, merged and re-estimated on local data, or kept."""
    optimizer: Literal["keep", "reset"] = "keep"
    """Local optimizer state after a merge."""

    @model_validator(mode="after")
    def _weights_of_edges_are_agreed(self) -> Self:
        if self.weights != "mixing" and self.reference == "own":
            raise ValueError(
                f"weights = '{self.weights}' needs reference = 'base': in rounds both ends of an edge agree"
            )
        return self


class RoundConfig(Section):
    """How long a round waits for whom."""

    mode: Literal["sync", "async"] = "sync"
    """Wait for the neighbours' versions of the round, or merge what is there."""
    quorum: Share = 1.0
    """Share of the neighbours that closes the wait early."""
    floor_s: Seconds = 2.0
    """The adaptive deadline is never shorter."""
    ceiling_s: Seconds = 60.0
    """The adaptive deadline is never longer."""
    deviations: Annotated[float, Field(gt=0)] = 6.0
    """Deadline = median of recent arrivals + this many median absolute deviations."""
    min_rate_bytes_s: Annotated[float, Field(gt=0)] = 65536.0
    """A transfer that is slower than this over its whole length is given up; the next goes on where it ended."""
    staleness: Annotated[int, Field(ge=0)] = 2
    """Rounds that a state may lie behind ours and still be merged in async mode; further behind, a node jumps."""
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    """Evaluate in every so many rounds; 0: only after the last."""


class GuardConfig(Section):
    """Which valid states take part in a merge."""

    norm_gate: Annotated[float, Field(ge=0)] = 10.0
    """Skip a neighbour further away than this many times the median neighbour; 0: never."""
    alarm_rounds: Annotated[int, Field(ge=2)] = 10
    """Warn of divergence when residue or consensus distance rose this many rounds running."""


class LogConfig(Section):
    """What is kept of the published state."""

    retention: Annotated[int, Field(ge=1)] = 64
    """Versions kept as a tail; older points are served a snapshot."""
    retention_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    """Bytes kept as a tail, whatever `retention` allows; 0: any number."""
    grid_bits: Annotated[int, Field(ge=4, le=GRID_BITS)] = GRID_BITS
    """Finest grid: this many bits below the largest base value of a tensor (below 1 where the base is zero)."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 10
    """Rounds between checkpoints; 0: only at the end."""


class RunConfig(Section):
    """What all nodes of a run share."""

    network: Name = "peermerge"
    """Nodes of different networks refuse each other."""
    run: Name = "run"
    """Nodes of different runs refuse each other too."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds data split, initial model and random draws; equal on all nodes."""
    include: tuple[str, ...] = ()
    """Only tensors whose names match one of these patterns take part (empty: all that train)."""
    exclude: tuple[str, ...] = ()
    """Tensors that stay personal."""
    task: TaskConfig = TaskConfig()
    topology: TopologyConfig = TopologyConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    publish: PublishConfig = PublishConfig()
    merge: MergeConfig = MergeConfig()
    round: RoundConfig = RoundConfig()
    guard: GuardConfig = GuardConfig()
    log: LogConfig = LogConfig()


class ThisNode(Section):
    """What is one machine's own."""

    name: Name = "node"
    """Unique in the run; identifies the node over restarts."""
    listen: str = "127.0.0.1:0"
    """HOST:PORT to serve peers on; port 0 takes any free one."""
    advertise: str | None = None
    """What peers dial, where it differs from `listen` (containers, NAT)."""
    data_dir: str = "peermerge-data"
    """Where log, replicas and checkpoints are kept; one process at a time."""
    device: str = "auto"
    """auto, cpu, or cuda:0 and the like."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Of torch and of the codec; 0: torch's own choice, and one per core for the codec."""
    base: Annotated[str, _read_by(wanted)] | None = None
    """The weights everybody starts from: a safetensors file; `peers`: what the first peer has; sha256:HEX: what a
    peer has under that digest. Default: the task's initial model."""
    start: Literal["base", "neighbours"] = "base"
    """Where a newcomer to a running mesh begins: at the base, or at the mean of its neighbours."""
    insecure: bool = False
    """Allow plain text beyond the loopback interface."""
    bandwidth_bytes_s: Annotated[float, Field(ge=0)] = 0
    """Upper bound on what this node sends; 0: none."""
    metrics: str | None = None
    """HOST:PORT of a Prometheus page."""
    start_noise: Annotated[float, Field(ge=0)] = 0
    """Start this far (standard deviation) from the base: for consensus experiments."""
    linger_s: Annotated[float, Field(ge=0)] = 10.0
    """After the last round, serve until every neighbour has it, at most this long."""
    stay: bool = False
    """Keep serving after the last round until stopped."""


class MembershipConfig(Section):
    """Who else is there."""

    peers: tuple[str, ...] = ()
    """HOST:PORT of nodes to greet first; they introduce the rest."""
    expect: Annotated[int, Field(ge=0)] = 0
    """Members, this one included, to wait for before the first round; 0: all peers listed."""
    wait_s: Seconds = 60.0
    """Go on without the missing after this long."""
    gossip: bool = True
    """Members watch each other and drop who died (SWIM); without it only who says so leaves."""
    probe_s: Seconds = 1.0
    """How often a member asks one other whether it lives."""
    suspect_s: Seconds = 2.0
    """How long a suspect has to answer if several members suspect it; three times as long if it is one alone."""
    sync_s: Seconds = 5.0
    """How often two members compare all they know, and one that was lost is tried again."""
    coordinator: str | None = None
    """HOST:PORT of a `peermerge-coordinator`: it introduces members. Nothing stops while it is away."""
    suggestions: bool = True
    """Take topology, schedule and density from the coordinator where this file does not set them."""
    mqtt: Annotated[str, _read_by(parse_broker)] | None = None
    """mqtt://[USER:PASSWORD@]HOST[:PORT] of a broker where members announce themselves."""
    telemetry: bool = True
    """Publish each round's figures to the broker too."""


class NodeConfig(RunConfig):
    """node.toml."""

    node: ThisNode = ThisNode()
    membership: MembershipConfig = MembershipConfig()


class Play(Section):
    """How many nodes to play, and on what."""

    nodes: Annotated[int, Field(ge=1)] = 5
    """How many."""
    network: Literal["memory", "grpc"] = "memory"
    """One process with virtual time, or real daemons over the loopback interface."""
    baselines: tuple[Literal["alone", "dense", "central"], ...] = ("alone", "dense", "central")
    """What to compare with."""
    start_noise: Annotated[float, Field(ge=0)] = 0
    """Nodes start this far (standard deviation) from the base: for consensus experiments."""
    gossip: bool = False
    """Let members watch each other as real nodes do; without it all are members to the end."""
    latency_s: Annotated[float, Field(ge=0)] = 0.01
    """One-way delay of the memory network, virtual."""
    rate_bytes_s: Annotated[float, Field(gt=0)] = 12.5e6
    """What a link of the memory network carries."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the memory network's messages that are lost."""
    loss_until: Annotated[int, Field(ge=0)] = 0
    """Messages are lost only before this round; 0: always."""
    step_s: Annotated[float, Field(ge=0)] = 0.01
    """Virtual seconds that a training step costs on the memory network."""
    device: str = "cpu"
    """Where all nodes compute."""


class SimulationConfig(RunConfig):
    """A simulation's TOML."""

    simulation: Play = Play()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the keys in which two configurations differ, with both values."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: was {_shown(a)}, is {_shown(b)}")
    return lines


def _shown(value: object) -> str:
    return "not set" if value is None else repr(value)
