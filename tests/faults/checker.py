"""Reads what nodes wrote down and says what must never have happened: `python -m tests.faults.checker FOLDER...`.

A folder is a node's data directory, or holds such directories; beside them a test leaves `NAME.out` (what the node
printed) and `faults.jsonl` (what it did to them). Each invariant is one function over the whole run. They are sound on
logs of which a part is gone (rotated away, or lost to a full disk): what is not known is not held against anybody.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from itertools import takewhile
from pathlib import Path
from typing import Any

from peermerge.node.membership import View
from peermerge.protocol.members import Member

Event = Mapping[str, Any]
Place = tuple[int, int]
"""Log epoch and version."""

ROLLBACK = "rollback"
"""The kind of a fault that gives a node an older data directory."""
PAUSE = "pause"
"""The kind of a fault during which a node's own time stands still."""
KILL = "kill"
"""The kind of a fault after which a node is gone until its next start."""
GRACE_S = 1.0
"""So much later than its limit a pull may end."""
ROUNDING = 1e-5
"""Weights are written with six digits."""
COMPLAINTS = (
    "Traceback (most recent call last)",
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
    "was never awaited",
    "a handler failed",
)
"""What a process prints when something went wrong that nobody handled."""
SHOWN = 2000
"""So many characters before and after a complaint are shown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to whom, from when to when, in the time of the events."""

    kind: str
    start: float
    end: float
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """All that is known of a run. Without `faults` nothing is said about when views must agree."""

    logs: Mapping[str, Sequence[Event]]
    faults: Sequence[Fault] | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] | None = None
    """Who may take part at all; None: whoever is a member."""
    staleness: int = 2
    settle_s: float = 10.0

    @cached_property
    def published(self) -> dict[str, dict[Place, Event]]:
        """What each node is known to have published: the event that says so, by place in its log."""
        return {node: _published(log) for node, log in self.logs.items()}

    @cached_property
    def whole(self) -> frozenset[str]:
        """Those of whose log nothing is gone."""
        return frozenset(node for node, log in self.logs.items() if _is_whole(log))

    def pauses(self, node: str) -> list[Fault]:
        """Return when a node stood still."""
        return [f for f in self.faults or () if f.kind == PAUSE and node in f.nodes]


@dataclass(frozen=True, slots=True)
class Violation:
    """What must never happen, where it did, and the events that show it."""

    invariant: str
    node: str
    what: str
    events: tuple[Event, ...] = ()
    said: str = ""
    """What the process printed then."""


Check = Callable[[Run], Iterator[Violation]]


def check(run: Run) -> list[Violation]:
    """Return every violation of every invariant."""
    return [violation for invariant in INVARIANTS.values() for violation in invariant(run)]


def table(violations: Iterable[Violation]) -> str:
    """Return violations as text, each with its events below it."""
    lines = []
    for v in violations:
        lines.append(f"{v.invariant:<4} {v.node:<12} {v.what}")
        lines += [f"       {json.dumps(dict(event), sort_keys=True)}" for event in v.events]
        lines += [f"       {line}" for line in v.said.splitlines()]
    return "\n".join(lines)


# ---- The invariants. ----


def applied_once(run: Run) -> Iterator[Violation]:
    """I1: no frame is applied twice to one replica, and a merge uses exactly the versions applied last.

    A replica starts anew with a frame from version 0, and may do so when its node does: what it knew may be lost.
    """
    for node, log in run.logs.items():
        held: dict[str, Event] = {}
        for event in log:
            if event["event"] == "start" or "lost" in event:
                held = {}
            elif event["event"] == "applied":
                before = held.get(event["peer"])
                if before is not None and event["from_version"] and _place(event) <= _place(before):
                    yield Violation("I1", node, f"applied {event['peer']}'s frame twice", (before, event))
                elif before is not None and event["from_version"] and not _follows(before, event):
                    yield Violation("I1", node, f"applied {event['peer']}'s frame to another version", (before, event))
                held[event["peer"]] = event
            elif event["event"] == "merge":
                for peer, epoch, version, _ in event["merged"]:
                    if epoch < 1 or version < 1:
                        yield Violation("I1", node, f"merged no version of {peer}", (event,))
                    elif peer in held and _place(held[peer]) != (epoch, version):
                        yield Violation("I1", node, f"merged what was not applied of {peer}", (held[peer], event))


