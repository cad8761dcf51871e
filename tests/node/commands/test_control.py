from __future__ import annotations

import asyncio

import pytest

from .command_line import FakeControl, Outcome, fake_node, run


async def tell(action: str) -> Outcome:
    async with fake_node(Control=FakeControl()) as address:
        return await asyncio.to_thread(run, "control", address, action)


@pytest.mark.parametrize(
    ("action", "answer"),
    [("pause", "pausing after round 7"), ("resume", "resuming at round 7"), ("checkpoint", "saved at round 7")],
)
async def test_the_nodes_answer_is_printed(action: str, answer: str) -> None:
    assert await tell(action) == Outcome(0, f"{answer}\n", "")


async def test_a_refusal_is_an_error_of_the_peer() -> None:
    done = await tell("leave")
    assert done.code == 4
    assert "refused" in done.err
    assert "control is for callers on this machine" in done.err


def test_an_unknown_action_is_a_usage_error() -> None:
    done = run("control", "127.0.0.1:1", "explode")
    assert done.code == 2
    assert "checkpoint" in done.err
