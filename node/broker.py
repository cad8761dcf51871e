"""Where an MQTT broker is, as people write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ..protocol.addresses import Address, parse_address
from ..protocol.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}
_FORM = (
    "write mqtt://HOST, mqtt://HOST:PORT or mqtt://USER:PASSWORD@HOST:PORT (mqtts:// for TLS), with "
    "special characters of user and password percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are there."""

    place: Address
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Write it as status and messages may: without user and password."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.place}"


def parse_broker(url: str) -> Broker:
    """Read the URL of a broker. Raises ConfigError, which never repeats the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(_FORM) from None
    if parts.scheme not in PORTS:
        raise ConfigError(f"{_FORM}; it must begin with mqtt:// or mqtts://")
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"{_FORM}; nothing comes behind the port")
    if parts.password is not None and not parts.username:
        raise ConfigError(f"{_FORM}; a password needs a user")
    try:
        place = parse_address(str(Address(parts.hostname, PORTS[parts.scheme] if port is None else port)))
        place.host.encode("idna")  # what looking it up does; a label may be too long
    except (ConfigError, UnicodeError):
        raise ConfigError(f"{_FORM}; this names no host and port") from None
    user, password = (None if text is None else unquote(text) for text in (parts.username, parts.password))
    return Broker(place, parts.scheme == "mqtts", user, password)
