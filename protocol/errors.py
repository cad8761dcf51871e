"""Every error Peermerge raises on purpose. Whose fault it is decides the branch.

PeermergeError
├── ConfigError          the user's: a file, a flag, a value; the message names the cure
├── DataDirError         this machine's: the data directory is locked, unreadable or of another run
├── DegradedError        this machine's, for now: the disk is full or read-only; training goes on
├── DivergedError        the training's: this node's own weights are no longer finite
└── PeerError            another machine's, with a `Refusal` that also travels on the wire
    ├── FrameError       bytes that are no valid frame
    ├── EnvelopeError    a header that does not fit what is held or expected
    └── TransportError   the peer could not be reached, stalled or was cut off
"""

from __future__ import annotations

from enum import IntEnum


class Refusal(IntEnum):
    """Why something from a peer was refused or failed. Append only: the numbers travel on the wire."""

    TRANSPORT = 1
    DEADLINE = 2
    TRUNCATED = 3
    DIGEST_MISMATCH = 4
    BAD_MAGIC = 5
    UNSUPPORTED_VERSION = 6
    OVERSIZE = 7
    DECOMPRESS = 8
    BAD_HEADER = 9
    UNKNOWN_TENSOR = 10
    BAD_SHAPE = 11
    BAD_DTYPE = 12
    BAD_INDEX = 13
    NON_FINITE = 14
    NORM_OUTLIER = 15
    BASE_MISMATCH = 16
    NETWORK_MISMATCH = 17
    BAD_SIGNATURE = 18
    UNKNOWN_SENDER = 19
    REVOKED = 20
    REPLAYED = 21
    STALE = 22
    FUTURE_ROUND = 23
    DUPLICATE_ID = 24
    RATE_LIMITED = 25
    BUDGET_EXCEEDED = 26
    OUT_OF_BASIN = 27
    MANIFEST_MISMATCH = 28
    EQUIVOCATION = 29
    OVERFLOW = 30
    OUT_OF_SEQUENCE = 31
    NO_STATISTICS = 32
    OTHER_VIEW = 33
    ONE_SIDED = 34


SENTENCES: dict[Refusal, str] = {
    Refusal.TRANSPORT: "I could not reach you.",
    Refusal.DEADLINE: "You did not answer in time.",
    Refusal.TRUNCATED: "What you sent ends too early.",
    Refusal.DIGEST_MISMATCH: "What arrived is not what you announced: the digests differ.",
    Refusal.BAD_MAGIC: "This is not a Peermerge frame.",
    Refusal.UNSUPPORTED_VERSION: "I do not speak your version of the protocol.",
    Refusal.OVERSIZE: "This is larger than I accept.",
    Refusal.DECOMPRESS: "A compressed plane does not decompress to its stated size.",
    Refusal.BAD_HEADER: "The header or a table contradicts itself.",
    Refusal.UNKNOWN_TENSOR: "You name a tensor that the manifest does not list.",
    Refusal.BAD_SHAPE: "A tensor's shape differs from the manifest.",
    Refusal.BAD_DTYPE: "A tensor's type differs from the manifest.",
    Refusal.BAD_INDEX: "An entry lies outside its tensor.",
    Refusal.NON_FINITE: "A value is not finite.",
    Refusal.NORM_OUTLIER: "Your update is far larger than everybody else's.",
    Refusal.BASE_MISMATCH: "We did not start from the same base weights.",
    Refusal.NETWORK_MISMATCH: "We do not belong to the same network or run.",
    Refusal.BAD_SIGNATURE: "The signature does not verify.",
    Refusal.UNKNOWN_SENDER: "I do not know you.",
    Refusal.REVOKED: "Your certificate was revoked.",
    Refusal.REPLAYED: "I have already seen this version.",
    Refusal.STALE: "Your state is older than I merge.",
    Refusal.FUTURE_ROUND: "Your round is further ahead than I accept.",
    Refusal.DUPLICATE_ID: "Another process already uses your name.",
    Refusal.RATE_LIMITED: "You ask too often; come back later.",
    Refusal.BUDGET_EXCEEDED: "You ask for more bytes than I give.",
    Refusal.OUT_OF_BASIN: "Your weights do not lie in the same basin as mine.",
    Refusal.MANIFEST_MISMATCH: "Our models do not have the same tensors.",
    Refusal.EQUIVOCATION: "You showed two different states under one version.",
    Refusal.OVERFLOW: "Applying this would overflow the published state.",
    Refusal.OUT_OF_SEQUENCE: "This does not follow what I hold of you.",
    Refusal.NO_STATISTICS: "What my merge needs to know of your tensors did not come.",
    Refusal.ONE_SIDED: "You have not heard of my last merges of you: I wait until you ask for my state.",
    Refusal.OTHER_VIEW: "You published for other members than I see: this round we do not mix.",
}


class PeermergeError(Exception):
    """The root: catch it to catch everything Peermerge raises on purpose."""


class ConfigError(PeermergeError):
    """The user's choice cannot work: says where it stands and what would."""


class DataDirError(PeermergeError):
    """The data directory cannot be used: locked, unreadable, or of another run."""


class DegradedError(PeermergeError):
    """The disk refuses writes for now; the node trains on and retries."""


class DivergedError(PeermergeError):
    """This node's own weights are not finite: nothing of them is published."""


class PeerError(PeermergeError):
    """Something another machine sent or did; `refusal` is the reason in one word."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        self.refusal = refusal
        self.detail = detail
        super().__init__(f"{refusal.name}: {SENTENCES[refusal]}" + (f" ({detail})" if detail else ""))


class FrameError(PeerError):
    """Bytes that are no valid frame for our manifest."""


class EnvelopeError(PeerError):
    """A header that contradicts what is held of its sender, or what this run is."""


class TransportError(PeerError):
    """The peer could not be reached, stalled, or was cut off."""