def published_by_sender(run: Run) -> Iterator[Violation]:
    """I2: what is applied or merged was published by its sender, bit for bit, and no version is published twice.

    A snapshot's frame is another than the one its version was published with: there the place must do.
    """
    for node, log in run.logs.items():
        seen: dict[Place, Event] = {}
        for event in log:
            if event["event"] == "published":
                if (before := seen.get(_place(event))) is not None:
                    yield Violation("I2", node, "published a version twice", (before, event))
                seen[_place(event)] = event
            elif event["event"] == "applied":
                source = _source(run, event["peer"], _place(event))
                if source is None:
                    yield Violation("I2", node, f"applied what {event['peer']} did not publish", (event,))
                elif event["from_version"] and source.get("sha256", event["sha256"]) != event["sha256"]:
                    yield Violation("I2", node, f"applied another frame than {event['peer']}'s", (source, event))
            elif event["event"] == "merge":
                for peer, epoch, version, _ in event["merged"]:
                    if _source(run, peer, (epoch, version)) is None:
                        yield Violation("I2", node, f"merged what {peer} did not publish", (event,))


def rounds_go_on(run: Run) -> Iterator[Violation]:
    """I3: within a life rounds only rise, and the next life begins no earlier than what was durable.

    Durable are a checkpoint's round and the round behind a published version.
    """
    for node, log in run.logs.items():
        durable: Event | None = None
        started: Event | None = None
        latest: Event | None = None
        for event in log:
            match event["event"]:
                case "start":
                    if started is not None and event["incarnation"] <= started["incarnation"]:
                        yield Violation("I3", node, "an incarnation is used again", (started, event))
                    if _rolled_back(run, node, durable, event):
                        durable = None
                    if durable is not None and event["round"] < _next_round(durable):
                        yield Violation("I3", node, "starts before what was durable", (durable, event))
                    started, latest = event, None
                case "round_begin":
                    floor = latest["round"] + 1 if latest else started["round"] if started else 0
                    if event["round"] < floor:
                        shown = tuple(e for e in (latest or started, event) if e is not None)
                        yield Violation("I3", node, "a round goes back", shown)
                    latest = event
                case "checkpoint" | "published":
                    if durable is None or _next_round(event) >= _next_round(durable):
                        durable = event


def members_only(run: Run) -> Iterator[Violation]:
    """I4: only members of the view that a merge names are merged, and only those who are allowed to take part."""
    for node, log in run.logs.items():
        alone = names = frozenset([node])
        views = {_view_id(alone): alone}
        whole = node in run.whole
        for number, event in enumerate(log):
            if event["event"] == "start":
                names = _before_start(alone, log[:number])
            elif event["event"] == "view":
                names = _changed(names, event)
                if _view_id(names) == event["view"]:  # all that came at once have been counted
                    views[event["view"]] = names
            elif event["event"] == "merge":
                merged = {peer for peer, *_ in event["merged"]}
                known = views.get(event["view"])
                if whole and known is None and merged:
                    yield Violation("I4", node, "merged in a view that it never had", (event,))
                elif whole and known is not None and (strangers := sorted(merged - known)):
                    yield Violation("I4", node, f"merged {', '.join(strangers)}, no member of its view", (event,))
                if run.allowed is not None and (strangers := sorted(merged - run.allowed)):
                    yield Violation("I4", node, f"merged {', '.join(strangers)}, who may not take part", (event,))


def not_stale(run: Run) -> Iterator[Violation]:
    """I5: no merged state lies further behind than the staleness allows."""
    for node, log in run.logs.items():
        applied: dict[tuple[str, int, int], int] = {}
        for event in log:
            if event["event"] == "applied":
                applied[event["peer"], event["epoch"], event["version"]] = event["round"]
            elif event["event"] == "merge":
                for peer, epoch, version, _ in event["merged"]:
                    source = run.published.get(peer, {}).get((epoch, version), {})
                    told = source["round"] if source.get("event") == "published" else event["round"]
                    behind = event["round"] - applied.get((peer, epoch, version), told)
                    if behind > run.staleness:
                        yield Violation("I5", node, f"merged a state of {peer} that is {behind} rounds old", (event,))


def views_agree(run: Run) -> Iterator[Violation]:
    """I6: once nothing has been done to anybody for `settle_s`, all who live have one view and keep it.

    Starts and stops count as done to somebody.
    """
    if run.faults is None:
        return
    last = max((event["time"] for log in run.logs.values() for event in log), default=0.0)
    for since, until in _calm(run, last):
        if (settled := since + run.settle_s) >= until:
            continue
        alive = {node: log for node, log in run.logs.items() if _alive(run, node, log, settled)}
        seen = {node: _last_view(log, settled) for node, log in alive.items()}
        if len({event["view"] if event else None for event in seen.values()}) > 1:
            shown = tuple(event for event in seen.values() if event)
            yield Violation("I6", ", ".join(seen), f"views differ {settled - since:g} s after {since:g}", shown)
        for node, log in alive.items():
            late = [e for e in log if e["event"] == "view" and settled < e["time"] < until]
            if late:
                yield Violation("I6", node, f"its view changes though nothing happened since {since:g}", tuple(late))


