import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest

from peermerge.node.replicas import Replicas
from peermerge.node.state import State
from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.entropy import Buffer
from peermerge.protocol.errors import EnvelopeError, FrameError, Refusal
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.messages import Header, Point

from .worlds import (
    BASE,
    MANIFEST,
    Faults,
    all_bytes,
    equal,
    follower,
    free_floors,
    header,
    publish,
    publisher,
    pull,
    random_delta,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_follower_holds_nothing_at_first_and_everything_after_a_pull(tmp_path: Path) -> None:
    log = publisher()
    publish(log, rng(), 3)
    for replicas in (follower(), follower(tmp_path), follower(pool={})):
        assert (replicas.get("alice"), replicas.point("alice")) == (None, Point())
        held = pull(log, replicas)
        assert held is not None
        assert equal(held.state, log.state)
        assert (held.point, held.round) == (log.point, 2)
        replicas.forget("alice")
        assert replicas.point("alice") == Point()
        replicas.forget("alice")


def test_rule_7_on_disk_a_replica_costs_four_bytes_a_parameter_and_is_mapped(tmp_path: Path) -> None:
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng())
    held = pull(log, replicas)
    assert held is not None
    assert isinstance(held.state.levels, np.memmap)
    assert (tmp_path / "alice.levels").stat().st_size == 4 * MANIFEST.length
    assert (tmp_path / "alice.levels").stat().st_blocks > 0
    in_memory = pull(log, follower())
    assert in_memory is not None
    assert in_memory.state.levels.nbytes == 4 * MANIFEST.length


def test_rule_7_followers_in_one_process_share_a_state_by_its_chain() -> None:
    pool: WeakValueDictionary[bytes, State] = WeakValueDictionary()
    log = publisher()
    one, other = follower(pool=pool), follower(pool=pool)
    for _ in range(3):
        publish(log, rng(), 2)
        pull(log, one)
        behind, ahead = other.get("alice"), one.get("alice")
        assert ahead is not None
        assert behind is None or not equal(behind.state, ahead.state)
        held = pull(log, other)
        assert held is not None
        assert held.state is ahead.state
        assert equal(held.state, log.state)
        del behind
    assert len(pool) == 1


def test_a_shared_state_is_not_believed_under_another_digest() -> None:
    pool: dict[bytes, State] = {}
    log = publisher()
    publish(log, rng())
    pull(log, follower(pool=pool))
    pool[log.point.chain] = State(MANIFEST, free_floors())
    with pytest.raises(EnvelopeError, match="DIGEST_MISMATCH"):
        pull(log, follower(pool=pool))


def forged(**changes: object) -> Callable[[Header], Header]:
    return lambda true: replace(true, **changes)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[Header], Header], Refusal]] = {
    "older version": (forged(version=1, from_version=0), Refusal.REPLAYED),
    "older epoch": (forged(epoch=0), Refusal.REPLAYED),
    "skips a version": (forged(version=5, from_version=4), Refusal.OUT_OF_SEQUENCE),
    "follows in another epoch": (forged(epoch=2), Refusal.OUT_OF_SEQUENCE),
    "chain does not follow": (forged(chain=bytes(32)), Refusal.DIGEST_MISMATCH),
    "rule 8: two states under one version": (
        forged(version=2, from_version=0, chain=bytes(32)),
        Refusal.EQUIVOCATION,
    ),
    "a new epoch's first chain": (forged(epoch=2, version=1, from_version=0), Refusal.DIGEST_MISMATCH),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_does_not_follow_changes_nothing_and_pays_nothing(name: str, tmp_path: Path) -> None:
    change, refusal = REFUSED[name]
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng(), 2)
    held = pull(log, replicas)
    assert held is not None
    before = log.state.copy()
    paid: list[State] = []
    entry = log.append(random_delta(rng(3)), header(3))
    with pytest.raises(EnvelopeError) as caught:
        replicas.apply("alice", change(entry.header), entry.frame, paid.append)
    assert caught.value.refusal == refusal
    assert equal(held.state, before)
    assert replicas.get("alice") is held
    assert not paid
    assert follower(tmp_path).point("alice") == held.point
    replicas.apply("alice", entry.header, entry.frame, paid.append)
    assert len(paid) == 1


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_replica_to_which_the_next_version_does_not_fit_is_pulled_again_as_a_snapshot(
    on_disk: bool, tmp_path: Path
) -> None:
    log, replicas = publisher(), follower(tmp_path if on_disk else None)
    publish(log, rng(), 2)
    held = pull(log, replicas)
    assert held is not None
    held.state = State(MANIFEST, free_floors())  # damaged in memory
    publish(log, rng(3))
    paid: list[State] = []
    entry = log.read(log.plan(held.point)[0])
    with pytest.raises(EnvelopeError, match="DIGEST_MISMATCH"):
        replicas.apply("alice", entry.header, entry.frame, paid.append)
    assert not paid
    assert replicas.point("alice") == Point()
    assert not list(tmp_path.iterdir())
    again = pull(log, replicas)
    assert again is not None
    assert equal(again.state, log.state)


