"""The checker finds what it is there for: bugs written into a clean run's events, and bugs planted in real nodes."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peermerge.node import merge
from peermerge.node.membership import Roster, View
from peermerge.node.membership.gossip import Gossiper
from peermerge.node.participant import Participant
from peermerge.node.replicas import Replica
from peermerge.node.schedule import Plan
from peermerge.protocol.blob import Blob
from peermerge.protocol.members import Member
from peermerge.protocol.messages import Header

from .checker import INVARIANTS, KILL, PAUSE, ROLLBACK, Fault, Run, check, main, read, table, write_faults
from .schedules import Planned, Schedule
from .simulator import play

pytestmark = pytest.mark.faults
Logs = dict[str, list[dict[str, Any]]]
Edit = Callable[[Logs], None]
NAMES = ("n0", "n1", "n2", "n3")


def schedule(*faults: Planned, **settings: Any) -> Schedule:
    """Return a short run of four nodes on a ring."""
    chosen = {"topology.name": "ring", "log.checkpoint_every": 2} | {
        k.replace("__", "."): v for k, v in settings.items()
    }
    return Schedule(0, chosen, dict.fromkeys(NAMES, 1.0), faults, rounds=6)


@pytest.fixture(scope="module")
def clean() -> Run:
    """A run in which a node is killed and comes back: nothing in it violates anything."""
    outcome = play(schedule(Planned("kill", 4.0, 8.0, ("n2",))))
    assert outcome.fired["kill"] == 1
    assert not outcome.violations, outcome.report
    return outcome.run


def edited(run: Run, edit: Edit) -> Run:
    """Return a run whose events were changed."""
    logs: Logs = copy.deepcopy({node: [dict(event) for event in log] for node, log in run.logs.items()})
    edit(logs)
    return replace(run, logs=logs)


def event(logs: Logs, kind: str, node: str = "n1", number: int = -1, **fields: Any) -> dict[str, Any]:
    """Return one of a node's events of a kind."""
    return [e for e in logs[node] if e["event"] == kind and all(e[k] == v for k, v in fields.items())][number]


def delta(logs: Logs) -> dict[str, Any]:
    """Return one that says that a delta was applied, and merged later."""
    return next(e for e in reversed(logs["n1"]) if e["event"] == "applied" and e["from_version"])


def merged(logs: Logs) -> dict[str, Any]:
    """Return a merge of both neighbours."""
    return next(e for e in reversed(logs["n1"]) if e["event"] == "merge" and len(e["merged"]) == 2)


def applied_twice(logs: Logs) -> None:
    log = logs["n1"]
    log.insert(log.index(delta(logs)) + 1, dict(delta(logs)))


def applied_to_another_version(logs: Logs) -> None:
    delta(logs)["from_version"] -= 1


def merges_no_version(logs: Logs) -> None:
    merged(logs)["merged"][0][2] = 0


def merges_another_version(logs: Logs) -> None:
    merged(logs)["merged"][0][2] -= 1


def another_frame(logs: Logs) -> None:
    delta(logs)["sha256"] = "0" * 16


def never_published(logs: Logs) -> None:
    source = delta(logs)
    logs[source["peer"]] = [
        e
        for e in logs[source["peer"]]
        if (e["event"], e.get("epoch"), e.get("version")) != ("published", source["epoch"], source["version"])
    ]


def published_twice(logs: Logs) -> None:
    logs["n1"].append(event(logs, "published") | {"sha256": "0" * 16})


def round_goes_back(logs: Logs) -> None:
    event(logs, "round_begin")["round"] -= 1


def starts_too_early(logs: Logs) -> None:
    event(logs, "start", "n2")["round"] = 0


def incarnation_again(logs: Logs) -> None:
    event(logs, "start", "n2")["incarnation"] = 1


def merges_a_stranger(logs: Logs) -> None:
    merged(logs)["offered"].append("n9")
    merged(logs)["merged"].append(["n9", 1, 1, 0.0])


def merges_in_no_view(logs: Logs) -> None:
    merged(logs)["view"] += 1


def merges_what_is_old(logs: Logs) -> None:
    merge_of = merged(logs)
    peer, epoch, version, _ = merge_of["merged"][0]
    event(logs, "applied", peer=peer, epoch=epoch, version=version)["round"] -= 1


def never_hears_of_a_return(logs: Logs) -> None:
    logs["n1"].remove(event(logs, "view", name="n2", state="alive"))


def view_changes_late(logs: Logs) -> None:
    last = max(e["time"] for log in logs.values() for e in log)
    logs["n1"].append(event(logs, "view") | {"time": last - 0.5})
    logs["n0"].append(dict(logs["n0"][-1]))


def not_finite(logs: Logs) -> None:
    merged(logs)["finite"] = False


def negative_weight(logs: Logs) -> None:
    merged(logs)["merged"][0][3] = -0.1


