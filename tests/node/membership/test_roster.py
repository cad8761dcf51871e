from peermerge.node.membership import Roster, View
from peermerge.protocol.limits import MAX_MEMBERS
from peermerge.protocol.members import Member

ALICE, BOB, CAROL = (Member(name, f"host-{name}:1") for name in ("alice", "bob", "carol"))


def test_a_view_is_sorted_and_its_id_depends_on_names_alone() -> None:
    one = Roster(CAROL, ())
    one.learn([BOB, ALICE])
    other = Roster(ALICE, ())
    other.learn([Member("carol", "elsewhere:2"), BOB])
    assert one.view().names == other.view().names == ("alice", "bob", "carol")
    assert one.view().id == other.view().id != View((ALICE, BOB)).id
    assert one.view().id < 2**64
    assert other.view().address("carol") == "elsewhere:2"
    assert other.view().address("dave") is None


def test_only_a_members_own_word_changes_its_address_and_never_ours() -> None:
    me = Roster(ALICE, ())
    me.learn([BOB])
    moved = Member("bob", "new:9")
    me.learn([moved, Member("alice", "forged:1")])
    assert me.view().address("bob") == BOB.address
    me.learn([moved, Member("alice", "forged:1")], first_hand=True)
    assert me.view().address("bob") == "new:9"
    assert me.view().address("alice") == ALICE.address


def test_our_own_address_is_known_once_the_door_is_open() -> None:
    me = Roster(Member("alice", "pending"), ())
    me.moved("host:7")
    assert me.me == Member("alice", "host:7")
    assert me.view().members == (me.me,)


def test_it_is_complete_when_all_that_are_expected_are_known() -> None:
    listed = Roster(ALICE, [BOB.address, CAROL.address])
    expected = Roster(ALICE, [BOB.address], expect=3)
    for me in (listed, expected):
        me.learn([BOB])
        assert not me.complete
        me.learn([CAROL])
        assert me.complete
    assert Roster(ALICE, ()).complete


def test_addresses_are_greeted_until_their_owners_are_met() -> None:
    me = Roster(ALICE, [BOB.address, "alias:1", CAROL.address])
    assert me.unknown_addresses() == [BOB.address, "alias:1", CAROL.address]
    me.learn([BOB])
    assert me.unknown_addresses() == ["alias:1", CAROL.address]


def test_a_flood_of_names_ends_at_the_limit_and_those_known_stay() -> None:
    me = Roster(ALICE, ())
    me.learn([BOB])
    me.learn(Member(f"n{i}", "x:1") for i in range(MAX_MEMBERS + 50))
    assert len(me.view().members) == MAX_MEMBERS
    me.learn([Member("late", "x:1"), Member("bob", "new:1")], first_hand=True)
    assert me.view().address("late") is None
    assert me.view().address("bob") == "new:1"