def test_a_snapshot_that_does_not_fit_leaves_what_is_held() -> None:
    log, replicas = publisher(retention=1), follower()
    publish(log, rng(), 2)
    held = pull(log, replicas)
    publish(log, rng(3), 2)
    entry = log.read(log.plan(Point())[0])
    assert not entry.header.from_version
    with pytest.raises(EnvelopeError, match="DIGEST_MISMATCH"):
        replicas.apply("alice", forged(state=1)(entry.header), entry.frame)
    assert replicas.get("alice") is held


@pytest.mark.parametrize("on_disk", [False, True])
def test_replicas_that_nobody_keeps_and_that_have_brought_nothing_for_long_are_dropped(
    on_disk: bool, tmp_path: Path
) -> None:
    folder = tmp_path if on_disk else None
    replicas = follower(folder)
    for peer, versions in (("kept", 1), ("gone", 1), ("lately", 5), ("former", 2)):
        log = publisher(sender=peer)
        publish(log, rng(), versions)
        pull(log, replicas, peer)
    if on_disk:
        replicas = follower(folder)  # after a restart
        (tmp_path / "torn.levels").write_bytes(b"x")
    replicas.tidy({"kept"}, 3)
    assert {p for p in ("kept", "gone", "lately", "former") if replicas.get(p)} == {"kept", "lately"}
    assert {path.name for path in tmp_path.glob("*.levels")} == ({"kept.levels", "lately.levels"} if on_disk else set())
    assert len(list(tmp_path.iterdir())) == (4 if on_disk else 0)


def test_a_damaged_frame_changes_nothing_and_pays_nothing(tmp_path: Path) -> None:
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng())
    held = pull(log, replicas)
    assert held is not None
    before = log.state.copy()
    paid: list[State] = []
    entry = log.append(random_delta(rng(3)), header(3))
    whole = all_bytes(entry.frame)
    for frame in (b"", whole[:-1], whole + b"0", bytes(len(whole))):
        with pytest.raises(FrameError):
            replicas.apply("alice", entry.header, frame, paid.append)
    assert equal(held.state, before)
    assert not paid


def test_what_pays_back_sees_the_state_that_the_frame_extends() -> None:
    log, replicas = publisher(), follower()
    publish(log, rng())
    pull(log, replicas)
    before, seen = log.state.copy(), []
    entry = log.append(random_delta(rng(3)), header(3))
    replicas.apply("alice", entry.header, entry.frame, lambda state: seen.append(equal(state, before)))
    assert seen == [True]


def test_rule_8_a_publisher_that_shows_two_histories_is_found_out() -> None:
    one, other, replicas = publisher(), publisher(), follower()
    publish(one, rng(1), 2)
    publish(other, rng(2), 2)
    pull(one, replicas)
    for name in other.plan(Point())[1:]:
        entry = other.read(name)
        with pytest.raises(EnvelopeError):
            replicas.apply("alice", entry.header, entry.frame)
    twin = other.read(other.plan(Point())[1]).header
    with pytest.raises(EnvelopeError, match="EQUIVOCATION"):
        replicas.check("alice", forged(from_version=0)(twin))


def test_rule_11_a_replica_outlives_the_process(tmp_path: Path) -> None:
    log = publisher()
    for count in (1, 2, 5):
        publish(log, rng(count), count)
        assert pull(log, follower(tmp_path)) is not None
        again = follower(tmp_path).get("alice")
        assert again is not None
        assert again.point == log.point
        assert equal(again.state, log.state)
        assert again.round == log.last_round


def test_rule_11_a_dirty_or_damaged_replica_is_pulled_again_as_a_snapshot(tmp_path: Path) -> None:
    log = publisher()
    publish(log, rng(), 6)
    pull(log, follower(tmp_path))
    levels, mark = (tmp_path / "alice.levels"), (tmp_path / "alice.mark")
    whole, text = levels.read_bytes(), mark.read_text()

    def look(content: bytes, note: str | None) -> None:
        levels.write_bytes(content)
        mark.unlink(missing_ok=True) if note is None else mark.write_text(note)
        for mapped in (True, False):
            assert follower(tmp_path, mapped=mapped).get("alice") is None
        replicas = follower(tmp_path)
        assert len(log.plan(replicas.point("alice"))) == 2
        held = pull(log, replicas)
        assert held is not None
        assert equal(held.state, log.state)

    for place in rng(1).integers(len(whole), size=30).tolist():
        look(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], text)
    for content in (b"", whole[:-4], whole + b"1234", bytes(len(whole))):
        look(content, text)
    notes = [None, "", "{", "[]", "7", "{}", '{"header": 7}', '{"header": "00", "exponents": ""}', text[:-9] + '"}']
    notes += [text.replace('"exponents"', '"else"'), text[:-4] + '00"}', text[:-4] + 'zz"}']
    for note in notes:
        look(whole, note)