def weights_above_one(logs: Logs) -> None:
    for entry in merged(logs)["merged"]:
        entry[3] = 0.51


def weight_that_is_none(logs: Logs) -> None:
    merged(logs)["merged"][0][3] = float("nan")


def pull_ends_late(logs: Logs) -> None:
    pull = event(logs, "pull")
    pull["seconds"] = pull["limit_s"] + 1.01


def task_dies(logs: Logs) -> None:
    logs["n1"].append({"event": "unhandled", "node": "n1", "time": 9.0, "error": "ValueError()"})


def frame_vanishes(logs: Logs) -> None:
    event(logs, "pull", arrived=1)["arrived"] = 2


def frame_applied_in_secret(logs: Logs) -> None:
    event(logs, "pull", arrived=1).update(arrived=0, applied=0)


def neighbour_forgotten(logs: Logs) -> None:
    merged(logs)["merged"].pop()


def skipped_without_a_reason(logs: Logs) -> None:
    both = merged(logs)
    peer, *_ = both["merged"].pop()
    both["skipped"] = {peer: ""}


EDITS: dict[Edit, str] = {
    applied_twice: "I1",
    applied_to_another_version: "I1",
    merges_no_version: "I1",
    merges_another_version: "I1",
    another_frame: "I2",
    never_published: "I2",
    published_twice: "I2",
    round_goes_back: "I3",
    starts_too_early: "I3",
    incarnation_again: "I3",
    merges_a_stranger: "I4",
    merges_in_no_view: "I4",
    merges_what_is_old: "I5",
    never_hears_of_a_return: "I6",
    view_changes_late: "I6",
    not_finite: "I7",
    negative_weight: "I8",
    weights_above_one: "I8",
    weight_that_is_none: "I8",
    pull_ends_late: "I9",
    task_dies: "I10",
    frame_vanishes: "I11",
    frame_applied_in_secret: "I11",
    neighbour_forgotten: "I11",
    skipped_without_a_reason: "I11",
}


def test_every_invariant_has_a_planted_bug() -> None:
    assert set(EDITS.values()) == set(INVARIANTS)


