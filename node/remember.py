"""Who was known last, kept in the data directory: nodes that all restart find each other again without any seed."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from ..protocol import fields
from ..protocol.errors import DataDirError, DegradedError, EnvelopeError
from ..protocol.limits import MAX_MEMBERS
from ..protocol.members import Member
from .membership import Roster
from .storage import Storage

FILE = "members.json"


def remembered(storage: Storage) -> tuple[Member, ...]:
    """Return who was known when the file was last written, the dead and departed too; nobody if it is damaged."""
    try:
        found = json.loads(storage.read(FILE) or b"[]")
        return tuple(Member(fields.name(name), fields.address(address)) for name, address in found[:MAX_MEMBERS])
    except (DataDirError, EnvelopeError, ValueError, TypeError):
        return ()


async def keep_members(roster: Roster, storage: Storage) -> None:
    """Write down who is known whenever that changes; a disk that refuses costs no more than that.

    Who starts before all others knows nobody yet: what it remembers stays, should it be started again before it meets
    them.
    """
    changed = asyncio.Event()
    changed.set()
    roster.watch(lambda before, claim: changed.set())
    while True:
        await changed.wait()
        changed.clear()
        known = [[m.name, m.address] for m in roster.everybody() if m.name != roster.me.name]
        if not known:
            continue
        with suppress(DegradedError):
            await asyncio.to_thread(storage.write, FILE, json.dumps(known).encode(), durable=False)
