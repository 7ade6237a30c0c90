"""All rows of a SQLite store as records, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    PendingRow,
    StorageError,
    StoreCorruptionError,
)
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
from tabellion_server.storage.sqlite_file import connect, storage_error
from tabellion_server.storage.sqlite_restoration import last_change, set_last_change
from tabellion_server.storage.sqlite_rows import (
    EVENT_COLUMNS,
    FILE_COLUMNS,
    event_values,
    file_of,
    file_values,
)
from tabellion_server.storage.stored_values import (
    entry_of,
    event_of,
    files_json,
    online_key_of,
    pending_of,
    versions_json,
)
from tabellion_server.storage.values import loading_error, moment_of, ticks

_Row = tuple[str, tuple[Any, ...]]

_AUDIT: Final = "gun, proposal, action, versions, keyids, by, at, id"
_GROUP_ROWS: Final = 500
_GROUP_BYTES: Final = 1024 * 1024
_TABLES: Final = (
    *("metadata", "collected", "heads", "retired", "events", "online_keys", "restorations"),
    *("changes", "pending", "audit"),
)


def dump(path: Path, *, with_bytes: bool) -> Generator[list[Record], None, None]:
    """Give all records as they are at one moment, in groups; see ``Store.dump``. Blocks.

    Raises:
        StorageError: The store can't be read.
    """
    try:
        connection = connect(path, read_only=True)
        try:
            connection.execute("BEGIN")
            yield from _groups(_records(connection, with_bytes=with_bytes))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise storage_error(error, path) from error
    except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError) as error:
        # SQLite's columns take any type, and a file comes from who knows where.
        raise StoreCorruptionError(f"store {path} is damaged: {error}") from error


def begin_load(connection: sqlite3.Connection, path: Path) -> None:
    """Mark a store that has nothing as being loaded: till the end nobody else opens it.

    Raises:
        StorageError: It has something.
    """
    # The text is ours alone.
    found = [
        name
        for name in _TABLES
        if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()  # noqa: S608
    ]
    verify_not_loading(connection)
    if found or last_change(connection):
        raise StorageError(
            f"store {path} isn't empty", hint="restore into a store of its own: set storage.url"
        )
    connection.execute("PRAGMA user_version = 1")


def verify_not_loading(connection: sqlite3.Connection) -> None:
    """Refuse to write beside a restore.

    Raises:
        StorageError: A backup is being restored.
    """
    if connection.execute("PRAGMA user_version").fetchone() != (0,):
        raise loading_error()


def end_load(connection: sqlite3.Connection) -> None:
    """Say that all is loaded."""
    connection.execute("PRAGMA user_version = 0")


def write_records(connection: sqlite3.Connection, records: Sequence[Record]) -> None:
    """Write records as they are."""
    for record in records:
        _write(connection, record)


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record.file.data) if isinstance(record, FileRecord) else 0
        if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _records(connection: sqlite3.Connection, *, with_bytes: bool) -> Iterator[Record]:
    yield from _logs(connection)
    yield from _files(connection) if with_bytes else _infos(connection)
    yield from _guns(connection)


def _logs(connection: sqlite3.Connection) -> Iterator[Record]:
    rows = connection.execute
    yield FeedRecord(last_change(connection))
    for gun, version, sha256, category, at, number in rows(
        "SELECT gun, version, sha256, category, at, id FROM changes ORDER BY id"
    ):
        yield Change(gun, version, sha256, category, moment_of(at), number)
    for row in rows("SELECT after_id, missing, at, is_loss FROM restorations"):
        yield RestorationRecord(row[0], row[1], moment_of(row[2]), bool(row[3]))
    # The texts are ours alone.
    for gun, *row in rows(f"SELECT gun, {EVENT_COLUMNS} FROM events ORDER BY id"):  # noqa: S608
        yield EventRecord(gun, event_of(row))
    for row in rows(f"SELECT {_AUDIT} FROM audit ORDER BY id"):  # noqa: S608
        yield entry_of(row)


def _files(connection: sqlite3.Connection) -> Iterator[Record]:
    for gun, role, *row in connection.execute(
        "SELECT gun, role, version, sha256, data, stored_at FROM metadata"
    ):
        yield FileRecord(gun, file_of(gun, role, *row))


def _infos(connection: sqlite3.Connection) -> Iterator[Record]:
    for gun, role, version, sha256, length, stored_at in connection.execute(
        "SELECT gun, role, version, sha256, length, stored_at FROM metadata"
    ):
        yield InfoRecord(gun, FileInfo(role, version, sha256, length, moment_of(stored_at)))


def _guns(connection: sqlite3.Connection) -> Iterator[Record]:
    rows = connection.execute
    for row in rows("SELECT gun, role, version, sha256 FROM collected"):
        yield CollectedRecord(*row)
    for gun, dialect, revision, changed_at in rows(
        "SELECT gun, dialect, revision, changed_at FROM heads"
    ):
        current = rows("SELECT role, version FROM current WHERE gun = ?", (gun,)).fetchall()
        yield HeadRecord(gun, dialect, revision, moment_of(changed_at), dict(current))
    for row in rows("SELECT gun, revision FROM retired"):
        yield RetiredRecord(*row)
    for gun, *row in rows(
        "SELECT gun, keyid, role, public, sealed, created_at FROM online_keys ORDER BY id"
    ):
        yield OnlineKeyRecord(gun, online_key_of(row))
    for row in rows(
        "SELECT gun, id, versions, files, by, created_at, expires_at, revision FROM pending"
    ):
        yield pending_of(row)


def _write(connection: sqlite3.Connection, record: Record) -> None:
    if isinstance(record, FeedRecord):
        set_last_change(connection, record.last)
        return
    if isinstance(record, HeadRecord):
        connection.executemany(
            "INSERT INTO current (gun, role, version) VALUES (?, ?, ?)",
            [(record.gun, role, version) for role, version in record.current.items()],
        )
    table, values = _row_of_gun(record) or _row_of_log(record)
    marks = ", ".join("?" * len(values))
    # The text is ours alone; values are bound.
    connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608


def _row_of_gun(record: Record) -> _Row | None:  # noqa: PLR0911  (one each)
    """Give where a record that is a GUN's own is written, and its values."""
    match record:
        case FileRecord(gun, file):
            return f"metadata ({FILE_COLUMNS})", file_values(gun, file)
        case CollectedRecord(gun, role, version, sha256):
            return "collected (gun, role, version, sha256)", (gun, role, version, sha256)
        case HeadRecord(gun, dialect, revision, changed_at, _):
            return "heads (gun, dialect, revision, changed_at)", (
                *(gun, dialect, revision, ticks(changed_at)),
            )
        case RetiredRecord(gun, revision):
            return "retired (gun, revision)", (gun, revision)
        case OnlineKeyRecord(gun, row):
            return "online_keys (gun, role, keyid, public, sealed, created_at)", (
                *(gun, row.role, row.keyid, row.public, row.sealed, ticks(row.created_at)),
            )
        case PendingRow():
            return "pending (gun, id, versions, files, by, created_at, expires_at, revision)", (
                *(record.gun, record.id, versions_json(record.versions)),
                *(files_json(record.files), record.by),
                *(ticks(record.created_at), ticks(record.expires_at), record.revision),
            )
    return None


def _row_of_log(record: Record) -> _Row:
    """The same for one that only gets appended."""
    match record:
        case EventRecord(gun, event):
            return f"events (gun, {EVENT_COLUMNS})", (gun, *event_values(event), event.id)
        case RestorationRecord(after_id, missing, at, is_loss):
            return "restorations (after_id, missing, at, is_loss)", (
                *(after_id, missing, ticks(at), is_loss),
            )
        case Change():
            return "changes (gun, version, sha256, category, at, id)", (
                *(record.gun, record.version, record.sha256, record.category),
                *(ticks(record.at), record.id),
            )
        case AuditEntry():
            return f"audit ({_AUDIT})", (
                *(record.gun, record.proposal, record.action, versions_json(record.versions)),
                *(json.dumps(list(record.keyids)), record.by, ticks(record.at), record.id),
            )
    raise StorageError(f"there is no place for a {type(record).__name__}")
