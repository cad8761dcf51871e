"""The roster on disk: an SQLite file that neither a kill nor a power cut damages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..protocol.errors import DataDirError, DegradedError, EnvelopeError, Refusal
from ..protocol.members import Member, MemberState
from ..protocol.wire_pb2 import Member as MemberMessage

FORMAT = 1
TABLES = """
CREATE TABLE IF NOT EXISTS mesh (network TEXT, run TEXT, epoch INTEGER, PRIMARY KEY (network, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS member (
    network TEXT, run TEXT, name TEXT, address TEXT, incarnation INTEGER, refuted INTEGER, state INTEGER,
    PRIMARY KEY (network, run, name)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class SavedMesh:
    """A mesh as it is written; epoch 0: it is forgotten."""

    network: str
    run: str
    epoch: int
    members: tuple[Member, ...] = ()


class Store:
    """The file, opened when it is needed. One process at a time; of its threads, one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None

    def load(self) -> list[SavedMesh]:
        """Return what was saved.

        Raises DataDirError if the file is another process's or no roster, DegradedError if the disk refuses.
        """
        with self._open() as file:
            meshes = file.execute("SELECT network, run, epoch FROM mesh").fetchall()
            return [SavedMesh(network, run, epoch, _members(file, network, run)) for network, run, epoch in meshes]

    def save(self, meshes: Iterable[SavedMesh]) -> None:
        """Replace meshes, all of them or none; on return they are durable. Raises DegradedError."""
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            for mesh in meshes:
                key = (mesh.network, mesh.run)
                file.execute("DELETE FROM mesh WHERE network = ? AND run = ?", key)
                file.execute("DELETE FROM member WHERE network = ? AND run = ?", key)
                if mesh.epoch:
                    file.execute("INSERT INTO mesh VALUES (?, ?, ?)", (*key, mesh.epoch))
                rows = [(*key, m.name, m.address, m.incarnation, m.refuted, m.state) for m in mesh.members]
                file.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            file.execute("COMMIT")

    def close(self) -> None:
        """Close the file; what was saved stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Lend the open file; after a failure it is opened anew the next time."""
        try:
            self._file = self._file or self._connect()
            yield self._file
        except (sqlite3.Error, EnvelopeError) as error:
            self.close()
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise DataDirError(
                    f"{self._path}: another coordinator uses this file; stop it or choose another --data-dir"
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise DegradedError(f"{self._path}: {error}") from error
            raise DataDirError(
                f"{self._path} is damaged ({error}): move it away; members come back by themselves"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # Nobody else may write to it, not even read it; it frees itself when the process ends.
            file.execute("PRAGMA locking_mode = EXCLUSIVE")
            file.execute("PRAGMA journal_mode = WAL")
            # Also through a power cut.
            file.execute("PRAGMA synchronous = FULL")
            version = file.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, FORMAT):
                raise DataDirError(f"{self._path} has format {version}, mine is {FORMAT}: use another --data-dir")
            if version == 0:
                file.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        except BaseException:
            file.close()
            raise
        return file


def _members(file: sqlite3.Connection, network: str, run: str) -> tuple[Member, ...]:
    rows = file.execute(
        "SELECT name, address, incarnation, refuted, state FROM member WHERE network = ? AND run = ?", (network, run)
    )
    return tuple(_member(*row) for row in rows)


def _member(name: str, address: str, incarnation: int, refuted: int, state: int) -> Member:
    try:
        message = MemberMessage(name=name, address=address, incarnation=incarnation, refuted=refuted)
        return replace(Member.read(message), state=MemberState(state))
    except (TypeError, ValueError) as error:
        raise EnvelopeError(Refusal.BAD_HEADER, str(error)) from error