def finite(run: Run) -> Iterator[Violation]:
    """I7: all parameters are finite after each merge."""
    for node, event in _of(run, "merge"):
        if event["finite"] is not True:
            yield Violation("I7", node, "parameters are not finite after a merge", (event,))


def weights_are_shares(run: Run) -> Iterator[Violation]:
    """I8: mixing weights are not negative and sum to 1, of which a node keeps for itself what the others leave."""
    for node, event in _of(run, "merge"):
        weights = [weight for *_, weight in event["merged"]]
        if any(not weight >= 0 for weight in weights):
            yield Violation("I8", node, "a weight is negative", (event,))
        elif not sum(weights) <= 1 + ROUNDING * len(weights):
            yield Violation("I8", node, f"weights sum to {sum(weights):g}", (event,))


def pulls_end(run: Run) -> Iterator[Violation]:
    """I9: each pull ends by its limit, but for the time that its node itself stood still."""
    for node, event in _of(run, "pull"):
        over = event["seconds"] - event["limit_s"] - GRACE_S
        end = event.get("time", 0.0)
        over -= sum(max(0.0, min(p.end, end) - max(p.start, end - event["seconds"])) for p in run.pauses(node))
        if over > 0:
            yield Violation("I9", node, f"a pull of {event['peer']} ended {over:.3f} s too late", (event,))


def nothing_unhandled(run: Run) -> Iterator[Violation]:
    """I10: no task died of an exception that nobody handled."""
    for node, event in _of(run, "unhandled"):
        yield Violation("I10", node, "an exception that nobody handled", (event,))
    for node, output in run.outputs.items():
        for complaint in COMPLAINTS:
            if complaint in output:
                where = output.index(complaint)
                said = output[max(0, where - SHOWN) : where + SHOWN]
                yield Violation("I10", node, f"printed {complaint!r}", said=said)


def all_accounted_for(run: Run) -> Iterator[Violation]:
    """I11: each frame that arrived was applied, or refused for a reason that ended its pull; and each neighbour of a
    merge was merged or skipped for a reason, not both.
    """
    for node, log in run.logs.items():
        applied: dict[str, list[Event]] = defaultdict(list)
        for event in log:
            if event["event"] == "start" or "lost" in event:
                applied.clear()
            elif event["event"] == "applied":
                applied[event["peer"]].append(event)
            elif event["event"] == "pull":
                noted = applied.pop(event["peer"], [])
                if not 0 <= event["arrived"] - event["applied"] <= bool(event["reason"]):
                    yield Violation("I11", node, f"frames of {event['peer']} are not accounted for", (event,))
                # Who stops in the midst of applying has applied it nevertheless.
                if "lost" not in event and not 0 <= len(noted) - event["applied"] <= (event["reason"] == "CANCELLED"):
                    yield Violation("I11", node, f"applied {len(noted)} frames of {event['peer']}", (*noted, event))
            elif event["event"] == "merge":
                merged, skipped = [peer for peer, *_ in event["merged"]], event["skipped"]
                if sorted([*merged, *skipped]) != sorted(event["offered"]) or not all(skipped.values()):
                    yield Violation("I11", node, "a neighbour is neither merged nor skipped, or both", (event,))


INVARIANTS: dict[str, Check] = {
    "I1": applied_once,
    "I2": published_by_sender,
    "I3": rounds_go_on,
    "I4": members_only,
    "I5": not_stale,
    "I6": views_agree,
    "I7": finite,
    "I8": weights_are_shares,
    "I9": pulls_end,
    "I10": nothing_unhandled,
    "I11": all_accounted_for,
}


# ---- Places in logs. ----


def _of(run: Run, kind: str) -> Iterator[tuple[str, Event]]:
    return ((node, event) for node, log in run.logs.items() for event in log if event["event"] == kind)


def _place(event: Event) -> Place:
    return int(event["epoch"]), int(event["version"])


def _follows(before: Event, event: Event) -> bool:
    return _place(before) == (int(event["epoch"]), int(event["from_version"]))


def _next_round(durable: Event) -> int:
    return int(durable["round"] + (durable["event"] == "published"))


