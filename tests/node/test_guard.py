import numpy as np
import pytest
import torch

from peermerge.node.correct import distance
from peermerge.node.guard import Alarm, median_round, outliers, too_old
from peermerge.protocol.errors import Refusal

from .worlds import delta, equal, follower, header, publish, publisher, pull


def test_rule_16_who_is_far_beyond_the_median_is_left_out() -> None:
    distances = {"a": 1.0, "b": 1.2, "c": 0.9, "d": 12.1, "e": 11.9}
    assert outliers(distances, 10) == {"d"}
    assert outliers(distances, 0) == set()
    assert outliers(distances, 1) == {"d", "e"}
    assert outliers(distances | {"d": float("inf")}, 10) == {"d"}


@pytest.mark.parametrize("distances", [{}, {"a": 1.0}, {"a": 1.0, "b": 1e9}, {"a": 0.0, "b": 0.0, "c": 0.0}])
def test_too_few_or_equal_neighbours_have_no_outlier(distances: dict[str, float]) -> None:
    assert outliers(distances, 10) == set()


def test_rule_16_a_valid_frame_is_applied_though_its_sender_is_left_out_of_the_merge() -> None:
    """Skipping it would break the log: the next frame extends it, and is merged again."""
    own, replicas, cpu = publisher(), follower(), torch.device("cpu")
    for seed, name in enumerate(("a", "b", "c", "far")):
        log = publisher(sender=name)
        publish(log, np.random.default_rng(seed))
        if name == "far":
            log.append(delta([0], [1 << 20], -6), header(1))
        pull(log, replicas, name)

    def left_out() -> set[str]:
        held = {name: replicas.get(name) for name in ("a", "b", "c", "far")}
        return outliers({n: distance(own.state, h.state, cpu) for n, h in held.items() if h is not None}, 10)

    assert left_out() == {"far"}
    log.append(delta([0], [-(1 << 20)], -6), header(2))
    held = pull(log, replicas, "far")
    assert held is not None
    assert equal(held.state, log.state)
    assert left_out() == set()


def test_synchronous_rounds_want_this_rounds_version_and_asynchronous_ones_a_fresh_one() -> None:
    for theirs, sync, relaxed in ((4, "DEADLINE", None), (5, None, None), (9, None, None), (2, "DEADLINE", "STALE")):
        reasons = [too_old(5, theirs, synchronous=s, staleness=2) for s in (True, False)]
        assert [r and r.name for r in reasons] == [sync, relaxed]
    assert too_old(5, 3, synchronous=False, staleness=2) is None
    assert isinstance(too_old(5, -1, synchronous=False, staleness=2), Refusal)


def test_the_median_round_is_a_round_somebody_is_in() -> None:
    assert median_round([]) == -1
    assert median_round([-1, -1]) == -1
    assert median_round([7]) == 7
    assert median_round([3, 9, -1]) == 3
    assert median_round([3, 9, 8]) == 8
    assert median_round([1, 2, 8, 9]) == 2


def test_the_alarm_sounds_when_a_figure_rises_for_so_many_rounds_and_noticeably() -> None:
    alarm = Alarm("the residue", 3)
    for value in (1.0, 1.2, 1.5):
        alarm.see(value)
        assert alarm.warning is None
    alarm.see(1.6)
    assert alarm.warning == "DIVERGENCE: the residue rose 3 rounds running, to 1.6"
    alarm.see(1.6)
    assert alarm.warning is None
    for value in (1.61, 1.62, 1.63, 1.64):
        alarm.see(value)
    assert alarm.warning is None
