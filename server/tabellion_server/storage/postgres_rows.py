"""Rows of the PostgreSQL store, and the statements that several of its parts run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tabellion_server.storage.interface import AuditEntry, Change, OnlineKeyRow, TagEvent
from tabellion_server.storage.postgres_link import Connection
from tabellion_server.storage.stored_values import entry_of, event_of, online_key_of, versions_json
from tabellion_server.storage.values import moment_of, ticks

EVENT_COLUMNS: Final = "kind, target, role, version, metadata_sha256, digests, length, at, id"
CHANGE_COLUMNS: Final = "gun, version, sha256, category, at, id"
KEY_COLUMNS: Final = "keyid, role, public, sealed, created_at"
AUDIT_COLUMNS: Final = "gun, proposal, action, versions, keyids, by, at"
_CLOSE: Final = (
    "WITH gone AS (DELETE FROM tabellion.pending WHERE gun = $1 AND id = $2 RETURNING 1)"
    " INSERT INTO tabellion.audit (gun, proposal, action, versions, keyids, by, at)"
    " SELECT $1, $2, $3, $4, $5, $6, $7 FROM gone"
)
_DROP: Final = (
    "WITH gone AS (DELETE FROM tabellion.pending WHERE gun = $1 RETURNING id, versions)"
    " INSERT INTO tabellion.audit (gun, proposal, action, versions, keyids, by, at)"
    " SELECT $1, id, 'dropped', versions, '[]', '', $2 FROM gone ORDER BY id"
)


def tag_event_of(row: Sequence[Any]) -> TagEvent:
    """Read a row of ``EVENT_COLUMNS``."""
    kind, target, role, *rest = row
    return event_of((kind, target.decode(), role.decode(), *rest))


def change_of(row: Sequence[Any]) -> Change:
    """Read a row of ``CHANGE_COLUMNS``."""
    gun, version, sha256, category, at, number = row
    return Change(gun.decode(), version, sha256, category, moment_of(at), number)


def key_of(row: Sequence[Any]) -> OnlineKeyRow:
    """Read a row of ``KEY_COLUMNS``."""
    keyid, role, public, sealed, created_at = row
    return online_key_of((keyid.decode(), role.decode(), public.decode(), sealed, created_at))


def audit_entry_of(row: Sequence[Any]) -> AuditEntry:
    """Read a row of ``AUDIT_COLUMNS`` and the id."""
    gun, proposal, action, versions, keyids, by, at, number = row
    return entry_of(
        (gun.decode(), proposal.decode(), action, versions, keyids, by.decode(), at, number)
    )


def audit_values(entry: AuditEntry) -> tuple[object, ...]:
    """Give an entry's values of ``AUDIT_COLUMNS``."""
    return (
        *(entry.gun.encode(), entry.proposal.encode(), entry.action),
        *(versions_json(entry.versions), json.dumps(list(entry.keyids)), entry.by.encode()),
        ticks(entry.at),
    )


def event_values(gun: bytes, event: TagEvent) -> tuple[object, ...]:
    """Give an event's values: its GUN, and those of ``EVENT_COLUMNS`` without the id."""
    return (
        *(gun, event.kind, event.target.encode(), event.role.encode(), event.version),
        *(event.metadata_sha256, json.dumps(dict(event.digests), sort_keys=True)),
        *(event.length, ticks(event.at)),
    )


async def close_row(connection: Connection, entry: AuditEntry) -> bool:
    """Drop a proposal and write what became of it; neither if it isn't pending."""
    return counted(await connection.execute(_CLOSE, *audit_values(entry))) > 0


async def drop_pending(connection: Connection, gun: bytes, at: datetime) -> int:
    """Drop all proposals of a GUN that is dropped itself or converted; gives their number."""
    return counted(await connection.execute(_DROP, gun, ticks(at)))


def counted(answer: str) -> int:
    """Give the number of rows that a statement's answer tells, such as ``INSERT 0 3``."""
    return int(answer.rpartition(" ")[2])
