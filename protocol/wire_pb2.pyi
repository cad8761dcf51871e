from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemberState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALIVE: _ClassVar[MemberState]
    SUSPECT: _ClassVar[MemberState]
    DEAD: _ClassVar[MemberState]
    LEFT: _ClassVar[MemberState]
ALIVE: MemberState
SUSPECT: MemberState
DEAD: MemberState
LEFT: MemberState

class Point(_message.Message):
    __slots__ = ("epoch", "version", "chain", "state")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    version: int
    chain: bytes
    state: int
    def __init__(self, epoch: _Optional[int] = ..., version: _Optional[int] = ..., chain: _Optional[bytes] = ..., state: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "address", "incarnation", "refuted", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REFUTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    incarnation: int
    refuted: int
    state: MemberState
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., refuted: _Optional[int] = ..., state: _Optional[_Union[MemberState, str]] = ...) -> None: ...

class GossipMessage(_message.Message):
    __slots__ = ("protocol", "network", "run", "name", "round", "target", "news", "roster", "all", "doubts")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    DOUBTS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    network: str
    run: str
    name: str
    round: int
    target: str
    news: _containers.RepeatedCompositeFieldContainer[Member]
    roster: int
    all: bool
    doubts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., network: _Optional[str] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., round: _Optional[int] = ..., target: _Optional[str] = ..., news: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., roster: _Optional[int] = ..., all: bool = ..., doubts: _Optional[_Iterable[str]] = ...) -> None: ...

class HelloMessage(_message.Message):
    __slots__ = ("protocol", "network", "run", "name", "address", "incarnation", "manifest", "base", "members", "round", "published", "held", "capabilities")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    network: str
    run: str
    name: str
    address: str
    incarnation: int
    manifest: bytes
    base: bytes
    members: _containers.RepeatedCompositeFieldContainer[Member]
    round: int
    published: Point
    held: Point
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., network: _Optional[str] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., manifest: _Optional[bytes] = ..., base: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., round: _Optional[int] = ..., published: _Optional[_Union[Point, _Mapping]] = ..., held: _Optional[_Union[Point, _Mapping]] = ..., capabilities: _Optional[_Iterable[str]] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("network", "run", "name", "incarnation", "have", "wait_round", "wait_s", "partial", "offset", "snapshot", "base")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    WAIT_ROUND_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    name: str
    incarnation: int
    have: Point
    wait_round: int
    wait_s: float
    partial: bytes
    offset: int
    snapshot: bool
    base: bytes
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., incarnation: _Optional[int] = ..., have: _Optional[_Union[Point, _Mapping]] = ..., wait_round: _Optional[int] = ..., wait_s: _Optional[float] = ..., partial: _Optional[bytes] = ..., offset: _Optional[int] = ..., snapshot: bool = ..., base: _Optional[bytes] = ...) -> None: ...

