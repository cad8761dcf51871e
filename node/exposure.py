"""Until identity is configured, a node speaks plain text: beyond this machine only when told to."""

from __future__ import annotations

from ..protocol.addresses import check_private, parse_address
from ..protocol.errors import ConfigError
from .config import NodeConfig


def check_exposure(config: NodeConfig) -> None:
    """Raise ConfigError if an address reaches beyond the loopback interface without `insecure`."""
    if config.node.insecure:
        return
    addresses = {
        "node.listen": config.node.listen,
        "node.metrics": config.node.metrics,
        "membership.coordinator": config.membership.coordinator,
    }
    addresses |= {f"membership.peers[{i}]": peer for i, peer in enumerate(config.membership.peers)}
    check_private(addresses, "--insecure (node.insecure = true)")


def check_dialable(config: NodeConfig) -> None:
    """Raise ConfigError if peers would be told an address that means every interface."""
    if config.node.advertise is None and parse_address(config.node.listen, lowest_port=0).is_wildcard:
        raise ConfigError(
            f"node.listen = {config.node.listen!r} is every interface, which nobody can dial; "
            "say what peers should dial with --advertise HOST:PORT (node.advertise)"
        )
