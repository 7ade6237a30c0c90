"""All rows of a PostgreSQL store as records, and back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    PendingRow,
    StorageError,
    StoredFile,
)
from tabellion_server.storage.postgres_link import Connection
from tabellion_server.storage.postgres_pending import (
    PENDING_COLUMNS,
    pending_row_of,
    pending_values,
)
from tabellion_server.storage.postgres_rows import (
    AUDIT_COLUMNS,
    CHANGE_COLUMNS,
    EVENT_COLUMNS,
    KEY_COLUMNS,
    audit_entry_of,
    audit_values,
    change_of,
    event_values,
    key_of,
    tag_event_of,
)
from tabellion_server.storage.postgres_water import locked_counter
from tabellion_server.storage.records import (
    CollectedRecord,
    EventRecord,
    FeedRecord,
    FileRecord,
    HeadRecord,
    InfoRecord,
    OnlineKeyRecord,
    Record,
    RestorationRecord,
    RetiredRecord,
)
from tabellion_server.storage.values import moment_of, ticks

_GROUP_ROWS: Final = 500
_GROUP_BYTES: Final = 1024 * 1024
_TABLES: Final = (
    *("metadata", "collected", "heads", "retired", "events", "online_keys", "restorations"),
    *("changes", "pending", "audit"),
)
_NUMBERED: Final = ("events", "online_keys", "audit")
_OVERRIDING: Final = "OVERRIDING SYSTEM VALUE"

_Rows = tuple[tuple[str, Callable[[Any], Record]], ...]


def _head_of(row: Sequence[Any]) -> HeadRecord:
    gun, dialect, revision, changed_at, roles, versions = row
    current = {
        role.decode(): version
        for role, version in zip(roles, versions, strict=True)
        if role is not None
    }
    return HeadRecord(gun.decode(), dialect, revision, moment_of(changed_at), current)


def _info_of(row: Sequence[Any]) -> InfoRecord:
    gun, role, version, sha256, length, stored_at = row
    info = FileInfo(role.decode(), version, sha256, length, moment_of(stored_at))
    return InfoRecord(gun.decode(), info)


# What is selected of what, and what each row is.
_LOGS: Final[_Rows] = (
    ("last FROM tabellion.counter", lambda row: FeedRecord(row[0])),
    (f"{CHANGE_COLUMNS} FROM tabellion.changes ORDER BY id", change_of),
    (
        "after_id, missing, at, is_loss FROM tabellion.restorations",
        lambda row: RestorationRecord(row[0], row[1], moment_of(row[2]), row[3]),
    ),
    (
        f"gun, {EVENT_COLUMNS} FROM tabellion.events ORDER BY id",
        lambda row: EventRecord(row[0].decode(), tag_event_of(row[1:])),
    ),
    (f"{AUDIT_COLUMNS}, id FROM tabellion.audit ORDER BY id", audit_entry_of),
)
_GUNS: Final[_Rows] = (
    (
        "gun, role, version, sha256 FROM tabellion.collected",
        lambda row: CollectedRecord(row[0].decode(), row[1].decode(), row[2], row[3]),
    ),
    (
        (
            "h.gun, h.dialect, h.revision, h.changed_at, array_agg(c.role), array_agg(c.version)"
            " FROM tabellion.heads h LEFT JOIN tabellion.current c USING (gun) GROUP BY h.gun"
        ),
        _head_of,
    ),
    ("gun, revision FROM tabellion.retired", lambda row: RetiredRecord(row[0].decode(), row[1])),
    (
        f"gun, {KEY_COLUMNS} FROM tabellion.online_keys ORDER BY id",
        lambda row: OnlineKeyRecord(row[0].decode(), key_of(row[1:])),
    ),
    (f"{PENDING_COLUMNS} FROM tabellion.pending", pending_row_of),
)
_INFOS: Final = (
    "gun, role, version, sha256, length, stored_at FROM tabellion.metadata",
    _info_of,
)
_PLACES: Final = "gun, role, version, length FROM tabellion.metadata"
_FILES: Final = (
    "SELECT m.gun, m.role, m.version, m.sha256, m.data, m.stored_at"
    " FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS w (gun, role, version)"
    " JOIN tabellion.metadata m USING (gun, role, version)"
)
_CURRENT: Final = (
    "INSERT INTO tabellion.current (gun, role, version, sha256, length)"
    " SELECT m.gun, m.role, m.version, m.sha256, m.length"
    " FROM unnest($2::bytea[], $3::bigint[]) AS w (role, version) JOIN tabellion.metadata m"
    " ON m.gun = $1 AND m.role = w.role AND m.version = w.version"
)


async def dump(connection: Connection, *, with_bytes: bool) -> AsyncGenerator[list[Record], None]:
    """Give all records as they are at one moment, in groups; hashes aren't checked here."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for query, record_of in _LOGS if with_bytes else (*_LOGS, _INFOS):
            async with _groups(connection, query, lambda _: 0) as groups:
                async for group in groups:
                    yield [record_of(row) for row in group]
        if with_bytes:
            async with _groups(connection, _PLACES, lambda row: int(row["length"])) as groups:
                async for places in groups:
                    columns = [[row[name] for row in places] for name in ("gun", "role", "version")]
                    yield [_file_of(row) for row in await connection.fetch(_FILES, *columns)]
        for query, record_of in _GUNS:
            async with _groups(connection, query, lambda _: 0) as groups:
                async for group in groups:
                    yield [record_of(row) for row in group]