@pytest.mark.parametrize(("edit", "invariant"), EDITS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_bug_written_into_the_events_is_found(clean: Run, edit: Edit, invariant: str) -> None:
    found = check(edited(clean, edit))
    assert invariant in {violation.invariant for violation in found}
    assert all(line in table(found) for line in {f"{v.invariant:<4} {v.node:<12} {v.what}" for v in found})


def test_who_may_not_take_part_is_found_though_a_member(clean: Run) -> None:
    found = check(replace(clean, allowed=frozenset(NAMES) - {"n0"}))
    assert {violation.invariant for violation in found} == {"I4"}
    assert {violation.node for violation in found} == {"n1", "n3"}, "its neighbours on the ring"


def test_what_a_process_prints_of_an_exception_is_found(clean: Run) -> None:
    [found] = check(replace(clean, outputs={"n1": "x\nTask exception was never retrieved\n", "n2": "fine"}))
    assert (found.invariant, found.node) == ("I10", "n1")


def test_a_node_that_stood_still_may_end_its_pulls_later(clean: Run) -> None:
    def late(logs: Logs) -> None:
        pull = event(logs, "pull")
        pull["seconds"] = pull["limit_s"] + 5.0

    run = edited(clean, late)
    ended = event(run.logs, "pull")["time"]  # type: ignore[arg-type]
    paused = Fault(PAUSE, ended - 4.5, ended, ("n1",))
    assert [v.invariant for v in check(run)] == ["I9"]
    assert not check(replace(run, faults=[*(run.faults or ()), paused]))
    assert check(replace(run, faults=[*(run.faults or ()), replace(paused, nodes=("n2",))]))


def test_an_older_data_directory_may_start_at_its_own_round(clean: Run) -> None:
    run = edited(clean, starts_too_early)
    began = event(run.logs, "start", "n2")["time"]  # type: ignore[arg-type]
    assert [v.invariant for v in check(run)] == ["I3"]
    assert not check(replace(run, faults=[*(run.faults or ()), Fault(ROLLBACK, began, began, ("n2",))]))


def test_of_a_log_whose_beginning_is_gone_only_what_is_known_is_checked(clean: Run) -> None:
    def torn(logs: Logs) -> None:
        del logs["n1"][: len(logs["n1"]) // 2]

    assert not check(edited(clean, torn))
    assert [v.invariant for v in check(edited(edited(clean, torn), another_frame))] == ["I2"]


def test_behind_a_gap_nothing_is_held_against_a_node(clean: Run) -> None:
    def gap(logs: Logs) -> None:
        first = next(i for i, e in enumerate(logs["n1"]) if e["event"] == "published")
        last = next(i for i, e in enumerate(logs["n1"]) if i > first + 5 and e["event"] == "round_begin")
        logs["n1"][last]["lost"] = last - first
        del logs["n1"][first:last]

    assert not check(edited(clean, gap))


def test_without_the_faults_nothing_is_said_about_views(clean: Run) -> None:
    assert not check(replace(edited(clean, never_hears_of_a_return), faults=None))


def test_a_killed_node_that_stays_away_is_no_longer_asked_for_its_view(clean: Run) -> None:
    def gone(logs: Logs) -> None:
        logs["n3"] = [e for e in logs["n3"] if e["time"] < 4.0]
        event(logs, "view", "n3")["view"] += 1

    killed = Fault(KILL, 4.0, 4.0, ("n3",))
    run = edited(clean, gone)
    assert "I6" in {violation.invariant for violation in check(run)}
    known = replace(run, faults=[*(run.faults or ()), killed])
    assert "I6" not in {violation.invariant for violation in check(known)}


def test_files_are_read_with_what_was_rotated_away_what_was_printed_and_what_was_done(
    tmp_path: Path, clean: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for node, log in clean.logs.items():
        (tmp_path / node).mkdir()
        lines = [json.dumps(dict(e)) + "\n" for e in log]
        (tmp_path / node / "events.old.jsonl").write_text("".join(lines[:5]))
        (tmp_path / node / "events.jsonl").write_text("".join(lines[5:]) + '{"event": "tor')
        (tmp_path / f"{node}.out").write_text("fine")
    write_faults(tmp_path, clean.faults or ())
    run = read([tmp_path])
    assert run.logs == {node: list(log) for node, log in clean.logs.items()}
    assert list(run.faults or ()) == list(clean.faults or ())
    assert main([str(tmp_path)]) == 0
    assert "no invariant is violated" in capsys.readouterr().out
    (tmp_path / "n1.out").write_text("Traceback (most recent call last):\n  where\nwhy")
    assert main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "I10" in shown
    assert "why" in shown


# ---- Bugs planted in real nodes. ----


def plant_a_replica_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Participant.follow

    def twice(self: Participant, peer: str, header: Header, frame: Blob) -> Replica:
        before = self.replicas.get(peer)
        if before is not None and header.from_version:
            kept = replace(before, state=before.state.copy())
            follow(self, peer, header, frame)
            self.replicas._held[peer] = kept
        return follow(self, peer, header, frame)

    monkeypatch.setattr(Participant, "follow", twice)


def plant_a_start_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = Participant.recover

    def forgetful(self: Participant) -> list[str]:
        warnings = recover(self)
        self.round = 0
        return warnings

    monkeypatch.setattr(Participant, "recover", forgetful)


def plant_merges_of_the_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "too_old", lambda *_, **__: None)


def plant_a_grudge_against_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Roster.learn

    def unforgiving(self: Roster, claims: Iterable[Member], *, first_hand: bool = False) -> None:
        gone = {member.name for member in self.everybody() if not member.state.live}
        learn(self, [claim for claim in claims if claim.name not in gone], first_hand=first_hand)

    monkeypatch.setattr(Roster, "learn", unforgiving)


def plant_weights_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = Participant.offers

    def more(self: Participant, view: View, planned: Plan) -> dict[str, float]:
        return {peer: 1.6 * weight for peer, weight in offers(self, view, planned).items()}

    monkeypatch.setattr(Participant, "offers", more)


def plant_a_task_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(self: Gossiper) -> None:
        await asyncio.sleep(2.0)
        raise ValueError("planted")

    monkeypatch.setattr(Gossiper, "run", dies)


def plant_skips_that_nobody_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_skip", lambda *_: None)


CUT = Planned("partition", 4.0, 13.0, ("n0",), ("n1", "n2", "n3"))
KILLED = Planned("kill", 4.0, 5.0, ("n2",))
PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], Schedule, str]] = [
    (plant_a_replica_that_forgets, schedule(), "I1"),
    (plant_a_start_from_scratch, schedule(KILLED), "I3"),
    (plant_merges_of_the_stale, schedule(CUT, round__mode="async"), "I5"),
    (plant_a_grudge_against_the_dead, schedule(CUT), "I6"),
    (plant_weights_that_grow, schedule(), "I8"),
    (plant_a_task_that_dies, schedule(), "I10"),
    (plant_skips_that_nobody_notes, schedule(KILLED), "I11"),
]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patches:
        yield patches


@pytest.mark.parametrize(("plant", "plan", "invariant"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_a_bug_planted_in_the_nodes_is_found(
    planted: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], plan: Schedule, invariant: str
) -> None:
    plant(planted)
    assert invariant in {violation.invariant for violation in play(plan).violations}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_without_a_bug_the_same_faults_violate_nothing(mode: str) -> None:
    outcome = play(schedule(CUT, KILLED, round__mode=mode))
    assert not outcome.violations, outcome.report
