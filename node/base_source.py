"""What `node.base` asks for: a file, what any peer has, or what has a certain digest."""

from __future__ import annotations

from ..protocol.errors import ConfigError
from ..protocol.parts import ANY_BASE

PEERS = "peers"
"""As `node.base`: what the first peer has."""
DIGEST = "sha256:"
"""As `node.base`: what a peer has under that digest."""


def wanted(base: str | None) -> bytes | None:
    """Return the digest that `node.base` asks peers for, or None if it names a file or nothing. Raises ConfigError."""
    if base == PEERS:
        return ANY_BASE
    if base is None or not base.startswith(DIGEST):
        return None
    digest = read_digest(base.removeprefix(DIGEST))
    if not digest or digest == ANY_BASE:
        raise ConfigError("write sha256: and the 64 hexadecimal digits of a base's digest")
    return digest


def read_digest(name: str) -> bytes:
    """Return the digest that hexadecimal digits stand for, or nothing if they stand for none."""
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return b""
    return digest if len(digest) == len(ANY_BASE) else b""
