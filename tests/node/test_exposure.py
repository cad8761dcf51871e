from __future__ import annotations

from typing import Any

import pytest

from peermerge.node.config import NodeConfig
from peermerge.node.exposure import check_dialable, check_exposure
from peermerge.protocol.errors import ConfigError


def config(**tables: Any) -> NodeConfig:
    return NodeConfig.model_validate(tables)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:50051", "127.9.9.9:1"])
def test_addresses_of_this_machine_need_no_permission(address: str) -> None:
    check_exposure(config(node={"listen": address, "metrics": address}))


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "192.0.2.7:1", "trainer.example:50051"])
@pytest.mark.parametrize("key", ["listen", "metrics"])
def test_reaching_beyond_this_machine_needs_insecure(key: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"node.{key} = .*--insecure"):
        check_exposure(config(node={key: address}))
    check_exposure(config(node={key: address, "insecure": True}))


def test_dialling_a_coordinator_beyond_this_machine_needs_insecure_too() -> None:
    there = {"coordinator": "192.0.2.7:50050"}
    with pytest.raises(ConfigError, match=r"membership\.coordinator = .*--insecure"):
        check_exposure(config(membership=there))
    check_exposure(config(membership=there, node={"insecure": True}))


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051"])
def test_a_node_on_every_interface_says_what_peers_dial(listen: str) -> None:
    with pytest.raises(ConfigError, match="--advertise"):
        check_dialable(config(node={"listen": listen, "insecure": True}))
    check_dialable(config(node={"listen": listen, "insecure": True, "advertise": "192.0.2.7:1"}))
