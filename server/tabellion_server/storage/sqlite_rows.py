"""Rows of the SQLite store, and the steps that a transaction is made of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tabellion_server.storage.interface import (
    Change,
    FileInfo,
    FileRef,
    Head,
    StoreCorruptionError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.values import (
    MAX_INTEGER,
    check_hashes,
    moment_of,
    other_bytes_error,
    ticks,
)

EVENT_COLUMNS: Final = "kind, target, role, version, metadata_sha256, digests, length, at, id"


FILE_COLUMNS: Final = "gun, role, version, sha256, length, stored_at, data"


def file_values(gun: str, file: StoredFile) -> tuple[object, ...]:
    """Give what stands in a file's row."""
    place = (gun, file.role, file.version, file.sha256)
    return (*place, len(file.data), ticks(file.stored_at), file.data)


def event_values(event: TagEvent) -> tuple[object, ...]:
    """Give what stands in a row of history, but for its GUN and id."""
    digests = json.dumps(dict(event.digests), sort_keys=True)
    what = (event.kind, event.target, event.role, event.version, event.metadata_sha256)
    return (*what, digests, event.length, ticks(event.at))


def read_head(connection: sqlite3.Connection, gun: str) -> Head | None:
    """Read a GUN's head, in the connection's transaction."""
    row = connection.execute(
        "SELECT dialect, revision, changed_at FROM heads WHERE gun = ?", (gun,)
    ).fetchone()
    if row is None:
        return None
    dialect, revision, changed_at = row
    files = connection.execute(
        "SELECT role, version, sha256, length FROM current JOIN metadata USING (gun, role, version)"
        " WHERE gun = ?",
        (gun,),
    )
    refs = {role: FileRef(version, sha256, length) for role, version, sha256, length in files}
    return Head(gun, dialect, revision, refs, moment_of(changed_at))


def read_file(
    connection: sqlite3.Connection, gun: str, role: str, version: int | None
) -> StoredFile | None:
    """Read one version, or the current one, and check its hash."""
    values: tuple[str | int, ...]
    if version is None:
        source, values = "metadata JOIN current USING (gun, role, version)", (gun, role)
        condition = "gun = ? AND role = ?"
    else:
        source, values = "metadata", (gun, role, version)
        condition = "gun = ? AND role = ? AND version = ?"
    # The text is ours alone; values are bound.
    query = f"SELECT version, sha256, data, stored_at FROM {source} WHERE {condition}"  # noqa: S608
    row = connection.execute(query, values).fetchone()
    if row is None:
        return None
    return file_of(gun, role, *row)


def file_of(gun: str, role: str, *row: Any) -> StoredFile:  # noqa: ANN401  (SQLite has no types)
    """Make a file of a row's version, hash, bytes and moment.

    Raises:
        StoreCorruptionError: They don't fit each other, or it's text.
    """
    version, sha256, data, stored_at = row
    if not isinstance(data, bytes):
        raise StoreCorruptionError(f"{gun}: {role} version {version} isn't stored as bytes")
    file = StoredFile(role, version, sha256, data, moment_of(stored_at))
    check_hashes(gun, [file])
    return file


def read_hash(
    connection: sqlite3.Connection, gun: str, role: str, sha256: str
) -> StoredFile | None:
    """Read the version that has a hash."""
    row = connection.execute(
        "SELECT version FROM metadata WHERE gun = ? AND role = ? AND sha256 = ?",
        (gun, role, sha256),
    ).fetchone()
    return None if row is None else read_file(connection, gun, role, row[0])


def read_infos(connection: sqlite3.Connection, gun: str) -> list[FileInfo]:
    """List all versions of all roles."""
    rows = connection.execute(
        "SELECT role, version, sha256, length, stored_at FROM metadata WHERE gun = ?", (gun,)
    )
    return [
        FileInfo(role, version, sha256, length, moment_of(stored_at))
        for role, version, sha256, length, stored_at in rows
    ]


