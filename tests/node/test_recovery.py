import json

import numpy as np
import torch

from peermerge.node.checkpoint import Checkpoint, flatten, unflatten
from peermerge.node.log import PublishedLog
from peermerge.node.recovery import generators, restore_generators, resume
from peermerge.node.state import values

from .worlds import MANIFEST, RecordingStorage, header, publish, publisher


def checkpoint(log: PublishedLog, tau: torch.Tensor, round_: int) -> Checkpoint:
    return Checkpoint(round_, log.epoch, log.version, tau, {}, {}, {})


def world(versions: int, retention: int = 4) -> tuple[PublishedLog, RecordingStorage, torch.Tensor]:
    storage = RecordingStorage()
    log = publisher(storage, retention=retention)
    publish(log, np.random.default_rng(0), versions)
    return log, storage, torch.randn(MANIFEST.length, generator=torch.Generator().manual_seed(1))


def test_where_the_log_is_at_the_checkpoint_its_tau_is_taken_bit_for_bit() -> None:
    log, storage, tau = world(3)
    found, round_ = resume(checkpoint(log, tau, 3), publisher(storage))
    assert torch.equal(found, tau)
    assert round_ == 3


def test_what_was_published_after_the_checkpoint_is_added_to_it() -> None:
    log, storage, tau = world(3, retention=8)
    saved, then = checkpoint(log, tau, 3), values(log.state)
    publish(log, np.random.default_rng(2), 4)
    found, round_ = resume(saved, publisher(storage, retention=8))
    torch.testing.assert_close(found, values(log.state) + (tau - then), rtol=0, atol=1e-6)
    assert round_ == 7


def test_without_a_checkpoint_the_published_state_is_what_is_left() -> None:
    log, storage, _ = world(3)
    found, round_ = resume(None, publisher(storage))
    assert torch.equal(found, values(log.state))
    assert round_ == 3


def test_where_the_log_no_longer_reaches_the_checkpoint_what_was_published_since_is_kept() -> None:
    log, storage, tau = world(1)
    saved = checkpoint(log, tau, 1)
    publish(log, np.random.default_rng(2), 9)
    found, round_ = resume(saved, publisher(storage))
    assert torch.equal(found, values(log.state))
    assert round_ == 10
    log, storage, tau = world(3)
    saved = checkpoint(log, tau, 3)
    log.restart(2, header(3))
    found, round_ = resume(saved, publisher(storage))
    assert torch.equal(found, values(log.state))
    assert round_ == 4


def test_an_old_log_beside_a_newer_checkpoint_gives_the_checkpoint() -> None:
    log, storage, tau = world(2)
    backup = storage.copy()
    publish(log, np.random.default_rng(2), 2)
    found, round_ = resume(checkpoint(log, tau, 4), publisher(backup))
    assert torch.equal(found, tau)
    assert round_ == 4


def test_generators_go_on_where_they_were() -> None:
    own = np.random.default_rng(5)
    own.random(3)
    global_state = torch.get_rng_state()
    try:
        states = generators(own, torch.device("cpu"))
        tensors: dict[str, torch.Tensor] = {}
        states = unflatten(json.loads(json.dumps(flatten(states, tensors))), tensors)
        drawn = own.random(4).tolist(), own.integers(0, 9, 3).tolist(), torch.rand(4).tolist()
        other = np.random.default_rng(6)
        restore_generators(states, other, torch.device("cpu"))
        assert (other.random(4).tolist(), other.integers(0, 9, 3).tolist(), torch.rand(4).tolist()) == drawn
        before = other.bit_generator.state
        restore_generators({}, other, torch.device("cpu"))
        assert other.bit_generator.state == before
    finally:
        torch.set_rng_state(global_state)
