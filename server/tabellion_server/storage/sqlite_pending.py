"""The SQLite store's tables of pending proposals and of what became of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Final, TypeVar

from tabellion_server.storage.interface import (
    AuditEntry,
    Head,
    PendingFullError,
    PendingRow,
    StaleHeadError,
)
from tabellion_server.storage.sqlite_threads import Work
from tabellion_server.storage.stored_values import entry_of, files_json, pending_of, versions_json
from tabellion_server.storage.values import below, ticks

T = TypeVar("T")

_AUDIT: Final = "gun, proposal, action, versions, keyids, by, at"


class PendingTables(ABC):
    """That part of ``Store`` for a store that runs work in SQLite transactions."""

    @abstractmethod
    async def _read(self, work: Work[T]) -> T:
        """Run work that reads."""

    @abstractmethod
    async def _write(self, work: Work[T]) -> T:
        """Run work that writes, in one transaction."""

    async def pending(self, gun: str) -> list[PendingRow]:
        """See ``Store.pending``."""
        query = (
            "SELECT gun, id, versions, files, by, created_at, expires_at, revision FROM pending"
            " WHERE gun = ? ORDER BY created_at, id"
        )
        return await self._read(
            lambda connection: [pending_of(row) for row in connection.execute(query, (gun,))]
        )

    async def put_pending(self, row: PendingRow, entry: AuditEntry, *, at_most: int) -> bool:
        """See ``Store.put_pending``."""
        files = await asyncio.to_thread(files_json, row.files)

        def work(connection: sqlite3.Connection) -> bool:
            place = (row.gun, row.id)
            held = connection.execute(
                "SELECT revision FROM pending WHERE gun = ? AND id = ?", place
            ).fetchone()
            if (0 if held is None else held[0]) != row.revision:
                return False
            if held is None:
                (count,) = connection.execute(
                    "SELECT count(*) FROM pending WHERE gun = ?", (row.gun,)
                ).fetchone()
                if count >= at_most:
                    raise PendingFullError(f"{row.gun} has {count} pending proposals already")
            connection.execute(
                "INSERT OR REPLACE INTO pending (gun, id, versions, files, by, created_at,"
                " expires_at, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(*place, versions_json(row.versions), files, row.by),
                    *(ticks(row.created_at), ticks(row.expires_at), row.revision + 1),
                ),
            )
            _write_entry(connection, entry)
            return True

        return await self._write(work)

    async def close_pending(self, entry: AuditEntry) -> bool:
        """See ``Store.close_pending``."""
        return await self._write(lambda connection: close_row(connection, entry))

    async def expire_pending(self, now: datetime) -> list[AuditEntry]:
        """See ``Store.expire_pending``."""
        moment = ticks(now)
        query = "SELECT gun, id, versions FROM pending WHERE expires_at <= ?"

        def work(connection: sqlite3.Connection) -> list[AuditEntry]:
            found = [
                AuditEntry(gun, number, "expired", json.loads(versions), (), "", now)
                for gun, number, versions in connection.execute(query, (moment,)).fetchall()
            ]
            for entry in found:
                close_row(connection, entry)
            return found

        # Mostly there's nothing to do, and that is no work for the one who writes.
        if not await self._read(lambda held: held.execute(query, (moment,)).fetchone()):
            return []
        return await self._write(work)

    async def audit(
        self, gun: str, *, proposal: str | None = None, before: int | None = None, limit: int
    ) -> list[AuditEntry]:
        """See ``Store.audit``."""
        # The text is ours alone; values are bound.
        query = (
            f"SELECT {_AUDIT}, id FROM audit WHERE gun = :gun AND id < :below"  # noqa: S608
            f"{'' if proposal is None else ' AND proposal = :proposal'}"
            " ORDER BY id DESC LIMIT :limit"
        )
        values = {"gun": gun, "below": below(before), "proposal": proposal, "limit": max(limit, 0)}
        return await self._read(
            lambda connection: [entry_of(row) for row in connection.execute(query, values)]
        )


def close_row(connection: sqlite3.Connection, entry: AuditEntry) -> bool:
    """Drop a proposal and write what became of it; neither if it isn't pending."""
    deleted = connection.execute(
        "DELETE FROM pending WHERE gun = ? AND id = ?", (entry.gun, entry.proposal)
    ).rowcount
    if deleted:
        _write_entry(connection, entry)
    return bool(deleted)


def verify_not_withdrawn(
    connection: sqlite3.Connection, entry: AuditEntry, head: Head | None
) -> None:
    """Refuse to publish what another process withdrew after it was judged.

    Raises:
        StaleHeadError: It did; judged again, it's refused.
    """
    told = connection.execute(
        "SELECT action FROM audit WHERE gun = ? AND proposal = ? ORDER BY id DESC LIMIT 1",
        (entry.gun, entry.proposal),
    ).fetchone()
    if told is not None and told[0] == "withdrawn":
        raise StaleHeadError(f"proposal {entry.proposal[:16]} was withdrawn", head=head)


def drop_rows(connection: sqlite3.Connection, gun: str, at: datetime) -> int:
    """Drop all proposals of a GUN that is dropped itself; gives their number."""
    connection.execute(
        f"INSERT INTO audit ({_AUDIT})"  # noqa: S608  (the text is ours alone; values are bound)
        " SELECT gun, id, 'dropped', versions, '[]', '', ? FROM pending WHERE gun = ?",
        (ticks(at), gun),
    )
    return connection.execute("DELETE FROM pending WHERE gun = ?", (gun,)).rowcount


def _write_entry(connection: sqlite3.Connection, entry: AuditEntry) -> None:
    connection.execute(
        f"INSERT INTO audit ({_AUDIT}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (as above)
        (
            *(entry.gun, entry.proposal, entry.action, versions_json(entry.versions)),
            *(json.dumps(list(entry.keyids)), entry.by, ticks(entry.at)),
        ),
    )