@pytest.mark.parametrize("what", ["peer", "base", "manifest"])
def test_rule_11_a_replica_of_another_peer_base_or_model_is_not_taken_up(what: str, tmp_path: Path) -> None:
    log = publisher()
    publish(log, rng())
    pull(log, follower(tmp_path))
    manifest = manifest_of(
        [
            ("x", t.shape, t.dtype, t.full) if t.name == "empty" else (t.name, t.shape, t.dtype, t.full)
            for t in MANIFEST.tensors
        ]
    )
    if what == "peer":
        for path in list(tmp_path.iterdir()):
            path.rename(path.with_stem("bob"))
        assert follower(tmp_path).get("bob") is None
    elif what == "base":
        assert Replicas(MANIFEST, free_floors(), bytes(32), tmp_path).get("alice") is None
    else:
        assert Replicas(manifest, free_floors(), BASE, tmp_path).get("alice") is None


def test_rule_11_a_kill_between_levels_and_mark_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng())
    pull(log, replicas)
    publish(log, rng(1))
    fault = Faults(Path.replace, 1)
    monkeypatch.setattr(Path, "replace", fault)
    held = pull(log, replicas)
    assert fault.fired == 1
    assert held is not None
    assert equal(held.state, log.state)
    replicas.flush()
    assert follower(tmp_path).get("alice") is None


def test_a_full_disk_keeps_replicas_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without reserved blocks the pages of a mapped file would kill the process."""
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng(), 2)
    fault = Faults(os.posix_fallocate, 1, errno.ENOSPC)
    monkeypatch.setattr(os, "posix_fallocate", fault)
    held = pull(log, replicas)
    assert fault.fired == 1
    assert held is not None
    assert equal(held.state, log.state)
    assert not isinstance(held.state.levels, np.memmap)
    assert list(tmp_path.iterdir()) == []
    publish(log, rng(1))
    pull(log, replicas)
    assert equal(held.state, log.state)
    assert list(tmp_path.iterdir()) == []


def test_a_new_epoch_replaces_the_file_and_leaves_readers_of_the_old_one_alone(tmp_path: Path) -> None:
    log, replicas = publisher(), follower(tmp_path)
    publish(log, rng(), 2)
    old = pull(log, replicas)
    assert old is not None
    before = log.state.copy()
    log.restart(2, header())
    publish(log, rng(1))
    held = pull(log, replicas)
    assert held is not None
    assert equal(held.state, log.state)
    assert equal(old.state, before)


def test_a_reader_beside_a_running_node_neither_maps_nor_makes_files(tmp_path: Path) -> None:
    log = publisher()
    publish(log, rng())
    pull(log, follower(tmp_path))
    held = follower(tmp_path, mapped=False).get("alice")
    assert held is not None
    assert not isinstance(held.state.levels, np.memmap)
    assert follower(tmp_path / "missing", mapped=False).get("alice") is None
    assert not (tmp_path / "missing").exists()


def test_a_model_without_entries_has_replicas_too(tmp_path: Path) -> None:
    manifest = manifest_of([("empty", (0, 3), "float32", False)])
    log = publisher(manifest=manifest)
    publish(log, rng())
    for mapped in (True, False):
        replicas = Replicas(manifest, free_floors(manifest), BASE, tmp_path, mapped=mapped)
        held = pull(log, replicas)
        assert held is not None
        assert held.point == log.point
        replicas.flush()


class FailsLater(MemoryBlob):
    """A frame that can be read so many times, and then no more."""

    def __init__(self, data: bytes, reads: int) -> None:
        super().__init__(data)
        self.reads = reads

    def read(self, offset: int, size: int) -> Buffer:
        self.reads -= 1
        if self.reads < 0:
            raise OSError(errno.EIO, "gone")
        return super().read(offset, size)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_replica_that_is_only_partly_written_is_not_believed_any_more(mapped: bool, tmp_path: Path) -> None:
    manifest = manifest_of([("two segments", (3 << 19,), "float32", False)])
    log, first = publisher(manifest=manifest), publisher(manifest=manifest)
    publish(first, rng())
    publish(log, rng())
    publish(log, rng(1))
    entry = log.read(log.plan(first.point)[0])
    data = bytes(entry.frame.read(0, len(entry.frame)))
    forgotten = 0
    for reads in range(100):  # fail at every read in turn, until all go well
        replicas = Replicas(manifest, free_floors(manifest), BASE, tmp_path if mapped else None)
        replicas.forget("alice")
        pull(first, replicas)
        try:
            replicas.apply("alice", entry.header, FailsLater(data, reads))
        except OSError:
            after = replicas.get("alice")
            forgotten += after is None
            assert after is None or equal(after.state, first.state)
        else:
            break
    assert forgotten > 0
    held = replicas.get("alice")
    assert held is not None
    assert equal(held.state, log.state)
