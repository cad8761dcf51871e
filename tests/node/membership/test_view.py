"""The view that topology is computed from."""

from __future__ import annotations

from peermerge.node.membership import View
from peermerge.protocol.members import Member

ALICE, BOB, CAROL = (Member(name, f"host-{name}:1") for name in ("alice", "bob", "carol"))


def test_its_id_depends_on_names_alone() -> None:
    moved = Member("carol", "elsewhere:2", incarnation=7)
    assert View((ALICE, BOB, CAROL)).id == View((ALICE, BOB, moved)).id != View((ALICE, BOB)).id
    assert View((ALICE, BOB)).id < 2**64


def test_names_that_run_together_are_told_apart() -> None:
    one, other = ((Member(a, ""), Member(b, "")) for a, b in (("a-b", "c"), ("a", "b-c")))
    assert View(one).id != View(other).id


def test_it_knows_who_is_a_member_and_where() -> None:
    view = View((ALICE, CAROL))
    assert view.names == ("alice", "carol")
    assert view.address("carol") == CAROL.address
    assert view.address("bob") is None
    assert "alice" in view
    assert "zoe" not in view
