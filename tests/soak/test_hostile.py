"""The hostile peer of a soak: what it sends is refused by name, whatever it is."""

from __future__ import annotations

from random import Random

import pytest

from peermerge.protocol.errors import EnvelopeError
from peermerge.protocol.members import Gossip
from peermerge.protocol.messages import Hello, PullRequest

from .hostile import request, valid

KINDS: dict[str, type[Hello | Gossip | PullRequest]] = {"Hello": Hello, "Gossip": Gossip, "Pull": PullRequest}


def test_its_undamaged_requests_are_well_made() -> None:
    for method, data in valid("net", "run").items():
        assert KINDS[method].decode(data).name == "mallory"


@pytest.mark.parametrize("seed", range(3))
def test_of_its_requests_some_are_read_and_most_are_refused_with_a_reason(seed: int) -> None:
    draw, whole = Random(seed), valid("net", "run")
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        method, data = request(whole, draw)
        try:
            KINDS[method].decode(data)
            outcomes["read"] += 1
        except EnvelopeError:
            outcomes["refused"] += 1
    assert outcomes["read"] > 50
    assert outcomes["refused"] > 50
