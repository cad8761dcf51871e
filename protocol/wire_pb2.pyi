from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("name", "address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("network", "run", "name", "incarnation", "have", "wait_round", "wait_s", "partial", "offset", "snapshot")
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
    def __init__(self, network: _Optional[str] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., incarnation: _Optional[int] = ..., have: _Optional[_Union[Point, _Mapping]] = ..., wait_round: _Optional[int] = ..., wait_s: _Optional[float] = ..., partial: _Optional[bytes] = ..., offset: _Optional[int] = ..., snapshot: bool = ...) -> None: ...

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
    __slots__ = ("node", "network", "run", "address", "software", "round", "rounds", "phase", "epoch", "version", "metrics", "peers", "uptime_s", "memory_bytes", "residue", "omega", "gamma", "consensus_distance", "compression_ratio", "bytes_in", "bytes_out", "deadline_s", "unpaid_weight", "warnings", "insecure", "device", "incarnation", "parameters", "members")
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
    def __init__(self, node: _Optional[str] = ..., network: _Optional[str] = ..., run: _Optional[str] = ..., address: _Optional[str] = ..., software: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., phase: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., uptime_s: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., residue: _Optional[float] = ..., omega: _Optional[float] = ..., gamma: _Optional[float] = ..., consensus_distance: _Optional[float] = ..., compression_ratio: _Optional[float] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., deadline_s: _Optional[float] = ..., unpaid_weight: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., insecure: bool = ..., device: _Optional[str] = ..., incarnation: _Optional[int] = ..., parameters: _Optional[int] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("name", "address", "epoch", "version", "round", "staleness", "bytes_in", "bytes_out", "round_trip_s", "consensus_distance", "weight", "merged", "skipped", "skipped_reasons", "last_error", "arrival_s")
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
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., round: _Optional[int] = ..., staleness: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ..., round_trip_s: _Optional[float] = ..., consensus_distance: _Optional[float] = ..., weight: _Optional[float] = ..., merged: _Optional[int] = ..., skipped: _Optional[int] = ..., skipped_reasons: _Optional[_Mapping[str, int]] = ..., last_error: _Optional[str] = ..., arrival_s: _Optional[float] = ...) -> None: ...

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
