from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from peermerge.coordinator.roster import Roster
from peermerge.coordinator.saver import RETRY_S, Saver
from peermerge.coordinator.store import SavedMesh, Store
from peermerge.protocol.clock import VirtualClock, run_virtual
from peermerge.protocol.errors import DataDirError, DegradedError

from .worlds import KEY, claim

OTHER = ("net", "other")


class Disk(Store):
    """Keeps meshes, unless it is told to refuse; writing takes a while."""

    def __init__(self, meshes: Iterable[SavedMesh] = ()) -> None:
        self.meshes = {(mesh.network, mesh.run): mesh for mesh in meshes}
        self.writes = 0
        self.refuses: type[Exception] | None = None

    def load(self) -> list[SavedMesh]:
        self._check()
        return list(self.meshes.values())

    def save(self, meshes: Iterable[SavedMesh]) -> None:
        self._check()
        self.writes += 1
        for mesh in meshes:
            self.meshes[mesh.network, mesh.run] = mesh

    def _check(self) -> None:
        if self.refuses is not None:
            raise self.refuses("no space left")


class World:
    def __init__(self, *meshes: SavedMesh) -> None:
        self.roster = Roster(2.0, 6.0)
        self.disk = Disk(meshes)
        self.clock = VirtualClock()
        self.saver = Saver(self.roster, self.disk, self.clock)

    def hear(self, name: str, key: tuple[str, str] = KEY) -> None:
        self.roster.hear(key, claim(name), self.clock.now())

    def on_disk(self, key: tuple[str, str] = KEY) -> list[str]:
        return [member.name for member in self.disk.meshes[key].members] if key in self.disk.meshes else []


def test_whoever_waits_finds_its_change_on_disk_and_many_share_a_write() -> None:
    async def program() -> None:
        world = World()
        running = asyncio.create_task(world.saver.run())

        async def join(name: str) -> None:
            world.hear(name)
            await world.saver.saved()
            assert name in world.on_disk()

        await asyncio.gather(*(join(f"n{i}") for i in range(50)))
        assert world.disk.writes <= 2
        assert not world.roster.unsaved
        running.cancel()

    run_virtual(program())


def test_a_disk_that_refuses_costs_no_answer_and_gets_everything_when_it_is_back() -> None:
    async def program() -> None:
        world = World()
        running = asyncio.create_task(world.saver.run())
        world.hear("alice")
        world.hear("alice", OTHER)
        await world.saver.saved()
        world.disk.meshes.clear()
        world.disk.refuses = DegradedError
        world.hear("bob")
        await world.saver.saved()
        assert "no space left" in world.saver.refused
        started = world.clock.now()
        world.hear("carol")
        await world.saver.saved()
        assert world.clock.now() == started
        assert world.roster.counts["disk_errors"] > 0
        world.disk.refuses = None
        await world.clock.sleep(2 * RETRY_S)
        assert not world.saver.refused
        assert world.on_disk() == ["alice", "bob", "carol"]
        assert world.on_disk(OTHER) == ["alice"]
        running.cancel()

    run_virtual(program())


def test_a_file_that_turns_unusable_while_it_runs_is_no_reason_to_end() -> None:
    async def program() -> None:
        world = World()
        world.disk.refuses = DataDirError
        world.hear("alice")
        await world.saver.save()
        assert world.saver.refused

    run_virtual(program())


def test_those_who_were_saved_get_the_time_of_newcomers_and_their_epoch_goes_on() -> None:
    async def program() -> None:
        world = World(SavedMesh(*KEY, 9, (claim("alice"), claim("bob", 2))))
        await world.clock.sleep(100.0)
        await world.saver.restore()
        mesh = world.roster.find(KEY)
        assert mesh.epoch == 9
        assert not world.roster.unsaved
        world.roster.expire(106.0)
        assert [member.name for member in mesh.members] == ["alice", "bob"]
        world.roster.expire(106.1)
        assert not mesh.members
        assert mesh.epoch > 9

    run_virtual(program())


def test_a_disk_that_cannot_be_read_is_told_until_it_is_back_though_nobody_comes() -> None:
    async def program() -> None:
        world = World()
        world.disk.refuses = DegradedError
        await world.saver.restore()
        assert world.saver.refused
        running = asyncio.create_task(world.saver.run())
        world.disk.refuses = None
        await world.clock.sleep(2 * RETRY_S)
        assert not world.saver.refused
        running.cancel()

    run_virtual(program())


def test_a_file_that_is_not_ours_ends_the_start() -> None:
    async def program() -> None:
        world = World()
        world.disk.refuses = DataDirError
        with pytest.raises(DataDirError):
            await world.saver.restore()

    run_virtual(program())
