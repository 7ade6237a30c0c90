"""The PostgreSQL store's tables of pending proposals and of what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tabellion_server.storage.interface import AuditEntry, PendingFullError, PendingRow
from tabellion_server.storage.postgres_link import Connection, Link
from tabellion_server.storage.postgres_rows import (
    AUDIT_COLUMNS,
    audit_entry_of,
    audit_values,
    close_row,
)
from tabellion_server.storage.stored_values import files_json, pending_of, versions_json
from tabellion_server.storage.values import below, ticks

PENDING_COLUMNS: Final = "gun, id, versions, files, by, created_at, expires_at, revision"
_PENDING: Final = (
    "SELECT gun, id, versions, files, by, created_at, expires_at, revision"
    " FROM tabellion.pending WHERE gun = $1 ORDER BY created_at, id"
)
_PUT: Final = (
    "INSERT INTO tabellion.pending"
    " (gun, id, versions, files, by, created_at, expires_at, revision)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (gun, id) DO UPDATE SET"
    " versions = excluded.versions, files = excluded.files, by = excluded.by,"
    " created_at = excluded.created_at, expires_at = excluded.expires_at,"
    " revision = excluded.revision"
)
_EXPIRED: Final = "SELECT gun, id, versions FROM tabellion.pending WHERE expires_at <= $1"
_ENTER: Final = f"INSERT INTO tabellion.audit ({AUDIT_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"  # noqa: S608  (ours alone)


class PendingTables:
    """That part of ``Store``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def pending(self, gun: str) -> list[PendingRow]:
        """See ``Store.pending``."""
        rows = await self._link.fetch(_PENDING, self._link.key(gun))
        return (
            await asyncio.to_thread(lambda: [pending_row_of(row) for row in rows]) if rows else []
        )

    async def put_pending(self, row: PendingRow, entry: AuditEntry, *, at_most: int) -> bool:
        """See ``Store.put_pending``."""
        gun, number = self._link.key(row.gun), self._link.key(row.id)
        values = await asyncio.to_thread(pending_values, row, row.revision + 1)

        async def work(connection: Connection) -> bool:
            held = await connection.fetchrow(
                "SELECT count(*) AS count, max(revision) FILTER (WHERE id = $2) AS revision"
                " FROM tabellion.pending WHERE gun = $1",
                *(gun, number),
            )
            if (held["revision"] or 0) != row.revision:
                return False
            if held["revision"] is None and held["count"] >= at_most:
                raise PendingFullError(f"{row.gun} has {held['count']} pending proposals already")
            await connection.execute(_PUT, *values)
            await connection.execute(_ENTER, *audit_values(entry))
            return True

        return await self._link.transact(work, guns=[gun])

    async def close_pending(self, entry: AuditEntry) -> bool:
        """See ``Store.close_pending``."""
        gun = self._link.key(entry.gun)
        return await self._link.transact(lambda held: close_row(held, entry), guns=[gun])

    async def expire_pending(self, now: datetime) -> list[AuditEntry]:
        """See ``Store.expire_pending``."""
        found = await self._link.fetch(_EXPIRED, ticks(now))
        if not found:
            return []

        async def work(connection: Connection) -> list[AuditEntry]:
            entries = [
                AuditEntry(
                    *(gun.decode(), number.decode(), "expired", json.loads(versions), (), "", now)
                )
                for gun, number, versions in found
            ]
            return [entry for entry in entries if await close_row(connection, entry)]

        return await self._link.transact(work, guns={gun for gun, _, _ in found})

    async def audit(
        self, gun: str, *, proposal: str | None = None, before: int | None = None, limit: int
    ) -> list[AuditEntry]:
        """See ``Store.audit``."""
        rows = await self._link.fetch(
            f"SELECT {AUDIT_COLUMNS}, id FROM tabellion.audit WHERE gun = $1 AND id < $2"  # noqa: S608  (ours alone)
            f"{'' if proposal is None else ' AND proposal = $4'} ORDER BY id DESC LIMIT $3",
            *(self._link.key(gun), below(before), max(limit, 0)),
            *(() if proposal is None else (self._link.key(proposal),)),
        )
        return [audit_entry_of(row) for row in rows]


def pending_row_of(row: Sequence[Any]) -> PendingRow:
    """Read a row of ``pending``."""
    gun, number, versions, files, by, *rest = row
    return pending_of((gun.decode(), number.decode(), versions, files, by.decode(), *rest))


def pending_values(row: PendingRow, revision: int) -> tuple[object, ...]:
    """Give a proposal's values, at a revision."""
    return (
        *(row.gun.encode(), row.id.encode(), versions_json(row.versions), files_json(row.files)),
        *(row.by.encode(), ticks(row.created_at), ticks(row.expires_at), revision),
    )