async def begin_load(connection: Connection, name: str) -> None:
    """Mark a store that has nothing as being loaded: till the end nobody else opens it.

    Raises:
        StorageError: It has something.
    """
    last, _ = await locked_counter(connection)
    found = [
        table
        for table in _TABLES
        # The text is ours alone.
        if await connection.fetchrow(f"SELECT 1 FROM tabellion.{table} LIMIT 1")  # noqa: S608
    ]
    if found or last:
        raise StorageError(
            f"store {name} isn't empty", hint="restore into a store of its own: set storage.url"
        )
    await connection.execute("UPDATE tabellion.counter SET is_loading = true")


async def end_load(connection: Connection) -> None:
    """Say that all is loaded; what comes next gets ids above."""
    for table in _NUMBERED:
        await connection.execute(
            f"SELECT setval(pg_get_serial_sequence('tabellion.{table}', 'id'),"  # noqa: S608  (ours)
            f" greatest(max(id), 1), max(id) IS NOT NULL) FROM tabellion.{table}"
        )
    await connection.execute("UPDATE tabellion.counter SET is_loading = false")


async def write_records(connection: Connection, records: Sequence[Record]) -> None:
    """Write records as they are."""
    for record in records:
        for statement, values in _statements(record):
            await connection.execute(statement, *values)


def _groups(
    connection: Connection, query: str, size_of: Callable[[Any], int]
) -> contextlib.aclosing[AsyncGenerator[list[Any], None]]:
    """Give groups of a query's rows; closed while the connection is still there."""
    return contextlib.aclosing(_grouped(connection, query, size_of))


async def _grouped(
    connection: Connection, query: str, size_of: Callable[[Any], int]
) -> AsyncGenerator[list[Any], None]:
    group: list[Any] = []
    size = 0
    async for row in connection.cursor(f"SELECT {query}", prefetch=_GROUP_ROWS):
        if group and (len(group) >= _GROUP_ROWS or size + size_of(row) > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += size_of(row)
    if group:
        yield group


def _file_of(row: Sequence[Any]) -> FileRecord:
    gun, role, version, sha256, data, stored_at = row
    file = StoredFile(role.decode(), version, sha256, data, moment_of(stored_at))
    return FileRecord(gun.decode(), file)


def _statements(record: Record) -> list[tuple[str, tuple[object, ...]]]:  # noqa: C901, PLR0911  (one each)
    match record:
        case FeedRecord(last):
            return [("UPDATE tabellion.counter SET last = $1", (last,))]
        case FileRecord(gun, file):
            columns = "gun, role, version, sha256, length, stored_at, data"
            place = (gun.encode(), file.role.encode(), file.version)
            content = (file.sha256, len(file.data), ticks(file.stored_at), file.data)
            return [_insert("metadata", columns, *place, *content)]
        case CollectedRecord(gun, role, version, sha256):
            place = (gun.encode(), role.encode(), version)
            return [_insert("collected", "gun, role, version, sha256", *place, sha256)]
        case HeadRecord():
            return _head_statements(record)
        case RetiredRecord(gun, revision):
            return [_insert("retired", "gun, revision", gun.encode(), revision)]
        case OnlineKeyRecord(gun, row):
            key = (row.keyid.encode(), row.role.encode(), row.public.encode(), row.sealed)
            columns = f"gun, {KEY_COLUMNS}"
            return [_insert("online_keys", columns, gun.encode(), *key, ticks(row.created_at))]
        case PendingRow():
            return [_insert("pending", PENDING_COLUMNS, *pending_values(record, record.revision))]
        case EventRecord(gun, event):
            columns = f"gun, {EVENT_COLUMNS}"
            return [_insert("events", columns, *event_values(gun.encode(), event), event.id)]
        case RestorationRecord(after_id, missing, at, is_loss):
            columns = "after_id, missing, at, is_loss"
            return [_insert("restorations", columns, after_id, missing, ticks(at), is_loss)]
        case Change(gun, version, sha256, category, at, number):
            values = (gun.encode(), version, sha256, category, ticks(at), number)
            return [_insert("changes", CHANGE_COLUMNS, *values)]
        case AuditEntry():
            return [_insert("audit", f"{AUDIT_COLUMNS}, id", *audit_values(record), record.id)]
    raise StorageError(f"there is no place for a {type(record).__name__}")


def _head_statements(record: HeadRecord) -> list[tuple[str, tuple[object, ...]]]:
    gun, roles = record.gun.encode(), [role.encode() for role in record.current]
    return [
        _insert(
            "heads",
            "gun, dialect, revision, changed_at, token",
            *(gun, record.dialect, record.revision, ticks(record.changed_at), 0),
        ),
        (_CURRENT, (gun, roles, list(record.current.values()))),
    ]


def _insert(table: str, columns: str, *values: object) -> tuple[str, tuple[object, ...]]:
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    override = _OVERRIDING if table in _NUMBERED else ""
    # The text is ours alone; values are bound.
    text = f"INSERT INTO tabellion.{table} ({columns}) {override} VALUES ({marks})"  # noqa: S608
    return text, values
