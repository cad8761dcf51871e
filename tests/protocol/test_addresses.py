"""HOST:PORT."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol.addresses import Address, parse_address
from peermerge.protocol.errors import ConfigError


@given(
    st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True)),
    st.integers(1, 65535),
)
def test_what_is_written_is_read_back(host: str, port: int) -> None:
    address = Address(host, port)
    assert parse_address(str(address)) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert str(address).rpartition(":")[0] == text.rpartition(":")[0]


def test_ipv6_stands_in_brackets() -> None:
    assert parse_address("[::1]:50051") == Address("::1", 50051)
    assert str(Address("::1", 50051)) == "[::1]:50051"


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:٣", "host:8 0", "host:+1",
        "::1:80", "[::1]", "[host]:80", "[127.0.0.1]:80", "[]:80", "[::1:80", "::1]:80",
        "unix:/tmp/x:80", "dns:///host:80", "a b:80", "-a:80", "a/../b:80", "x" * 300 + ":80",
    ],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_address(text)


def test_port_zero_is_for_listening() -> None:
    assert parse_address("127.0.0.1:0", lowest_port=0).port == 0


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("127.0.0.1", True, False),
        ("127.9.9.9", True, False),
        ("::1", True, False),
        ("localhost", True, False),
        ("LOCALHOST", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("192.0.2.7", False, False),
        ("localhost.example", False, False),
        ("127.0.0.1.example", False, False),
        (str(ipaddress.ip_address("fd00::2")), False, False),
    ],
)
def test_loopback_and_wildcard_are_told_from_the_rest(host: str, loopback: bool, wildcard: bool) -> None:
    address = Address(host, 1)
    assert (address.is_loopback, address.is_wildcard) == (loopback, wildcard)
