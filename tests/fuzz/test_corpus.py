"""The kept inputs of the fuzzers are handled as they must be, and still reach what they were kept for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peermerge.protocol import loops

from .inputs import CORPUS, FRAME, check
from .mutation import run
from .paths import ACCEPTED, Broken
from .wire import EVERY_KIND

FRAMES_REFUSED_FOR = {
    "OVERSIZE",
    "BAD_MAGIC",
    "TRUNCATED",
    "UNSUPPORTED_VERSION",
    "MANIFEST_MISMATCH",
    "BAD_HEADER",
    "DIGEST_MISMATCH",
    "NON_FINITE",
    "DECOMPRESS",
    "BAD_INDEX",
    "OVERFLOW",
}
"""Every refusal of a frame that README.md knows."""


def test_the_kept_inputs_reach_every_refusal_of_a_frame_and_every_message() -> None:
    inputs = [path.read_bytes() for path in CORPUS.iterdir()]
    outcomes = {(data[:1], check(data)) for data in inputs}
    assert {name for kind, name in outcomes if kind == FRAME} == {ACCEPTED, *FRAMES_REFUSED_FOR}
    assert {kind for kind, name in outcomes if name == ACCEPTED} >= set(EVERY_KIND)
    assert sum(map(len, inputs)) < 300_000


def test_the_first_engine_takes_frames_of_which_most_pass_their_tables(tmp_path: Path) -> None:
    report = run(1, range(400), float("inf"), tmp_path)
    assert not report.findings
    assert report.frames == 400
    assert report.passed > 200
    assert report.messages == 50
    assert 0 < report.memory < 1


def forget(*_: object) -> None:
    """Do nothing."""


def fail(*_: object) -> None:
    raise IndexError("outside")


@pytest.mark.parametrize(("loop", "fault", "told"), [("negate", forget, "Broken"), ("digits", fail, "IndexError")])
def test_a_faulty_decoder_is_found_and_the_frame_kept(
    loop: str, fault: Callable[..., None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, loop, fault)
    report = run(1, range(300), float("inf"), tmp_path)
    assert any(told in finding for finding in report.findings)
    kept = [path for path in tmp_path.iterdir() if told in path.with_suffix(".txt").read_text()]
    with pytest.raises((Broken, IndexError)):
        check(kept[0].with_suffix(".bin").read_bytes())
