"""Checks of single fields in what a stranger sent."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from google.protobuf.message import DecodeError, Message

from .errors import EnvelopeError, Refusal
from .limits import MAX_ADDRESS, MAX_HEADER_BYTES, NODE_NAME

_NAME = re.compile(NODE_NAME)
DIGEST = 32


def parse(message: Message, data: bytes) -> None:
    """Read a message's bytes into `message`; raises EnvelopeError."""
    if len(data) > MAX_HEADER_BYTES:
        raise EnvelopeError(Refusal.OVERSIZE, f"{len(data)} bytes")
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise EnvelopeError(Refusal.BAD_HEADER, "not a message of this protocol") from error


@lru_cache(maxsize=1024)
def name(text: str) -> str:
    """Return a name that follows the rules; raises EnvelopeError."""
    if not _NAME.fullmatch(text):
        raise EnvelopeError(Refusal.BAD_HEADER, f"name {text[:80]!r}")
    return text


def address(text: str) -> str:
    """Return an address of bounded length; raises EnvelopeError."""
    if len(text) > MAX_ADDRESS or not text.isprintable():
        raise EnvelopeError(Refusal.BAD_HEADER, "address")
    return text


def digest(data: bytes, *, optional: bool = False) -> bytes:
    """Return a digest of the right length (or none, where that is allowed); raises EnvelopeError."""
    if len(data) != DIGEST and not (optional and not data):
        raise EnvelopeError(Refusal.BAD_HEADER, f"digest of {len(data)} bytes")
    return data


def number(value: float) -> float:
    """Return a finite number that is not negative; raises EnvelopeError."""
    if not math.isfinite(value) or value < 0:
        raise EnvelopeError(Refusal.NON_FINITE, repr(value))
    return value


def share(value: float) -> float:
    """Return a number from 0 to 1; raises EnvelopeError."""
    if not 0 <= value <= 1:
        raise EnvelopeError(Refusal.BAD_HEADER, f"weight {value!r}")
    return value
