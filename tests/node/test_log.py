import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from peermerge.node.log import MAX_EPOCH, PublishedLog, chain_link, chain_start
from peermerge.node.log_entry import Entry
from peermerge.node.state import State
from peermerge.node.storage import DiskStorage, MemoryStorage
from peermerge.protocol.blob import MemoryBlob
from peermerge.protocol.codec import Frame
from peermerge.protocol.delta import Delta
from peermerge.protocol.errors import DataDirError, DegradedError, EnvelopeError, FrameError, PeerError, Refusal
from peermerge.protocol.limits import MAX_LEVEL
from peermerge.protocol.manifest import manifest_of
from peermerge.protocol.messages import Edge, Point

from .worlds import (
    BASE,
    MANIFEST,
    WRITE_POINTS,
    RecordingStorage,
    all_bytes,
    break_disk,
    delta,
    equal,
    flips,
    follower,
    fresh_state,
    header,
    publish,
    publisher,
    pull,
    random_delta,
)

CPU = torch.device("cpu")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def kinds(names: list[str]) -> list[str]:
    return [("s" if name.endswith("snapshot") else "d") + str(int(name[13:25])) for name in names]


def filled(versions: int, retention: int = 4) -> tuple[PublishedLog, RecordingStorage]:
    storage = RecordingStorage()
    log = publisher(storage, retention=retention)
    publish(log, rng(), versions)
    return log, storage


def test_a_version_is_what_every_peer_will_decode_and_says_what_the_log_knows() -> None:
    log = publisher()
    step = random_delta(rng())
    entry = log.append(step, header(3, (Edge("bob", 0.1),), omega=0.1))
    assert entry.header.point == log.point
    assert (entry.header.sender, entry.header.base, entry.header.manifest) == ("alice", BASE, MANIFEST.digest)
    assert entry.header.omega == float(np.float32(0.1))
    assert entry.header.edges[0].weight == pytest.approx(0.1)
    assert (log.last_round, log.header) == (3, entry.header)
    assert publisher().header is None
    twin = fresh_state()
    twin.apply(twin.prepare(Frame.open(entry.frame, MANIFEST)))
    assert equal(log.state, twin)
    assert entry.header.state == twin.digest


def test_rule_8_the_chain_names_the_history_and_the_state_digest_the_content() -> None:
    one, other = publisher(), publisher()
    steps = [random_delta(rng(s)) for s in range(2)]
    for log, order in ((one, steps), (other, steps[::-1])):
        for step in order:
            log.append(step, header())
    assert one.point.state == other.point.state
    assert one.point.chain != other.point.chain
    start = chain_start(MANIFEST.digest, BASE, "alice", 1)
    entries = [one.read(name) for name in one.plan(Point())]
    assert one.point.chain == chain_link(
        chain_link(start, entries[0].header.frame_sha256), entries[1].header.frame_sha256
    )
    assert publisher(sender="bob").point.chain != publisher().point.chain


def test_a_signature_covers_the_very_bytes_of_the_header() -> None:
    log = PublishedLog(MemoryStorage(), fresh_state(), "alice", BASE, 4, lambda raw: bytes(64))
    assert log.append(random_delta(rng()), header()).envelope.endswith(bytes(64))


def test_what_leads_to_the_head_is_the_tail_if_it_is_at_hand_and_cheaper() -> None:
    log, _ = filled(7)
    points = {entry.header.version: entry.header.point for entry in map(log.read, log.plan(Point()))}
    assert kinds(log.plan(Point())) == ["s5", "d6", "d7"]
    assert kinds(log.plan(points[6])) == ["d7"]
    assert kinds(log.plan(points[6], snapshot=True)) == ["s5", "d6", "d7"]
    assert log.plan(log.point) == []
    assert kinds(log.plan(Point(1, 6, bytes(32), 0))) == ["s5", "d6", "d7"]
    assert kinds(log.plan(Point(2, 6, points[6].chain, 0))) == ["s5", "d6", "d7"]
    assert kinds(log.plan(Point(1, 9, bytes(32), 0))) == ["s5", "d6", "d7"]
    assert publisher().plan(Point()) == []


