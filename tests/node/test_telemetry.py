import json
from concurrent.futures import ThreadPoolExecutor

from peermerge.node.events import EventList
from peermerge.node.telemetry import MAX_BYTES, MAX_QUEUED, Telemetry


def drained(telemetry: Telemetry) -> list[dict[str, object]]:
    found = []
    while (message := telemetry.oldest()) is not None:
        found.append(json.loads(message))
        telemetry.sent(message)
    return found


def test_every_event_is_recorded_and_only_the_telling_ones_are_queued() -> None:
    events = EventList("alice")
    telemetry = Telemetry(events, "alice")
    for event in ("start", "round", "pull", "view", "degraded", "finished", "stop"):
        telemetry.emit(event, round=3)
    assert [each["event"] for each in events.events] == [
        *("start", "round", "pull", "view", "degraded", "finished", "stop")
    ]
    told = drained(telemetry)
    assert [each["event"] for each in told] == ["round", "view", "degraded", "finished", "stop"]
    assert all(each["node"] == "alice" and each["round"] == 3 for each in told)
    assert telemetry.dropped == 0


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    telemetry = Telemetry(EventList("alice"), "alice")
    for number in range(MAX_QUEUED + 7):
        telemetry.emit("round", round=number)
    assert telemetry.dropped == 7
    assert [each["round"] for each in drained(telemetry)] == list(range(7, MAX_QUEUED + 7))


def test_a_message_too_large_is_dropped_and_counted() -> None:
    telemetry = Telemetry(EventList("alice"), "alice")
    telemetry.emit("degraded", reason="x" * MAX_BYTES)
    assert telemetry.oldest() is None
    assert telemetry.dropped == 1


def test_a_message_waits_until_it_was_sent_and_takes_no_other_with_it() -> None:
    telemetry = Telemetry(EventList("alice"), "alice")
    telemetry.emit("round", round=0)
    first = telemetry.oldest()
    assert first is not None
    assert telemetry.oldest() is first
    for number in range(1, MAX_QUEUED + 1):
        telemetry.emit("round", round=number)
    telemetry.sent(first)  # dropped while it was under way
    assert drained(telemetry)[0]["round"] == 1
    assert telemetry.dropped == 1


def test_any_thread_may_emit() -> None:
    telemetry = Telemetry(EventList("alice"), "alice")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: telemetry.emit("round", round=number), range(2 * MAX_QUEUED)))
    assert len(drained(telemetry)) == telemetry.dropped == MAX_QUEUED