class PullPart(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Header(_message.Message):
    __slots__ = ("protocol", "network", "run", "view", "sender", "incarnation", "epoch", "version", "from_version", "round", "base", "manifest", "chain", "state", "frame_bytes", "frame_sha256", "omega", "edges", "local_steps", "samples", "metrics", "attachments", "fresh")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAME_SHA256_FIELD_NUMBER: _ClassVar[int]
    OMEGA_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    network: str
    run: str
    view: int
    sender: str
    incarnation: int
    epoch: int
    version: int
    from_version: int
    round: int
    base: bytes
    manifest: bytes
    chain: bytes
    state: int
    frame_bytes: int
    frame_sha256: bytes
    omega: float
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    local_steps: int
    samples: int
    metrics: _containers.ScalarMap[str, float]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    fresh: float
    def __init__(self, protocol: _Optional[int] = ..., network: _Optional[str] = ..., run: _Optional[str] = ..., view: _Optional[int] = ..., sender: _Optional[str] = ..., incarnation: _Optional[int] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., from_version: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[bytes] = ..., manifest: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., state: _Optional[int] = ..., frame_bytes: _Optional[int] = ..., frame_sha256: _Optional[bytes] = ..., omega: _Optional[float] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ..., local_steps: _Optional[int] = ..., samples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ..., fresh: _Optional[float] = ...) -> None: ...

class Edge(_message.Message):
    __slots__ = ("peer", "weight", "merged_epoch", "merged_version", "merged_weight", "merged_gamma", "merged_fresh")
    PEER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MERGED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MERGED_VERSION_FIELD_NUMBER: _ClassVar[int]
    MERGED_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MERGED_GAMMA_FIELD_NUMBER: _ClassVar[int]
    MERGED_FRESH_FIELD_NUMBER: _ClassVar[int]
    peer: str
    weight: float
    merged_epoch: int
    merged_version: int
    merged_weight: float
    merged_gamma: float
    merged_fresh: float
    def __init__(self, peer: _Optional[str] = ..., weight: _Optional[float] = ..., merged_epoch: _Optional[int] = ..., merged_version: _Optional[int] = ..., merged_weight: _Optional[float] = ..., merged_gamma: _Optional[float] = ..., merged_fresh: _Optional[float] = ...) -> None: ...

class Attachment(_message.Message):
    __slots__ = ("kind", "bytes", "sha256")
    KIND_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    kind: str
    bytes: int
    sha256: bytes
    def __init__(self, kind: _Optional[str] = ..., bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("header", "signature")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    signature: bytes
    def __init__(self, header: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "network", "run", "address", "software", "round", "rounds", "phase", "epoch", "version", "metrics", "peers", "uptime_s", "memory_bytes", "residue", "omega", "gamma", "consensus_distance", "compression_ratio", "bytes_in", "bytes_out", "deadline_s", "unpaid_weight", "warnings", "insecure", "device", "incarnation", "parameters", "members", "view", "coordinator", "broker", "roster", "health", "arrival_median_s", "arrival_spread_s", "telemetry_dropped")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDUE_FIELD_NUMBER: _ClassVar[int]
    OMEGA_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    CONSENSUS_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_RATIO_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    UNPAID_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    BROKER_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_MEDIAN_S_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_SPREAD_S_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_DROPPED_FIELD_NUMBER: _ClassVar[int]
    node: str
    network: str
    run: str
    address: str
    software: str
    round: int
    rounds: int
    phase: str
    epoch: int
    version: int
    metrics: _containers.ScalarMap[str, float]
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    uptime_s: float
    memory_bytes: int
    residue: float
    omega: float
    gamma: float
    consensus_distance: float
    compression_ratio: float
    bytes_in: int
    bytes_out: int
    deadline_s: float
    unpaid_weight: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    insecure: bool
    device: str
    incarnation: int
    parameters: int
    members: _containers.RepeatedScalarFieldContainer[str]
    view: int
    coordinator: str
    broker: str
    roster: _containers.RepeatedCompositeFieldContainer[Member]
    health: int
    arrival_median_s: float
    arrival_spread_s: float
    telemetry_dropped: int
    def __init__(self, node: _Optional[str] = ..., network: _Optional[str] = ..., run: _Optional[str] = ..., address: _Optional[str] = ..., software: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., phase: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., uptime_s: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., residue: _Optional[float] = ..., omega: _Optional[float] = ..., gamma: _Optional[float] = ..., consensus_distance: _Optional[float] = ..., compression_ratio: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., deadline_s: _Optional[float] = ..., unpaid_weight: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., insecure: bool = ..., device: _Optional[str] = ..., incarnation: _Optional[int] = ..., parameters: _Optional[int] = ..., members: _Optional[_Iterable[str]] = ..., view: _Optional[int] = ..., coordinator: _Optional[str] = ..., broker: _Optional[str] = ..., roster: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., health: _Optional[int] = ..., arrival_median_s: _Optional[float] = ..., arrival_spread_s: _Optional[float] = ..., telemetry_dropped: _Optional[int] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("name", "address", "epoch", "version", "round", "staleness", "bytes_in", "bytes_out", "round_trip_s", "consensus_distance", "weight", "merged", "skipped", "skipped_reasons", "last_error", "arrival_s", "state", "failures", "retry_s", "waited_for")
    class SkippedReasonsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_S_FIELD_NUMBER: _ClassVar[int]
    CONSENSUS_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_REASONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_S_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    RETRY_S_FIELD_NUMBER: _ClassVar[int]
    WAITED_FOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    epoch: int
    version: int
    round: int
    staleness: int
    bytes_in: int
    bytes_out: int
    round_trip_s: float
    consensus_distance: float
    weight: float
    merged: int
    skipped: int
    skipped_reasons: _containers.ScalarMap[str, int]
    last_error: str
    arrival_s: float
    state: MemberState
    failures: int
    retry_s: float
    waited_for: bool
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., round: _Optional[int] = ..., staleness: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., round_trip_s: _Optional[float] = ..., consensus_distance: _Optional[float] = ..., weight: _Optional[float] = ..., merged: _Optional[int] = ..., skipped: _Optional[int] = ..., skipped_reasons: _Optional[_Mapping[str, int]] = ..., last_error: _Optional[str] = ..., arrival_s: _Optional[float] = ..., state: _Optional[_Union[MemberState, str]] = ..., failures: _Optional[int] = ..., retry_s: _Optional[float] = ..., waited_for: bool = ...) -> None: ...

class PeersReply(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    def __init__(self, peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class MeshView(_message.Message):
    __slots__ = ("epoch", "members")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("network", "run", "member")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    member: Member
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., member: _Optional[_Union[Member, _Mapping]] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("view", "heartbeat_s", "suggestions")
    class SuggestionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VIEW_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    view: MeshView
    heartbeat_s: float
    suggestions: _containers.ScalarMap[str, str]
    def __init__(self, view: _Optional[_Union[MeshView, _Mapping]] = ..., heartbeat_s: _Optional[float] = ..., suggestions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("network", "run", "member", "epoch", "round")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    member: Member
    epoch: int
    round: int
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., member: _Optional[_Union[Member, _Mapping]] = ..., epoch: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("view", "heartbeat_s")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    view: MeshView
    heartbeat_s: float
    def __init__(self, view: _Optional[_Union[MeshView, _Mapping]] = ..., heartbeat_s: _Optional[float] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("network", "run", "member")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    member: Member
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., member: _Optional[_Union[Member, _Mapping]] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("network", "run")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class OverviewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OverviewReply(_message.Message):
    __slots__ = ("software", "uptime_s", "meshes", "suggestions", "warnings")
    class SuggestionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MESHES_FIELD_NUMBER: _ClassVar[int]
    SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    software: str
    uptime_s: float
    meshes: _containers.RepeatedCompositeFieldContainer[MeshOverview]
    suggestions: _containers.ScalarMap[str, str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, software: _Optional[str] = ..., uptime_s: _Optional[float] = ..., meshes: _Optional[_Iterable[_Union[MeshOverview, _Mapping]]] = ..., suggestions: _Optional[_Mapping[str, str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class MeshOverview(_message.Message):
    __slots__ = ("network", "run", "epoch", "members")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    network: str
    run: str
    epoch: int
    members: _containers.RepeatedCompositeFieldContainer[MemberOverview]
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., epoch: _Optional[int] = ..., members: _Optional[_Iterable[_Union[MemberOverview, _Mapping]]] = ...) -> None: ...

class MemberOverview(_message.Message):
    __slots__ = ("member", "silent_s", "round")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    member: Member
    silent_s: float
    round: int
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., silent_s: _Optional[float] = ..., round: _Optional[int] = ...) -> None: ...
