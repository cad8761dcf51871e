"""HOST:PORT as people write it, and as peers announce it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ConfigError
from .limits import MAX_ADDRESS

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_FORM = "write HOST:PORT, such as 192.0.2.7:50051, trainer.example:50051 or [::1]:50051"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an IP address, without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as `parse_address` reads it: IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; of names, only `localhost` is trusted to say so."""
        ip = _ip(self.host)
        return self.host.lower() == "localhost" if ip is None else ip.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every interface, which nobody can dial."""
        ip = _ip(self.host)
        return ip is not None and ip.is_unspecified


def parse_address(text: str, *, lowest_port: int = 1) -> Address:
    """Read HOST:PORT. Raises ConfigError; give `lowest_port=0` where 0 may stand for any free port."""
    if len(text) > MAX_ADDRESS:
        raise ConfigError(f"address of {len(text)} characters: {_FORM}")
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not lowest_port <= int(port) <= 65535:
        raise ConfigError(f"address {text!r} lacks a port from {lowest_port} to 65535: {_FORM}")
    return Address(_host(host, text), int(port))


def check_private(addresses: Mapping[str, str | None], permission: str) -> None:
    """Raise ConfigError if one of them, by key, is beyond this machine; `permission` is what would allow it."""
    for key, address in addresses.items():
        if address is not None and not parse_address(address, lowest_port=0).is_loopback:
            raise ConfigError(
                f"{key} = {address!r} is not on this machine and the connection would be plain text; "
                f"in a network you trust, allow it with {permission}"
            )


def _host(host: str, text: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    ip = _ip(bare)
    if bracketed != (ip is not None and ip.version == 6):
        raise ConfigError(f"address {text!r}: brackets go around IPv6 addresses and nothing else: {_FORM}")
    if ip is None and not _HOST_NAME.fullmatch(bare):
        raise ConfigError(f"address {text!r} names no host: {_FORM}")
    return bare


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