def test_a_snapshot_goes_out_where_it_costs_less_than_the_tail() -> None:
    log = publisher(retention=6)
    for level in range(1, 8):
        log.append(delta(list(range(60)), [level % 2 or -1] * 60), header())
    early = log.read("log/00000001-000000000002.delta").header.point
    assert kinds(log.plan(early)) == ["s7"]
    assert kinds(log.plan(early, through=2)) == ["s7"]
    assert kinds(log.plan(early, through=4)) == ["d3", "d4", "s7"]
    for beyond in (7, 8):
        assert kinds(log.plan(early, through=beyond)) == ["d3", "d4", "d5", "d6", "d7"]
    assert kinds(log.plan(early, snapshot=True, through=4)) == ["s7"]
    assert kinds(log.plan(Point(), through=4)) == ["s7"]


def test_rule_10_compaction_keeps_one_snapshot_and_the_retained_tail() -> None:
    log, storage = filled(18)
    assert kinds(storage.names("log")) == ["d12", "d13", "d14", "d15", "s15", "d16", "d17", "d18"]
    held = pull(log, follower())
    assert held is not None
    assert equal(log.state, held.state)


def test_rule_10_files_are_immutable_and_written_once() -> None:
    log, storage = filled(20)
    log.restart(2, header())
    publish(log, rng(1), 6)
    assert len(storage.written) == len(set(storage.written))


def test_rule_10_handlers_see_the_log_before_or_after_a_change_and_only_what_is_durable() -> None:
    storage = RecordingStorage()
    log = publisher(storage, retention=2)
    seen: set[tuple[int, int]] = set()

    def handler(_: str) -> None:
        point = log.point
        seen.add((point.epoch, point.version))
        replicas = follower()
        for name in log.plan(Point()):
            entry = Entry.open(MemoryBlob(storage.read(name) or b""))
            entry.verify()
            replicas.apply("alice", entry.header, entry.frame)
        assert replicas.point("alice") == (point if point.version else Point())

    storage.watch = handler
    publish(log, rng(), 8)
    log.restart(2, header())
    publish(log, rng(1), 2)
    assert seen == {(1, v) for v in range(9)} | {(2, 1), (2, 2), (2, 3)}