def write_revision(
    connection: sqlite3.Connection, gun: str, dialect: str, head: Head | None, at: datetime
) -> None:
    """Write the next revision; after a delete it goes on from the old one's last."""
    if head is not None:
        last = head.revision
    else:
        # Not added up by SQLite, which would round what overflows.
        (last,) = connection.execute(
            "SELECT coalesce(max(revision), 0) FROM retired WHERE gun = ?", (gun,)
        ).fetchone()
    connection.execute(
        "INSERT INTO heads (gun, dialect, revision, changed_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (gun) DO UPDATE SET"
        " dialect = excluded.dialect, revision = excluded.revision,"
        " changed_at = excluded.changed_at",
        (gun, dialect, last + 1, ticks(at)),
    )


def write_files(
    connection: sqlite3.Connection,
    gun: str,
    files: Sequence[StoredFile],
    changes: Sequence[Change] | None = None,
) -> None:
    """Add files and let the highest version of each role be current.

    The changefeed tells new timestamps, or just ``changes`` where given.
    """
    for change in changes or ():
        write_change(connection, change)
    for file in files:
        row = connection.execute(
            "SELECT sha256 FROM metadata WHERE gun = ? AND role = ? AND version = ?",
            (gun, file.role, file.version),
        ).fetchone()
        if row is None:
            row = connection.execute(
                "DELETE FROM collected WHERE gun = ? AND role = ? AND version = ? RETURNING sha256",
                (gun, file.role, file.version),
            ).fetchone()
            if row is not None and row[0] != file.sha256:
                raise other_bytes_error(gun, file.role, file.version)
            connection.execute(
                # The text is ours alone; values are bound.
                f"INSERT INTO metadata ({FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                file_values(gun, file),
            )
            if file.role == "timestamp" and changes is None:
                change = Change(gun, file.version, file.sha256, "update", file.stored_at)
                write_change(connection, change)
        elif row[0] != file.sha256:
            raise other_bytes_error(gun, file.role, file.version)
        connection.execute(
            "INSERT INTO current (gun, role, version) VALUES (?, ?, ?) ON CONFLICT (gun, role)"
            " DO UPDATE SET version = max(version, excluded.version)",
            (gun, file.role, file.version),
        )


def write_events(connection: sqlite3.Connection, gun: str, events: Sequence[TagEvent]) -> None:
    """Append history."""
    connection.executemany(
        "INSERT INTO events (gun, kind, target, role, version, metadata_sha256, digests, length,"
        " at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(gun, *event_values(event)) for event in events],
    )


def write_change(connection: sqlite3.Connection, change: Change) -> None:
    """Append to the changefeed."""
    connection.execute(
        "INSERT INTO changes (gun, version, sha256, category, at) VALUES (?, ?, ?, ?, ?)",
        (change.gun, change.version, change.sha256, change.category, ticks(change.at)),
    )


def read_changes(
    connection: sqlite3.Connection,
    gun: str | None,
    *,
    after: int | None,
    before: int | None,
    limit: int,
) -> list[Change]:
    """Read the changefeed, oldest first."""
    is_forward = after is not None
    order, bound = ("ASC", ">") if is_forward else ("DESC", "<")
    border = after if after is not None else before
    if border is None:
        border = MAX_INTEGER
    # The text is ours alone; values are bound.
    query = (
        "SELECT gun, version, sha256, category, at, id FROM changes"  # noqa: S608
        f" WHERE id {bound} :border{'' if gun is None else ' AND gun = :gun'}"
        f" ORDER BY id {order} LIMIT :limit"
    )
    values = {"border": max(-1, min(border, MAX_INTEGER)), "gun": gun, "limit": max(limit, 0)}
    found = [
        Change(name, version, sha256, category, moment_of(at), number)
        for name, version, sha256, category, at, number in connection.execute(query, values)
    ]
    return found if is_forward else found[::-1]
