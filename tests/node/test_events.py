import errno
import json
from pathlib import Path
from typing import Any

import pytest

from peermerge.node.events import EventFile, EventList, NoEvents

from .worlds import Faults


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_in_memory_hold_no_wall_time() -> None:
    events = EventList("alice")
    events.emit("round", round=3)
    NoEvents().emit("round", round=3)
    assert events.events == [{"event": "round", "node": "alice", "round": 3}]


def test_events_on_disk_are_one_json_object_a_line_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    events = EventFile(path, "alice")
    events.emit("start", text="two\nlines")
    assert [line["event"] for line in lines(path)] == ["start"]
    events.emit("stop")
    events.close()
    events.close()
    again = EventFile(path, "alice")
    again.emit("start")
    again.close()
    assert [(line["event"], line["node"]) for line in lines(path)] == [(e, "alice") for e in ("start", "stop", "start")]
    assert all(line["time"] > 0 for line in lines(path))


def test_a_file_grown_large_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventFile, "MAX_BYTES", 300)
    events = EventFile(tmp_path / "events.jsonl", "alice")
    for number in range(12):
        events.emit("round", number=number)
    events.close()
    old, new = (lines(tmp_path / name) for name in ("events.old.jsonl", "events.jsonl"))
    assert [line["number"] for line in old + new] == list(range(old[0]["number"], 12))
    assert (tmp_path / "events.old.jsonl").stat().st_size < 450


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_costs_events_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    events = EventFile(tmp_path / "events.jsonl", "alice")
    fault = Faults(open, 1, number)
    monkeypatch.setattr("builtins.open", fault)
    events.emit("lost")
    events.emit("lost")
    monkeypatch.undo()
    events.emit("kept")
    events.emit("kept too")
    events.close()
    assert (fault.fired, events.lost) == (2, 2)
    kept = [(line["event"], line.get("lost")) for line in lines(tmp_path / "events.jsonl")]
    assert kept == [("kept", 2), ("kept too", None)], "the first behind the gap says how many are missing"


def test_a_write_that_breaks_off_is_counted_once_and_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    class Full:
        def tell(self) -> int:
            return 0

        def write(self, _: str) -> int:
            (tmp_path / "events.jsonl").write_text('{"event": "ha')
            raise OSError(errno.ENOSPC, "no space left on device")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

    events = EventFile(tmp_path / "events.jsonl", "alice")
    events._file = Full()  # type: ignore[assignment]
    events.emit("lost")
    events.emit("kept")
    events.close()
    assert events.lost == 1
    torn, kept = (tmp_path / "events.jsonl").read_text().splitlines()
    assert torn == '{"event": "ha'
    assert json.loads(kept)["event"] == "kept"