def test_an_entry_that_is_gone_or_damaged_is_a_data_directory_error() -> None:
    log, storage = filled(4)
    name = log.plan(Point())[0]
    data = storage.read(name) or b""
    for place in range(log.read(name).header.frame_bytes, len(data)):
        storage.write(name, data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(DataDirError, match="damaged"):
            log.read(name)
    for length in range(len(data)):
        storage.write(name, data[:length])
        with pytest.raises(DataDirError, match="damaged"):
            log.read(name)
    storage.remove(name)
    with pytest.raises(DataDirError, match="gone"):
        log.read(name)
    assert log.read(log.plan(Point())[-1]).header.version == 4


def test_frames_are_verified_by_length_and_digest() -> None:
    entry = publisher().append(random_delta(rng()), header())
    entry.verify()
    frame = all_bytes(entry.frame)
    for wrong, refusal in ((frame[:-1], Refusal.TRUNCATED), (bytes(len(frame)), Refusal.DIGEST_MISMATCH)):
        with pytest.raises(EnvelopeError) as caught:
            replace(entry, frame=MemoryBlob(wrong)).verify()
        assert caught.value.refusal == refusal


@pytest.mark.parametrize("versions", [0, 1, 3, 9])
def test_a_full_disk_leaves_log_state_and_plans_unchanged(versions: int) -> None:
    log, storage = filled(versions)
    before, state, plan = log.point, log.state.copy(), log.plan(Point())
    storage.full = True
    for restart in (False, True):
        with pytest.raises(DegradedError):
            log.restart(2, header(99)) if restart else log.append(random_delta(rng(9)), header(99))
        assert (log.point, log.plan(Point()), log.last_round) == (before, plan, versions - 1)
        assert equal(state, log.state)
    storage.full = False
    publish(log, rng(9))
    assert log.version == versions + 1
    assert equal(publisher(storage).state, log.state)


@pytest.mark.parametrize("point", WRITE_POINTS)
@pytest.mark.parametrize("what", ["append", "compact", "restart"])
def test_after_a_fault_at_any_point_of_the_disk_the_old_or_the_new_log_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, point: str
) -> None:
    disk = DiskStorage(tmp_path)
    log = publisher(disk)
    publish(log, rng(), 4 if what == "compact" else 3)
    before, state = log.point, log.state.copy()
    fault = break_disk(monkeypatch, point)
    with pytest.raises(DegradedError):
        log.restart(2, header()) if what == "restart" else publish(log, rng(1))
    monkeypatch.undo()
    assert fault.fired
    assert log.point == before
    assert equal(log.state, state)
    found = publisher(disk)
    assert found.dropped == []
    assert found.point == before or point == "fsync folder"
    assert equal(found.state, state) == (found.point == before or what == "restart")
    publish(log, rng(2), 6)
    assert equal(publisher(disk).state, log.state)
    disk.close()


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("what", ["append", "restart"])
def test_a_disk_that_fills_up_while_a_frame_is_coded_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, writes: int
) -> None:
    disk = DiskStorage(tmp_path)
    log = publisher(disk)
    publish(log, rng(), 4)
    before, state, files = log.point, log.state.copy(), disk.names("log")
    fault = break_disk(monkeypatch, "write", writes=writes)
    with pytest.raises(DegradedError):
        log.restart(2, header()) if what == "restart" else log.append(delta([0], [1]), header())
    monkeypatch.undo()
    assert fault.fired
    assert log.point == before
    assert equal(log.state, state)
    assert disk.names("log") == files
    assert not list(tmp_path.rglob("*.tmp"))
    publish(log, rng(2), 6)
    assert equal(publisher(disk).state, log.state)
    disk.close()


@pytest.mark.parametrize("seed", range(3))
def test_entries_come_back_from_either_storage_as_they_were_appended(tmp_path: Path, seed: int) -> None:
    disk = DiskStorage(tmp_path)
    draw, (one, two) = rng(seed), (publisher(disk, retention=8), publisher(retention=8))
    for round_ in range(8):
        step = random_delta(draw)
        for log in (one, two):
            entry = log.append(step, header(round_))
            again = log.read(log.plan(Point())[-1])
            assert (again.header, again.envelope) == (entry.header, entry.envelope)
            assert all_bytes(again.frame) == all_bytes(entry.frame)
            again.verify()
    publish(one, rng(9))
    publish(two, rng(9))
    assert kinds(one.plan(Point())) == ["s9"]
    assert [all_bytes(one.read(n).frame) for n in one.plan(Point())] == [
        all_bytes(two.read(n).frame) for n in two.plan(Point())
    ]
    disk.close()


def test_publishing_takes_the_memory_of_a_few_segments_whatever_the_frames_size(tmp_path: Path) -> None:
    manifest = manifest_of([("weight", (1 << 23,), "float32", False)])
    disk = DiskStorage(tmp_path)
    log = publisher(disk, manifest=manifest, retention=1)
    levels = rng().integers(1, 1 << 16, manifest.length, dtype=np.int32)
    step = Delta(np.full(1, -20, np.int8), np.arange(manifest.length), levels)
    tracemalloc.start()
    for round_ in range(2):  # the second one is followed by a snapshot
        log.append(step, header(round_))
    publisher(disk, manifest=manifest)
    state, (_, peak) = 4 * manifest.length, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(log.read(log.plan(Point())[0])) > 16 << 20
    assert peak - state < 16 << 20
    disk.close()


