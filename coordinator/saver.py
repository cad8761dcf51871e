"""Writes what changed in the roster, off the event loop. A disk that refuses costs durability, nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..protocol.clock import Clock
from ..protocol.errors import DegradedError, PeermergeError
from .roster import Heard, Key, Mesh, Roster
from .store import SavedMesh, Store

WAIT_S = 1.0
"""How long an answer waits for the disk; with a disk that takes longer, it is given without it."""
RETRY_S = 2.0


class Saver:
    """Keeps the store up to date; what comes while it writes goes together with the next write."""

    def __init__(self, roster: Roster, store: Store, clock: Clock) -> None:
        self._roster = roster
        self._store = store
        self._clock = clock
        self._wanted = asyncio.Event()
        self._saved = asyncio.Event()
        """Set when a write ends, well or not; the next write has another."""
        self.refused = ""
        """Why the disk refuses; empty while it does not."""

    async def restore(self) -> None:
        """Load the roster; everybody gets the time of a newcomer. Raises DataDirError."""
        try:
            meshes = await self._clock.work(self._store.load)
        except DegradedError as error:
            self._fail(error)
            return
        now = self._clock.now()
        for saved in meshes:
            mesh = Mesh((saved.network, saved.run), saved.epoch)
            for member in saved.members:
                mesh.put(Heard(member, now))
            mesh.epoch = saved.epoch
            self._roster.restore(mesh)

    async def run(self) -> None:
        """Write whenever something changed, until cancelled."""
        while True:
            await self._wanted.wait()
            await self.save()
            if self.refused:
                await self._clock.sleep(RETRY_S)

    async def save(self) -> None:
        """Write all that the disk does not know."""
        self._wanted.clear()
        keys, self._roster.unsaved = self._roster.unsaved, set()
        ended, self._saved = self._saved, asyncio.Event()
        try:
            meshes = [self._snapshot(key) for key in sorted(keys)]
            await self._clock.work(lambda: self._store.save(meshes))
            self.refused = ""
        except PeermergeError as error:
            self._fail(error)
            # The next attempt may find another file: it gets everything.
            self._roster.unsaved |= keys | set(self._roster.meshes)
        finally:
            ended.set()

    async def saved(self) -> None:
        """Return once the disk knows of all that happened; not later than WAIT_S, and at once if it refuses."""
        if not self._roster.unsaved:
            return
        self._wanted.set()
        if not self.refused:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._saved.wait()

    def _snapshot(self, key: Key) -> SavedMesh:
        mesh = self._roster.meshes.get(key)
        if mesh is None:
            return SavedMesh(*key, epoch=0)
        return SavedMesh(*key, mesh.epoch, tuple(heard.member for heard in mesh.heard.values()))

    def _fail(self, error: PeermergeError) -> None:
        self._roster.counts["disk_errors"] += 1
        self.refused = str(error)
        self._wanted.set()  # until a write succeeds, though nothing may change any more
