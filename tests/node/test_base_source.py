from __future__ import annotations

import pytest

from peermerge.node.base_source import wanted
from peermerge.protocol.errors import ConfigError
from peermerge.protocol.parts import ANY_BASE


def test_what_node_base_asks_for() -> None:
    assert wanted("peers") == ANY_BASE
    assert wanted("sha256:" + "ab" * 32) == b"\xab" * 32
    assert wanted(None) is None
    assert wanted("base.safetensors") is None
    for wrong in ("sha256:", "sha256:abc", "sha256:" + "zz" * 32, "sha256:" + "00" * 32):
        with pytest.raises(ConfigError, match="sha256"):
            wanted(wrong)
