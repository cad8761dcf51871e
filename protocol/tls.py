"""Mutual TLS for the gRPC transport: both ends show a certificate, and both check it."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """What a node shows and what it believes, all PEM.

    chain: our certificate and those up to a root. key: its private key. roots: whose signatures we take. A peer's
    certificate must name the host that we dial.
    """

    chain: bytes
    key: bytes = field(repr=False)
    roots: bytes

    def server(self) -> grpc.ServerCredentials:
        """Return the credentials of a door that admits holders of a certificate only."""
        return grpc.ssl_server_credentials([(self.key, self.chain)], self.roots, require_client_auth=True)

    def channel(self) -> grpc.ChannelCredentials:
        """Return the credentials with which peers are dialled."""
        return grpc.ssl_channel_credentials(self.roots, self.key, self.chain)
