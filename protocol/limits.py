"""Every bound on received data, in one place; each is checked before memory is taken."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
FRAME_VERSION: Final = 1
STATISTICS_VERSION: Final = 1

ALIGNMENT: Final = 64
"""Every tensor starts at a multiple of this many entries in the flat index space."""

MAX_TENSORS: Final = 1 << 20
MAX_PARAMETERS: Final = 1 << 40
MAX_NAME: Final = 512

LOG2_SEGMENT: Final = 20
"""Segments are 2^20 places long, or longer where entries are few."""
MIN_LOG2_SEGMENT: Final = 12
MAX_LOG2_SEGMENT: Final = 24
MAX_SEGMENT_ENTRIES: Final = 1 << 20
"""However long a segment is: a decoder's working memory is that of so many entries."""
FEW_SEGMENTS: Final = 64
"""So many segments are always allowed; see `max_segments`."""

MAX_LEVEL: Final = (1 << 30) - 1
"""Levels of frames and of accumulated states stay strictly below 2^30 in magnitude."""
MIN_EXPONENT: Final = -126
"""1 * 2^-126 is the smallest normal float32: no level is ever subnormal."""
MAX_EXPONENT: Final = 97
"""2^30 * 2^97 is still a finite float32."""
GRID_BITS: Final = 24
"""A tensor's grid is at most this many bits finer than its largest base value."""

MAX_HEADER_BYTES: Final = 1 << 20
"""An envelope's serialized header."""
MAX_ATTACHMENTS: Final = 16
MAX_ATTACHMENT_BYTES: Final = 1 << 30
MAX_STATISTIC: Final = 2.0**60
"""Nothing that is measured is larger: squares of it are finite in float32."""
MAX_MEMBERS: Final = 10_000
MAX_VIEW_EPOCH: Final = 1 << 62
"""What a coordinator takes from others; its own epochs go on from there."""
MAX_SUGGESTION_BYTES: Final = 4096
MAX_SUGGESTIONS: Final = 64
MAX_INCARNATION: Final = 1 << 53
"""More starts than any process has; beyond it nobody could outdo a claim about itself."""
MAX_REFUTED: Final = (1 << 32) - 1
MAX_ADDRESS: Final = 256
MAX_PRESENCE_BYTES: Final = 1024
"""A member's claim as a broker passes it on."""
NODE_NAME: Final = r"[a-z0-9][a-z0-9-]{0,62}"

CHUNK_BYTES: Final = 1 << 20
MAX_MESSAGE_BYTES: Final = CHUNK_BYTES + (1 << 16)
MAX_PARKED_PULLS: Final = 256
"""Pulls that wait for a version at one time, over all peers."""
MAX_STREAMS_PER_PEER: Final = 8


def max_segments(length: int, body_length: int) -> int:
    """Return how many segments a frame may have: what each costs a decoder is paid for by places or by bytes."""
    return FEW_SEGMENTS + (length >> LOG2_SEGMENT) + (body_length >> 12)


def max_frame_bytes(parameters: int, tensors: int) -> int:
    """Return the largest frame a model of this size can need: 8 bytes a parameter and its tables."""
    return 4096 + 256 * (1 + (parameters >> MIN_LOG2_SEGMENT)) + tensors + 8 * parameters