def test_a_truncated_newest_file_is_dropped_and_a_left_over_is_not_seen(tmp_path: Path) -> None:
    disk = DiskStorage(tmp_path)
    log = publisher(disk)
    publish(log, rng(), 2)
    before = log.point
    publish(log, rng(1))
    newest = tmp_path / log.plan(Point())[-1]
    data = newest.read_bytes()
    newest.with_name(newest.name + ".tmp").write_bytes(data)
    for length in (0, 1, 31, 36, len(data) // 2, len(data) - 1):
        newest.write_bytes(data[:length])
        found = publisher(disk)
        assert found.point == before
        assert found.dropped == [log.plan(Point())[-1]]
    disk.close()


def test_a_delta_out_of_range_leaves_the_log_unchanged() -> None:
    log = publisher()
    log.append(delta([0], [MAX_LEVEL]), header())
    before, state = log.point, log.state.copy()
    with pytest.raises(FrameError, match="OVERFLOW"):
        log.append(delta([0], [1]), header())
    with pytest.raises(FrameError, match="BAD_INDEX"):
        log.append(delta([66], [1]), header())
    assert log.point == before
    assert equal(state, log.state)


def test_a_disk_that_refuses_a_snapshot_or_a_removal_only_delays_compaction() -> None:
    log, storage = filled(4)
    storage.watch = lambda name: setattr(storage, "full", name.endswith("snapshot"))
    publish(log, rng(1), 2)
    assert log.version == 6
    assert "s" not in "".join(kinds(storage.names("log")))
    storage.watch, storage.full, storage.stuck = (lambda name: None), False, True
    publish(log, rng(2))
    assert kinds(storage.names("log"))[:3] == ["d1", "d2", "d3"]
    storage.stuck = False
    publish(log, rng(3), 5)
    assert kinds(storage.names("log"))[0] == "d9"
    assert equal(publisher(storage).state, log.state)


def test_rule_9_a_new_epoch_starts_with_the_whole_state_and_is_found_again() -> None:
    log, storage = filled(6)
    before = log.state.copy()
    storage.stuck = True
    entry = log.restart(log.epoch + 1, header(6))
    storage.stuck = False
    assert (entry.header.epoch, entry.header.version, entry.header.from_version) == (2, 1, 0)
    assert equal(before, log.state)
    publish(log, rng(1), 2)
    reopened = publisher(storage)
    assert reopened.point == log.point
    assert equal(reopened.state, log.state)
    publish(reopened, rng(2), 4)
    assert all(name.startswith("log/00000002") for name in storage.names("log"))


def test_rule_9_epochs_are_consecutive_and_a_new_one_begins_only_where_history_is_lost() -> None:
    log, storage = filled(3)
    backup = storage.copy()
    publish(log, rng(1), 2)
    lost = log.point
    for epoch in (2, 3, 4):
        old = publisher(backup)
        assert old.contradicts(lost)
        old.restart(lost.epoch + 1, header())
        assert old.epoch == epoch
        assert not old.contradicts(lost)
        lost = old.point
        backup = storage.copy()


def test_rule_9_only_a_point_this_log_does_not_lead_to_contradicts_it() -> None:
    log, _ = filled(11)
    inside = log.read("log/00000001-000000000008.delta").header.point
    for held in (Point(), log.point, inside, Point(1, 1, bytes(32), 5)):
        assert not log.contradicts(held)
    for held in (
        Point(2, 1, bytes(32), 5),
        Point(1, 12, bytes(32), 5),
        Point(1, 11, bytes(32), 5),
        Point(1, 11, log.point.chain, 5),
        Point(1, 8, bytes(32), inside.state),
    ):
        assert log.contradicts(held)
    assert not log.contradicts(Point(MAX_EPOCH, 1, bytes(32), 5))
    assert not log.contradicts(Point(2**63, 1, bytes(32), 5))


def test_rule_9_an_old_backup_that_ran_on_past_the_lost_version_is_still_found_out() -> None:
    log, storage = filled(2)
    backup = storage.copy()
    publish(log, rng(1))
    replicas = follower()
    pull(log, replicas)
    old = publisher(backup)
    publish(old, rng(2), 2)
    with pytest.raises(EnvelopeError, match="REPLAYED"):
        pull(old, replicas)
    assert old.contradicts(replicas.point("alice"))
    old.restart(2, header())
    held = pull(old, replicas)
    assert held is not None
    assert equal(held.state, old.state)


def test_a_reopened_log_goes_on_where_it_was() -> None:
    for versions, retention in itertools.product((0, 1, 4, 5, 6, 13), (1, 4)):
        log, storage = filled(versions, retention)
        again = publisher(storage, retention=retention)
        assert (again.point, again.last_round, again.dropped) == (log.point, log.last_round, [])
        assert equal(again.state, log.state)
        assert again.plan(Point()) == log.plan(Point())
        mine, same = (each.append(delta([1], [1]), header()) for each in (log, again))
        assert (mine.trailer(), all_bytes(mine.frame)) == (same.trailer(), all_bytes(same.frame))


def test_a_damaged_newest_version_is_dropped_and_what_came_before_it_kept() -> None:
    log, storage = filled(3)
    points = [log.read(name).header.point for name in log.plan(Point())]
    newest = log.plan(Point())[-1]
    data = storage.read(newest) or b""
    for damaged in flips(data, rng(), 20):
        storage.write(newest, damaged)
        again = publisher(storage)
        assert again.dropped == [newest]
        assert again.point == points[1]
        assert again.contradicts(points[2])


def test_a_gap_drops_what_follows_it_and_left_overs_of_the_lost_history_never_come_back() -> None:
    log, storage = filled(4)
    names = log.plan(Point())
    storage.remove(names[1])
    again = publisher(storage)
    assert (again.version, again.dropped) == (1, names[2:])
    publish(again, rng(5))
    third = publisher(storage)
    assert third.point == again.point
    assert third.dropped == names[2:]
    publish(third, rng(6), 4)
    assert publisher(storage).dropped == []


def test_a_damaged_snapshot_falls_back_on_an_older_one_or_on_nothing() -> None:
    log, storage = filled(5)
    storage.stuck = True
    publish(log, rng(1), 5)
    storage.stuck = False
    newer = "log/00000001-000000000010.snapshot"
    storage.write(newer, b"damaged")
    again = publisher(storage)
    assert again.point == log.point
    assert again.dropped == [newer]
    storage.remove("log/00000001-000000000005.snapshot")
    storage.remove("log/00000001-000000000001.delta")
    lost = publisher(storage)
    assert (lost.version, lost.last_round) == (0, -1)
    assert lost.contradicts(log.point)


def test_files_under_another_versions_name_do_not_fit() -> None:
    log, storage = filled(2)
    storage.write("log/00000001-000000000003.delta", storage.read(log.plan(Point())[1]) or b"")
    storage.write("log/notes.txt", b"")
    again = publisher(storage)
    assert again.point == log.point
    assert again.dropped == ["log/00000001-000000000003.delta"]


def test_a_forged_state_digest_does_not_fit() -> None:
    one, _ = filled(1)
    other = RecordingStorage()
    liar = publisher(other)
    liar.state.digest = 77
    publish(liar, rng(), 1)
    assert publisher(other).version == 0
    assert one.point.chain == liar.point.chain


@pytest.mark.parametrize("what", ["base", "sender", "manifest", "floors"])
def test_a_log_of_another_model_base_or_node_is_refused_with_the_cure(what: str) -> None:
    _, storage = filled(2)
    manifest = manifest_of([("other", (4, 4), "float32", False)]) if what == "manifest" else MANIFEST
    state = State(manifest, np.full(len(manifest.tensors), 0, np.int8)) if what == "floors" else fresh_state(manifest)
    base, sender = (bytes(32) if what == "base" else BASE), ("bob" if what == "sender" else "alice")
    with pytest.raises(DataDirError, match="does not fit this model" if what == "floors" else "--fresh"):
        PublishedLog(storage, state, sender, base, 4)


def test_an_earlier_state_comes_back_from_the_tail() -> None:
    log, _ = filled(4, retention=8)
    states = [publisher().state]
    replay = fresh_state()
    for name in log.plan(Point()):
        replay.apply(replay.prepare(Frame.open(log.read(name).frame, MANIFEST)))
        states.append(replay.copy())
    for version, state in enumerate(states):
        then = log.state_at(version)
        assert then is not None
        assert then.digest == state.digest
        for t in range(len(MANIFEST.tensors)):
            assert (then.tensor(t, CPU) == state.tensor(t, CPU)).all()
    assert log.state_at(5) is None
    assert equal(log.state, states[-1])


def test_an_earlier_state_beyond_the_tail_or_behind_a_damaged_file_is_none() -> None:
    log, storage = filled(9, retention=3)
    assert log.state_at(2) is None
    assert log.state_at(6) is not None
    storage.write("log/00000001-000000000008.delta", b"damaged")
    assert log.state_at(6) is None
    assert log.state_at(8) is not None


def test_damaged_entries_never_verify() -> None:
    entry = publisher().append(random_delta(rng()), header())
    whole = all_bytes(entry.frame) + entry.trailer()
    assert Entry.open(MemoryBlob(whole)).trailer() == entry.trailer()
    assert len(entry) == len(whole)
    for damaged in flips(whole, rng(), 200):
        with pytest.raises(PeerError):
            Entry.open(MemoryBlob(damaged)).verify()


def test_more_effort_gives_frames_that_are_no_larger_and_lead_to_the_same_state() -> None:
    plain = publisher()
    thorough = PublishedLog(MemoryStorage(), fresh_state(), "alice", BASE, 4, effort="high")
    publish(plain, rng(3), 3)
    publish(thorough, rng(3), 3)
    assert equal(plain.state, thorough.state)
    names = plain.plan(Point())
    assert names == thorough.plan(Point())
    assert all(len(thorough.read(name).frame) <= len(plain.read(name).frame) for name in names)


def deltas_of(storage: RecordingStorage) -> list[int]:
    return [len(storage.read(name) or b"") for name in storage.names("log") if name.endswith("delta")]


@pytest.mark.parametrize("limit", [1, 700, 2000, 6000])
def test_the_tail_is_bounded_in_bytes_and_the_newest_delta_stays(limit: int) -> None:
    storage = RecordingStorage()
    log = PublishedLog(storage, fresh_state(), "alice", BASE, 64, retention_bytes=limit)
    replicas, draw = follower(), rng()
    largest = 0
    for version in range(1, 40):
        publish(log, draw)
        tail = deltas_of(storage)
        largest = max(largest, len(tail))
        assert sum(tail) <= max(limit, tail[-1])
        assert kinds(storage.names("log"))[-1].endswith(str(version))
        assert sum(name.endswith("snapshot") for name in storage.names("log")) <= 1
        held = pull(log, replicas)
        assert held is not None
        assert held.point == log.point
        assert sorted(storage.names("log")) == sorted(log._index.sizes)
    assert (largest > 1) == (limit > 1000), "the bound decides how long the tail is"
    newcomer = pull(log, follower())
    assert newcomer is not None
    assert equal(newcomer.state, log.state)
    again = PublishedLog(storage, fresh_state(), "alice", BASE, 64, retention_bytes=limit)
    assert again.dropped == []
    assert again.point == log.point
    assert equal(again.state, log.state)


def test_a_log_without_a_bound_in_bytes_keeps_its_versions() -> None:
    storage = RecordingStorage()
    log = PublishedLog(storage, fresh_state(), "alice", BASE, 64, retention_bytes=0)
    publish(log, rng(), 20)
    assert len(deltas_of(storage)) == 20


def test_a_full_disk_delays_a_compaction_by_size_and_loses_nothing() -> None:
    storage = RecordingStorage()
    log = PublishedLog(storage, fresh_state(), "alice", BASE, 64, retention_bytes=700)
    draw = rng()

    def refuse_snapshots(name: str) -> None:
        if name.endswith("snapshot"):
            raise DegradedError("no space left")

    storage.watch = refuse_snapshots
    publish(log, draw, 6)
    assert len(deltas_of(storage)) == 6
    storage.watch = lambda name: None
    publish(log, draw, 1)
    assert len(deltas_of(storage)) == 1
    held = pull(log, follower())
    assert held is not None
    assert equal(held.state, log.state)
