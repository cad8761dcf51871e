from __future__ import annotations

import pytest

from peermerge.node.broker import parse_broker
from peermerge.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "said", "user", "password", "tls"),
    [
        ("mqtt://broker", "mqtt://broker:1883", None, None, False),
        ("mqtt://broker:99/", "mqtt://broker:99", None, None, False),
        ("mqtts://broker", "mqtts://broker:8883", None, None, True),
        ("mqtts://ann:p%40ss%2Fw@broker.example:8884", "mqtts://broker.example:8884", "ann", "p@ss/w", True),
        ("mqtt://ann@[::1]:1884", "mqtt://[::1]:1884", "ann", None, False),
    ],
)
def test_a_url_names_host_port_user_and_password(
    url: str, said: str, user: str | None, password: str | None, tls: bool
) -> None:
    broker = parse_broker(url)
    assert (str(broker), broker.user, broker.password, broker.tls) == (said, user, password, tls)
    assert password is None or password not in repr(broker)


@pytest.mark.parametrize(
    "url",
    [
        *("broker:1883", "http://ann:secret@broker", "mqtt://", "mqtt://ann:secret@", "mqtt://ann:secret@broker/topic"),
        *(
            "mqtt://ann:secret@broker:0",
            "mqtt://ann:secret@broker:99999",
            "mqtt://ann:sec/ret@broker",
            "mqtt://:secret@b",
        ),
        *("mqtt://ann:secret@bro ker", "mqtt://ann:secret@[broker", f"mqtt://ann:secret@{'x' * 64}", "mqtt://b?secret"),
    ],
)
def test_a_bad_url_is_an_error_that_shows_the_form_and_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://USER:PASSWORD@HOST:PORT") as caught:
        parse_broker(url)
    assert "sec" not in str(caught.value)
