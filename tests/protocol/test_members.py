"""Claims about members: which of two holds, and what a stranger may not say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.errors import EnvelopeError, Refusal
from peermerge.protocol.limits import MAX_HEADER_BYTES, MAX_INCARNATION, MAX_MEMBERS, MAX_REFUTED, PROTOCOL_VERSION
from peermerge.protocol.members import Gossip, Member, MemberState

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
ADDRESSES = st.sampled_from(("a:1", "host.example:50051", "[::1]:2", "ü:3", "x" * 256))
MEMBERS = st.builds(
    Member,
    NAMES,
    ADDRESSES,
    st.integers(0, MAX_INCARNATION),
    st.integers(0, MAX_REFUTED),
    st.sampled_from(MemberState),
)
MESSAGES = st.builds(
    Gossip,
    network=NAMES,
    run=NAMES,
    name=NAMES,
    round=st.integers(-(2**63), 2**63 - 1),
    target=NAMES | st.just(""),
    news=st.lists(MEMBERS, max_size=4).map(tuple),
    roster=st.integers(0, 2**64 - 1),
    all=st.booleans(),
    doubts=st.lists(NAMES, max_size=3).map(tuple),
)
PLAIN = Gossip(network="net", run="run", name="a")


@given(MESSAGES)
def test_gossip_arrives_as_it_left(message: Gossip) -> None:
    assert Gossip.decode(message.encode()) == message


@given(MEMBERS)
def test_a_claim_takes_no_more_room_than_it_says(member: Member) -> None:
    told = Gossip(network="net", run="run", name="a", news=(member,))
    assert len(told.encode()) - len(PLAIN.encode()) <= member.room


@given(MEMBERS, MEMBERS)
def test_of_two_claims_about_one_name_exactly_one_holds(one: Member, other: Member) -> None:
    renamed = Member(one.name, other.address, other.incarnation, other.refuted, other.state)
    assert one.supersedes(renamed) + renamed.supersedes(one) == (one != renamed)


def test_later_starts_then_denials_then_worse_states_hold() -> None:
    ascending = [
        Member("a", "z:1", 1, 0, MemberState.ALIVE),
        Member("a", "b:1", 1, 0, MemberState.SUSPECT),
        Member("a", "b:1", 1, 0, MemberState.DEAD),
        Member("a", "b:1", 1, 0, MemberState.LEFT),
        Member("a", "b:1", 1, 1, MemberState.ALIVE),
        Member("a", "c:1", 1, 1, MemberState.ALIVE),
        Member("a", "a:1", 2, 0, MemberState.ALIVE),
    ]
    for place, later in enumerate(ascending):
        assert all(later.supersedes(earlier) for earlier in ascending[:place])


def test_a_suspicion_alone_changes_no_mark() -> None:
    alive = Member("a", "b:1", 3, 1)
    assert Member("a", "b:1", 3, 1, MemberState.SUSPECT).mark == alive.mark
    others = (Member("a", "b:2", 3, 1), Member("a", "b:1", 4, 1), Member("a", "b:1", 3, 2), Member("c", "b:1", 3, 1))
    assert alive.mark not in {other.mark for other in others}


@pytest.mark.parametrize(
    ("damage", "refusal"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, Refusal.UNSUPPORTED_VERSION),
        ({"network": "../x"}, Refusal.BAD_HEADER),
        ({"name": ""}, Refusal.BAD_HEADER),
        ({"target": "A"}, Refusal.BAD_HEADER),
        ({"doubts": ["a", "b c"]}, Refusal.BAD_HEADER),
        ({"doubts": ["a"] * (MAX_MEMBERS + 1)}, Refusal.OVERSIZE),
        ({"news": [wire.Member(name="a", address="b\0:1")]}, Refusal.BAD_HEADER),
        ({"news": [wire.Member(name="a", address="b:1", incarnation=MAX_INCARNATION + 1)]}, Refusal.BAD_HEADER),
        ({"news": [wire.Member(name="a")] * (MAX_MEMBERS + 1)}, Refusal.OVERSIZE),
    ],
)
def test_what_a_stranger_may_not_say_is_refused_by_name(damage: dict[str, object], refusal: Refusal) -> None:
    fields: dict[str, object] = {"protocol": PROTOCOL_VERSION, "network": "net", "run": "run", "name": "a"}
    with pytest.raises(EnvelopeError) as refused:
        Gossip.decode(wire.GossipMessage(**(fields | damage)).SerializeToString())  # type: ignore[arg-type]
    assert refused.value.refusal is refusal


def test_unknown_states_and_bytes_that_are_no_message_are_refused() -> None:
    # Field 7 (news) of 5 bytes: field 1 (name) is "a", field 5 (state) is 9.
    unknown = PLAIN.encode() + b"\x3a\x05" + b"\x0a\x01a" + b"\x28\x09"
    for data in (unknown, b"\xff", bytes(MAX_HEADER_BYTES + 1)):
        with pytest.raises(EnvelopeError):
            Gossip.decode(data)
