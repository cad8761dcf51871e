"""Publisher and followers hold equal integers, exponents and digests, whatever happens to either's memory."""

import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peermerge.node.storage import MemoryStorage
from peermerge.protocol.errors import EnvelopeError

from .worlds import MANIFEST, RecordingStorage, equal, follower, greet, header, publish, publisher, pull, random_delta


def test_a_thousand_random_deltas_leave_every_follower_equal_to_the_publisher(tmp_path: Path) -> None:
    """Followers by tail, by snapshot, by both, and restarted in between; the publisher restarts and loses history."""
    rng, storage = np.random.default_rng(5), RecordingStorage()
    log, backup = publisher(storage, retention=16), storage.copy()
    tail, snapshot, both, restarted = (follower(tmp_path / str(i)) for i in range(4))
    ways = dict.fromkeys(["tail", "snapshot", "both", "restarted", "backup", "reopened"], 0)
    for step in range(1, 1001):
        log.append(random_delta(rng), header(step))
        if step % 37 == 0:
            log, ways["reopened"] = publisher(storage, retention=16), ways["reopened"] + 1
        if step % 101 == 0:
            backup = storage.copy()
        if step % 151 == 0:
            storage = _adopt(backup)
            log, ways["backup"] = publisher(storage, retention=16), ways["backup"] + 1
            for replicas in (tail, snapshot, both, restarted):
                greet(log, replicas)
        if step % 3 == 0:
            restarted, ways["restarted"] = follower(tmp_path / "3"), ways["restarted"] + 1
        plans = [(tail, False, 1.0), (snapshot, True, 0.05), (both, rng.random() < 0.3, 0.1), (restarted, False, 0.1)]
        for replicas, whole, often in plans:
            if rng.random() < often or step == 1000:
                ways["snapshot" if whole else "tail"] += 1
                ways["both"] += replicas is both
                held = pull(log, replicas, snapshot=whole)
                assert held is not None
                assert held.point == log.point
                assert equal(log.state, held.state)
    assert log.epoch > 1
    assert min(ways.values()) >= 5


def _adopt(backup: MemoryStorage) -> RecordingStorage:
    storage = RecordingStorage()
    for name in backup.names("log"):
        storage.write(name, backup.read(name) or b"")
    return storage


class Worlds(RuleBasedStateMachine):
    """A publisher that restarts and is put back, and two followers that come and go."""

    @initialize(retention=st.integers(1, 6))
    def begin(self, retention: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.retention = retention
        self.storage = RecordingStorage()
        self.backups = [self.storage.copy()]
        self.log = publisher(self.storage, retention=retention)
        self.followers = [follower(Path(self.folder.name) / str(i)) for i in range(2)]

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.followers.clear()
            self.folder.cleanup()

    @rule(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3))
    def publish(self, seed: int, count: int) -> None:
        publish(self.log, np.random.default_rng(seed), count)

    @rule(who=st.integers(0, 1), whole=st.booleans())
    def follow(self, who: int, whole: bool) -> None:
        replicas = self.followers[who]
        greet(self.log, replicas)
        held = pull(self.log, replicas, snapshot=whole)
        assert (held is None) == (self.log.version == 0)
        if held is not None:
            assert held.point == self.log.point
            assert equal(self.log.state, held.state)

    @rule(who=st.integers(0, 1))
    def follow_without_greeting(self, who: int) -> None:
        replicas = self.followers[who]
        misled = self.log.contradicts(replicas.point("alice"))
        with suppress(EnvelopeError) if misled else nullcontext():
            held = pull(self.log, replicas)
            assert held is None or misled or equal(self.log.state, held.state)

    @rule(who=st.integers(0, 1))
    def restart_follower(self, who: int) -> None:
        before = self.followers[who].point("alice")
        self.followers[who] = follower(Path(self.folder.name) / str(who))
        assert self.followers[who].point("alice") == before

    @rule()
    def restart_publisher(self) -> None:
        before, state = self.log.point, self.log.state
        self.log = publisher(self.storage, retention=self.retention)
        assert self.log.point == before
        assert equal(state, self.log.state)
        assert not self.log.dropped

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.storage.copy())

    @precondition(lambda self: len(self.backups) > 1)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        self.storage = _adopt(data.draw(st.sampled_from(self.backups)))
        self.log = publisher(self.storage, retention=self.retention)

    @invariant()
    def the_digest_is_the_content(self) -> None:
        if hasattr(self, "log"):
            assert equal(self.log.state, self.log.state)
            assert self.log.point.state == self.log.state.digest
            assert self.log.state.manifest is MANIFEST


Worlds.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestWorlds = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")(Worlds.TestCase)
