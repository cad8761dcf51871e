from peermerge.node.peers import Peers
from peermerge.protocol.errors import FrameError, Refusal


def test_accounts_open_at_the_first_mention_and_add_up() -> None:
    peers = Peers()
    peers["bob"].bytes_in += 3
    peers["carol"].bytes_in += 4
    peers["carol"].bytes_out += 5
    assert (peers.bytes_in, peers.bytes_out, sorted(peers)) == (7, 5, ["bob", "carol"])
    assert Peers().bytes_in == 0


def test_failures_and_reasons_are_remembered() -> None:
    record = Peers()["bob"]
    record.fail(FrameError(Refusal.TRUNCATED, "3 of 4 bytes"))
    record.skip(Refusal.STALE)
    record.skip(Refusal.STALE)
    assert record.last_error.startswith("TRUNCATED")
    assert record.skipped == {"STALE": 2}
