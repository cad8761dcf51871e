"""A real coordinator process, killed, stopped, and with a disk that refuses."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from peermerge.coordinator.server import ROSTER
from peermerge.coordinator.store import Store
from peermerge.protocol import wire_pb2 as wire
from peermerge.protocol.errors import PeerError, Refusal, TransportError
from peermerge.protocol.exit_codes import ExitCode

from ..integration.daemons import free_ports
from .worlds import Caller, CoordinatorProcess, calling, claim, eventually, names, process

pytestmark = pytest.mark.faults

ALICE, BOB = claim("alice"), claim("bob", 2)
BOTH = {"alice": "ALIVE", "bob": "ALIVE"}


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    async with process(tmp_path) as running:
        async with calling(running.address) as caller:
            await caller.join(ALICE)
            epoch = (await caller.join(BOB)).view.epoch
        running.signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        await running.start().ready()
        async with calling(running.address) as caller:
            view = (await caller.beat(ALICE, epoch=0)).view
        assert names(view) == BOTH
        assert view.epoch >= epoch


async def test_a_coordinator_that_lost_its_file_learns_members_from_heartbeats_and_epochs_do_not_go_back(
    tmp_path: Path,
) -> None:
    async with process(tmp_path) as running:
        async with calling(running.address) as caller:
            await caller.join(ALICE)
            epoch = (await caller.join(BOB)).view.epoch
        running.kill()
        for path in running.data.glob(f"{ROSTER}*"):
            path.unlink()
        await running.start().ready()
        async with calling(running.address) as caller:
            assert not (await caller.overview()).meshes
            first = (await caller.beat(ALICE, epoch)).view
            second = (await caller.beat(BOB, epoch)).view
        assert names(second) == BOTH
        assert second.epoch > first.epoch > epoch


async def test_members_are_not_expired_for_the_time_it_was_stopped(tmp_path: Path) -> None:
    async with process(tmp_path, "--heartbeat-s", "0.4") as running, calling(running.address) as caller:
        await caller.join(ALICE)
        epoch = (await caller.join(BOB)).view.epoch
        running.signal(signal.SIGSTOP)
        with pytest.raises(PeerError) as raised:
            await caller.stub.call("Overview", wire.OverviewRequest(), 2.0)  # longer than the patience of 1.2 s
        assert raised.value.refusal is Refusal.DEADLINE
        running.signal(signal.SIGCONT)
        view = (await caller.beat(ALICE, epoch=0)).view
        assert names(view) == BOTH
        assert view.epoch == epoch


async def test_a_signal_ends_it_cleanly_and_closes_the_file(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        async with process(tmp_path) as running:
            async with calling(running.address) as caller:
                await caller.join(ALICE)
            running.signal(number)
            assert running.wait() == ExitCode.DONE, running.said
            assert not list(running.data.glob(f"{ROSTER}-wal")), "the log was taken into the file"
            assert "Traceback" not in running.said


async def test_a_disk_that_refuses_is_told_and_memory_goes_on_until_it_is_back(tmp_path: Path) -> None:
    async with process(tmp_path) as running, calling(running.address) as caller:
        assert running.process is not None
        await caller.join(ALICE)
        # Beyond this size every write fails, as on a full disk.
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        assert names((await caller.join(BOB)).view) == BOTH
        (warning,) = await eventually(lambda: _warnings(caller), "the refusal is told")
        assert "DEGRADED" in warning
        assert "kept in memory alone" in warning
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, unlimited)
        await eventually(lambda: _no_warnings(caller), "it writes again")
        running.kill()
        await running.start().ready()
        async with calling(running.address) as again:
            assert names((await again.beat(ALICE)).view) == BOTH


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_disk_that_refuses_at_the_start_costs_the_roster_and_not_the_service(
    small_disk: Path, fault: str
) -> None:
    running = CoordinatorProcess(small_disk, port=free_ports(1)[0])
    running.output = small_disk.parent / "coordinator.out"
    running.data.mkdir()
    if fault == "full":
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "ballast").write_bytes(bytes(1 << 20))
    else:
        _remount(small_disk, "ro")
        with pytest.raises(OSError, match="Read-only"):
            (small_disk / "ballast").touch()
    try:
        running.start()
        async with calling(running.address) as caller:
            await eventually(lambda: _joins(caller), "it serves")
            (warning,) = await eventually(lambda: _warnings(caller), "the refusal is told")
            assert "kept in memory alone" in warning
            if fault == "full":
                (small_disk / "ballast").unlink()
            else:
                _remount(small_disk, "rw")
            await eventually(lambda: _no_warnings(caller), "it writes again")
        running.signal(signal.SIGTERM)
        assert running.wait() == ExitCode.DONE, running.said
    finally:
        running.kill()
    (saved,) = Store(running.data / ROSTER).load()
    assert saved.members == (ALICE,)


def _remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


async def _joins(caller: Caller) -> bool:
    with suppress(TransportError):
        await caller.join(ALICE)
        return True
    return False


async def _warnings(caller: Caller) -> list[str]:
    return list((await caller.overview()).warnings)


async def _no_warnings(caller: Caller) -> bool:
    return not await _warnings(caller)