def _published(log: Sequence[Event]) -> dict[Place, Event]:
    found: dict[Place, Event] = {}
    for event in log:
        match event["event"]:
            case "published":
                found[_place(event)] = event
            case "start":  # killed between writing a version and saying so
                found.setdefault(_place(event), event)
            case "log_epoch":  # its first version is the whole state
                found.setdefault((event["epoch"], 1), event)
    return found


def _source(run: Run, peer: str, place: Place) -> Event | None:
    """Return the event that published a version; an empty one where its log may have said so and is gone."""
    found = run.published.get(peer, {}).get(place)
    return {} if found is None and peer in run.logs and peer not in run.whole else found


def _is_whole(log: Sequence[Event]) -> bool:
    begun = any(event["event"] == "start" and event["incarnation"] == 1 for event in log)
    return begun and not any("lost" in event for event in log)


def _rolled_back(run: Run, node: str, durable: Event | None, start: Event) -> bool:
    told = [f for f in run.faults or () if f.kind == ROLLBACK and node in f.nodes]
    return any(f.start <= start["time"] and (durable is None or f.end >= durable["time"]) for f in told)


# ---- Views and lives. ----


def _view_id(names: Iterable[str]) -> int:
    return View(tuple(Member(name, "") for name in sorted(names))).id


def _changed(names: frozenset[str], event: Event) -> frozenset[str]:
    return names | {event["name"]} if event["state"] in ("alive", "suspect") else names - {event["name"]}


def _before_start(alone: frozenset[str], log: Sequence[Event]) -> frozenset[str]:
    """Return whom a node knows at its start: the door opens a moment before it says so."""
    early = list(takewhile(lambda event: event["event"] == "view", reversed(log)))[::-1]
    for first in range(len(early)):
        names = reduce(_changed, early[first:], alone)
        if _view_id(names) == early[-1]["view"]:
            return names
    return alone


def _last_view(log: Sequence[Event], now: float) -> Event | None:
    return next((e for e in reversed(log) if e["event"] == "view" and e["time"] <= now), None)


def _alive(run: Run, node: str, log: Sequence[Event], now: float) -> bool:
    life = next((e for e in reversed(log) if e["event"] in ("start", "stop") and e["time"] <= now), None)
    if life is None or life["event"] == "stop":
        return False
    return not any(f.kind == KILL and node in f.nodes and life["time"] <= f.start <= now for f in run.faults or ())


def _calm(run: Run, last: float) -> Iterator[tuple[float, float]]:
    """Yield the times in which nothing was done to anybody."""
    lives = [e["time"] for log in run.logs.values() for e in log if e["event"] in ("start", "stop")]
    busy = sorted([(f.start, f.end) for f in run.faults or ()] + [(time, time) for time in lives])
    since = 0.0
    for start, end in [*busy, (last, last)]:
        if start > since:
            yield since, start
        since = max(since, end)


# ---- Files. ----


def read(folders: Iterable[Path], **rules: Any) -> Run:
    """Return the run whose nodes' data directories these folders are or hold."""
    logs: dict[str, list[Event]] = {}
    outputs: dict[str, str] = {}
    faults: list[Fault] | None = None
    for folder in folders:
        for data in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
            if (data / "events.jsonl").exists():
                events = _lines(data / "events.old.jsonl") + _lines(data / "events.jsonl")
                name = str(events[0]["node"]) if events else data.name
                logs[name] = events
                printed = data.parent / f"{data.name}.out"
                outputs[name] = printed.read_text(errors="replace") if printed.exists() else ""
        if (folder / "faults.jsonl").exists():
            told = [Fault(e["kind"], e["start"], e["end"], tuple(e["nodes"])) for e in _lines(folder / "faults.jsonl")]
            faults = (faults or []) + told
    return Run(logs, faults, outputs, **rules)


def write_faults(folder: Path, faults: Iterable[Fault]) -> None:
    """Leave word of what was done to the nodes whose data directories a folder holds."""
    (folder / "faults.jsonl").write_text("".join(json.dumps(asdict(fault)) + "\n" for fault in faults))


def _lines(path: Path) -> list[Event]:
    """Return the events that are whole: a kill may tear the last line, and the next life begins a new one."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def main(arguments: Sequence[str]) -> int:
    """Check the runs in some folders; return 1 if anything is violated."""
    if not arguments:
        print(__doc__)
        return 2
    run = read(map(Path, arguments))
    violations = check(run)
    events = sum(map(len, run.logs.values()))
    print(table(violations) or f"{events} events of {len(run.logs)} nodes: no invariant is violated")
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
