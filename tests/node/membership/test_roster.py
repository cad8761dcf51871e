"""One roster of claims: whom a node holds for a member, whatever it hears and in which order."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peermerge.node.membership import Roster
from peermerge.protocol.limits import MAX_INCARNATION, MAX_MEMBERS, MAX_REFUTED
from peermerge.protocol.members import Member, MemberState

ALICE, BOB, CAROL = (Member(name, f"host-{name}:1") for name in ("alice", "bob", "carol"))
SUSPECT, DEAD, LEFT = MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT

CLAIMS = st.builds(
    Member,
    st.sampled_from(("bob", "carol", "dave")),
    st.sampled_from(("a:1", "b:1")),
    st.integers(0, 2) | st.just(MAX_INCARNATION),
    st.integers(0, 2),
    st.sampled_from(MemberState),
)
RUMOURS = st.builds(
    Member,
    st.just("alice"),
    st.sampled_from((ALICE.address, "a:1", "z:1")),
    st.integers(0, 3) | st.integers(MAX_INCARNATION - 1, MAX_INCARNATION),
    st.integers(0, 3) | st.integers(MAX_REFUTED - 1, MAX_REFUTED),
    st.sampled_from(MemberState),
)


def claims_of(roster: Roster) -> tuple[Member, ...]:
    """Return what a roster holds, ourselves left out."""
    return tuple(member for member in roster.everybody() if member.name != roster.me.name)


def test_views_are_equal_whoever_learned_what_first() -> None:
    one, other = Roster(CAROL), Roster(ALICE)
    one.learn([BOB, ALICE])
    other.learn([CAROL, BOB])
    assert one.view() == other.view()
    assert one.view().names == ("alice", "bob", "carol")
    assert one.digest == other.digest


@given(st.lists(CLAIMS, max_size=12), st.randoms(use_true_random=False))
def test_claims_about_those_known_may_come_in_any_order_and_often(claims: list[Member], random: object) -> None:
    known = [Member(name, "0:1") for name in ("bob", "carol", "dave")]
    shuffled = [*claims, *claims]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Roster(ALICE), Roster(ALICE)
    one.learn(known)
    other.learn(known)
    one.learn(claims)
    for claim in shuffled:
        other.learn([claim])
    assert claims_of(one) == claims_of(other)
    assert one.digest == other.digest


@given(st.lists(CLAIMS, max_size=8), st.lists(CLAIMS, max_size=8))
def test_two_that_tell_each_other_everything_twice_hold_the_same(ones: list[Member], others: list[Member]) -> None:
    one, other = Roster(ALICE), Roster(Member("zoe", "z:1"))
    one.learn(ones)
    other.learn(others)
    for _ in range(2):
        one.learn(other.everybody())
        other.learn(one.everybody())
    assert one.view() == other.view()
    assert one.digest == other.digest


@given(st.lists(CLAIMS | RUMOURS, max_size=12), st.booleans())
def test_the_digest_is_the_sum_over_live_members_after_anything(claims: list[Member], first_hand: bool) -> None:
    roster = Roster(ALICE)
    for claim in claims:
        roster.learn([claim], first_hand=first_hand)
        roster.judge("bob", SUSPECT)
        roster.judge(claim.name, DEAD)
    roster.forget("carol")
    roster.moved("elsewhere:1")
    assert roster.digest == sum(member.mark for member in roster.view().members) % 2**64
    roster.leave()
    assert roster.digest == sum(member.mark for member in roster.view().members) % 2**64
    assert len(roster) == len(roster.view().members)


@given(st.lists(RUMOURS, min_size=1, max_size=6))
def test_a_member_outdoes_any_rumour_about_itself(rumours: list[Member]) -> None:
    me, other = Roster(ALICE), Roster(BOB)
    other.learn([ALICE])
    for rumour in rumours:
        other.learn([rumour])
        me.learn([rumour])
        me.learn(other.everybody())
        other.learn([me.me], first_hand=True)
        assert me.me.state is MemberState.ALIVE
        assert me.me.address == ALICE.address
        assert me.me.incarnation <= MAX_INCARNATION
        assert me.me.refuted <= MAX_REFUTED
        assert other.get("alice") == me.me


def test_a_forged_address_of_the_same_age_is_outdone_by_its_owner() -> None:
    me, other = Roster(BOB), Roster(ALICE)
    other.learn([BOB, replace(BOB, address="z-forged:1")])
    me.learn(other.everybody())
    other.learn([me.me])
    assert other.view().address("bob") == BOB.address


def test_a_members_own_word_changes_its_address_at_once() -> None:
    me = Roster(ALICE)
    me.learn([BOB])
    me.judge("bob", SUSPECT)
    me.learn([replace(BOB, address="a-new:9")])
    assert me.view().address("bob") == BOB.address
    me.learn([replace(BOB, address="a-new:9")], first_hand=True)
    assert me.get("bob") == replace(BOB, address="a-new:9", state=SUSPECT)


def test_our_own_address_is_known_once_the_door_is_open() -> None:
    me = Roster(Member("alice", "pending"))
    me.moved("host:7")
    assert me.me == Member("alice", "host:7")
    assert me.view().members == (me.me,)


def test_who_left_is_not_answered_for_and_stays_away() -> None:
    me = Roster(ALICE)
    me.leave()
    me.learn([replace(ALICE, state=DEAD, incarnation=5)])
    assert me.me == replace(ALICE, state=LEFT)
    assert len(me) == 0


def test_its_own_death_is_denied_only_when_it_may_return() -> None:
    me = Roster(ALICE)
    me.may_return = lambda: False
    me.learn([replace(ALICE, state=DEAD)])
    assert me.me == ALICE
    me.learn([replace(ALICE, state=SUSPECT)])
    assert me.me.age == (0, 1)
    me.may_return = lambda: True
    me.learn([replace(ALICE, refuted=1, state=DEAD)])
    assert me.me.age == (0, 2)
    assert me.denied == replace(ALICE, refuted=1, state=DEAD)


def test_nobody_is_dead_by_the_last_claim_there_is() -> None:
    me = Roster(ALICE)
    me.learn([BOB, replace(BOB, incarnation=MAX_INCARNATION, refuted=MAX_REFUTED, state=DEAD)])
    assert me.get("bob") == BOB


def test_judgements_are_of_others_and_only_worse() -> None:
    me = Roster(ALICE)
    me.learn([BOB])
    me.judge("alice", DEAD)
    me.judge("nobody", DEAD)
    me.judge("bob", DEAD)
    me.judge("bob", SUSPECT)
    assert me.me == ALICE
    assert me.lost() == [replace(BOB, state=DEAD)]
    me.learn([replace(BOB, refuted=1)])
    assert me.lost() == []


def test_only_those_who_went_are_forgotten() -> None:
    me = Roster(ALICE)
    me.learn([BOB, CAROL])
    me.judge("bob", DEAD)
    for name in ("alice", "bob", "carol", "nobody"):
        me.forget(name)
    assert me.everybody() == (ALICE, CAROL)
    me.learn([replace(BOB, state=DEAD)])
    assert me.get("bob") is None


def test_those_drawn_are_others_who_are_not_suspected_and_everybody_is_drawn_at_times() -> None:
    roster, rng = Roster(ALICE), Random(0)
    others = [Member(f"m{i}", f"m{i}:1") for i in range(6)]
    roster.learn([BOB, CAROL, *others])
    roster.judge("bob", SUSPECT)
    draws = [roster.some(3, rng, but="carol") for _ in range(100)]
    assert all(len({member.name for member in drawn}) == len(drawn) <= 3 for drawn in draws)
    assert {member for drawn in draws for member in drawn} == set(others)


def test_it_is_complete_when_all_that_are_expected_are_known() -> None:
    listed = Roster(ALICE, [BOB.address, CAROL.address])
    expected = Roster(ALICE, [BOB.address], expect=3)
    for me in (listed, expected):
        me.learn([BOB])
        assert not me.complete
        me.learn([CAROL])
        assert me.complete
    assert Roster(ALICE).complete


def test_addresses_are_greeted_until_their_owners_are_met() -> None:
    me = Roster(ALICE, [BOB.address, "alias:1", CAROL.address])
    assert me.unknown_addresses() == [BOB.address, "alias:1", CAROL.address]
    me.learn([BOB])
    assert me.unknown_addresses() == ["alias:1", CAROL.address]


def test_a_flood_of_names_ends_at_the_limit_and_those_known_stay() -> None:
    me = Roster(ALICE)
    me.learn([BOB])
    me.learn(Member(f"n{i}", "x:1") for i in range(MAX_MEMBERS + 50))
    assert len(me.view().members) == MAX_MEMBERS
    me.learn([Member("late", "x:1"), Member("bob", "new:1")], first_hand=True)
    assert me.view().address("late") is None
    assert me.view().address("bob") == "new:1"


def test_where_room_is_short_the_dead_make_room_in_the_order_in_which_they_went() -> None:
    me = Roster(ALICE)
    me.learn(Member(f"n{i}", "x:1") for i in range(MAX_MEMBERS - 1))
    me.judge("n7", DEAD)
    me.judge("n3", DEAD)
    me.learn([Member("late", "x:1")])
    assert me.get("n7") is None
    assert me.get("n3") is not None
    assert me.view().address("late") == "x:1"


def test_watchers_hear_of_every_change_once_all_of_a_message_is_taken_up() -> None:
    me = Roster(ALICE)
    heard: list[tuple[Member | None, Member, int]] = []
    me.watch(lambda before, claim: heard.append((before, claim, len(me.view().members))))
    me.learn([BOB, CAROL, BOB, replace(BOB, state=SUSPECT)])
    assert heard == [(None, BOB, 3), (None, CAROL, 3), (BOB, replace(BOB, state=SUSPECT), 3)]


@pytest.mark.parametrize(
    ("mine", "theirs", "outranked"),
    [
        (Member("alice", "a:1", 3), Member("alice", "b:1", 4), True),
        (Member("alice", "a:1", 4), Member("alice", "b:1", 3), False),
        (Member("alice", "a:1", 3), Member("alice", "b:1", 3), True),
        (Member("alice", "b:1", 3), Member("alice", "a:1", 3), False),
    ],
)
def test_of_two_rivals_the_one_started_fewer_times_has_to_stop(mine: Member, theirs: Member, outranked: bool) -> None:
    me = Roster(mine)
    assert not me.outranked
    me.learn([replace(theirs, incarnation=9)])  # what was outdone since does not count
    me.rival = theirs
    assert me.original == mine
    assert me.outranked is outranked
