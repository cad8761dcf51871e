import json

from peermerge.node.ledger import KEEP, Ledger
from peermerge.protocol.messages import Edge, Header, Merged

from .worlds import header


def used(version: int, epoch: int = 1) -> Merged:
    return Merged(epoch, version, 0.25, 0.5, 1.0)


def told(version: int, epoch: int = 1, peer: str = "me") -> Header:
    """Alice says that she merged this version of `peer`."""
    return header(edges=(Edge("other", 0.1, used(version)), Edge(peer, 0.5, used(version, epoch))))


def test_a_peer_that_merged_us_while_we_missed_it_is_paid_once() -> None:
    ledger = Ledger()
    ledger.merged(1, 4, {})
    assert ledger.settle("me", told(4)) == used(4)
    assert ledger.settle("me", told(4)) is None
    assert ledger.settle("me", told(3)) == used(3)


def test_nothing_is_owed_to_whom_we_merged_too_or_chose_not_to() -> None:
    ledger = Ledger()
    ledger.merged(1, 4, {"alice": used(9)})
    assert ledger.settle("me", told(4)) is None
    ledger.close(1, 5, ["alice"])
    ledger.merged(1, 5, {"bob": used(9)})
    assert ledger.settle("me", told(5)) is None


def test_headers_that_say_nothing_of_us_or_speak_of_another_epoch_owe_nothing() -> None:
    ledger = Ledger()
    ledger.merged(1, 4, {})
    assert ledger.settle("me", told(4, peer="you")) is None
    assert ledger.settle("me", header(edges=(Edge("me", 0.5),))) is None
    assert ledger.settle("me", told(4, epoch=2)) is None


def test_versions_not_remembered_are_not_paid_and_nobody_makes_us_forget_or_remember() -> None:
    ledger = Ledger()
    for version in range(5, 200):
        ledger.merged(1, version, {"alice": used(version)})
    before = ledger.to_json()
    for version in (0, 5, 199 - KEEP, 199 + KEEP, 2**60):
        assert ledger.settle("me", told(version)) is None
    assert ledger.to_json() == before
    assert len(ledger.settled) == KEEP
    for version in range(200 - KEEP, 200):
        assert ledger.settle("me", told(version)) is None


def test_a_ledger_begun_after_a_restart_pays_nothing_of_before() -> None:
    ledger = Ledger(epoch=1)
    assert ledger.settle("me", told(500)) is None
    ledger.merged(1, 501, {})
    assert ledger.settle("me", told(501)) == used(501)


def test_a_new_log_epoch_forgets_what_was_settled_in_the_old_one() -> None:
    ledger = Ledger()
    ledger.merged(1, 4, {"alice": used(9)})
    ledger.close(2, 1, ["alice"])
    assert ledger.settle("me", told(1, epoch=2)) is None
    assert ledger.settle("me", told(4, epoch=1)) is None
    assert ledger.settled == {1: {"alice"}}


def test_a_neighbour_is_merged_twice_at_most_before_it_hears_of_that() -> None:
    ledger = Ledger()
    held = (1, 4)
    ledger.merged(1, 4, {"alice": used(9)})
    assert not ledger.one_sided("alice", held)
    ledger.merged(1, 5, {"alice": used(10)})
    assert ledger.one_sided("alice", held)
    assert not ledger.one_sided("bob", held)
    assert not ledger.one_sided("alice", (1, 5)), "version 5 tells of the first of them"
    assert ledger.one_sided("alice", (2, 6)), "of another history it says nothing"


def test_the_last_merge_of_a_neighbour_is_told_by_the_version_after_it() -> None:
    ledger = Ledger()
    assert ledger.told("alice") == 0
    for version in (4, 5):
        ledger.merged(1, version, {"alice": used(version)})
    ledger.merged(1, 6, {"bob": used(6)})
    assert (ledger.told("alice"), ledger.told("bob"), ledger.told("carol")) == (6, 7, 0)


def test_two_that_merged_each_other_unheard_do_not_wait_for_each_other_for_ever() -> None:
    ledger = Ledger()
    for version in (4, 5):
        ledger.merged(1, version, {"alice": used(version)})
    ledger.merged(1, 6, {})
    assert ledger.one_sided("alice", (1, 4)), "nor did she hear of it"
    assert not ledger.one_sided("alice", (1, 7)), "she asked, and need not have merged us"


def test_the_next_header_says_what_was_offered_and_what_was_merged() -> None:
    ledger = Ledger()
    ledger.merged(1, 4, {"bob": used(9, epoch=2), "alice": used(3)})
    assert ledger.edges({"bob": 0.5, "carol": 0.5}) == (
        Edge("alice", 0.0, used(3)),
        Edge("bob", 0.5, used(9, epoch=2)),
        Edge("carol", 0.5),
    )


def test_a_checkpoint_holds_it_all() -> None:
    ledger = Ledger()
    ledger.merged(3, 4, {"bob": used(9)})
    ledger.close(3, 5, ["alice"])
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
