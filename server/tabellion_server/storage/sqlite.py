"""The embedded store: one SQLite file, one writer thread with group commit, reader threads."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from tabellion_server.storage.high_water import HighWater
from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    Head,
    OnlineKeyRow,
    Restoration,
    StorageError,
    StoreCorruptionError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.records import FileRecord, Record
from tabellion_server.storage.sqlite_dump import (
    begin_load,
    dump,
    end_load,
    verify_not_loading,
    write_records,
)
from tabellion_server.storage.sqlite_file import (
    connect,
    open_store_file,
    verify_in_place,
)
from tabellion_server.storage.sqlite_heads import HeadReader
from tabellion_server.storage.sqlite_pending import (
    PendingTables,
    close_row,
    drop_rows,
    verify_not_withdrawn,
)
from tabellion_server.storage.sqlite_restoration import (
    cover,
    join,
    last_change,
    missing_changes,
    pass_over,
    read_restoration,
    verify_complete,
)
from tabellion_server.storage.sqlite_rows import (
    EVENT_COLUMNS,
    read_changes,
    read_file,
    read_hash,
    read_head,
    read_infos,
    write_change,
    write_events,
    write_files,
    write_revision,
)
from tabellion_server.storage.sqlite_threads import GroupWriter, Readers, Work
from tabellion_server.storage.stored_values import event_of, online_key_of
from tabellion_server.storage.values import MAX_INTEGER, below, check_hashes, check_head, ticks

T = TypeVar("T")

_READERS: Final = 4


class SqliteStore(PendingTables):
    """A ``Store`` in one file, which several processes of one machine may share."""

    def __init__(
        self, path: Path, writer: GroupWriter, readers: Readers, water: HighWater | None
    ) -> None:
        self._path = path
        self._writer = writer
        self._water = water
        self._readers = readers
        self._heads = HeadReader(path)
        self._inode = path.stat().st_ino

    @classmethod
    async def open(cls, path: Path | str, *, high_water: Path | None = None) -> SqliteStore:
        """Open the file, or make it, with its folder; only its owner may read it.

        Args:
            path: The file.
            high_water: Where the mark is kept that tells a restored backup; None keeps none.

        Raises:
            StorageError: It can't be made or opened, or another program or release wrote it.
        """
        return await asyncio.to_thread(cls._open, path, high_water)

    @classmethod
    def _open(cls, given: Path | str, high_water: Path | None) -> SqliteStore:
        path = Path(given).absolute()
        connection = open_store_file(path)
        inode = path.stat().st_ino
        water = None if high_water is None else join(connection, path, high_water)

        def before_commit(connection: sqlite3.Connection) -> None:
            # Or it would be told as done, and be gone with the file that has no name any more.
            verify_in_place(path, inode)
            if water is not None:
                cover(water, path, connection)

        writer = GroupWriter(connection, path, before_commit=before_commit)
        return cls(path, writer, Readers(path, count=_READERS), water)

    async def head(self, gun: str) -> Head | None:
        """See ``Store.head``."""
        return await self._heads.head(gun)

    async def read(self, gun: str, role: str, version: int | None = None) -> StoredFile | None:
        """See ``Store.read``."""
        if version is not None and not 0 < version <= MAX_INTEGER:
            return None
        return await self._read(lambda connection: read_file(connection, gun, role, version))

    async def read_hash(self, gun: str, role: str, sha256: str) -> StoredFile | None:
        """See ``Store.read_hash``."""
        return await self._read(lambda connection: read_hash(connection, gun, role, sha256))

    async def commit(
        self,
        gun: str,
        *,
        dialect: str,
        expected_revision: int | None,
        added: Sequence[StoredFile],
        removed_heads: Sequence[str] = (),
        events: Sequence[TagEvent] = (),
        changes: Sequence[Change] | None = None,
        converts: str | None = None,
        closes: AuditEntry | None = None,
        at: datetime,
    ) -> Head:
        """See ``Store.commit``."""
        await asyncio.to_thread(check_hashes, gun, added)

        def work(connection: sqlite3.Connection) -> Head:
            verify_not_loading(connection)
            if self._water is not None:
                verify_complete(connection, self._water)
            head = read_head(connection, gun)
            check_head(gun, head, expected_revision, converts or dialect)
            write_revision(connection, gun, dialect, head, at)
            write_files(connection, gun, added, changes)
            connection.executemany(
                "DELETE FROM current WHERE gun = ? AND role = ?",
                [(gun, role) for role in removed_heads],
            )
            write_events(connection, gun, events)
            if closes is not None and not close_row(connection, closes):
                verify_not_withdrawn(connection, closes, head)
            if converts is not None:
                drop_rows(connection, gun, at)
            written = read_head(connection, gun)
            if written is None:
                raise StoreCorruptionError(f"{gun} vanished while it was written")
            return written

        return await self._write(work)

    async def confirm(self, gun: str) -> None:
        """See ``Store.confirm``: what can be seen is on disk."""

    async def guns(
        self, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> list[Head]:
        """See ``Store.guns``."""
        # One lower bound: of two, SQLite's index would take the first and scan for the other.
        low, bound = (prefix, ">=") if after is None or after < prefix else (after, ">")
        query = (
            f"SELECT gun FROM heads WHERE gun {bound} :low AND gun < :prefix || char(1114111)"  # noqa: S608
            " ORDER BY gun LIMIT :limit"
        )
        values = {"low": low, "prefix": prefix, "limit": max(limit, 0)}

        def work(connection: sqlite3.Connection) -> list[Head]:
            rows = connection.execute(query, values)
            heads = [read_head(connection, gun) for (gun,) in rows.fetchall()]
            return [head for head in heads if head is not None]

        return await self._read(work)

    async def delete(self, gun: str) -> bool:
        """See ``Store.delete``."""

        def work(connection: sqlite3.Connection) -> bool:
            verify_not_loading(connection)
            if self._water is not None:
                verify_complete(connection, self._water)
            connection.execute(
                "INSERT OR REPLACE INTO retired SELECT gun, revision FROM heads WHERE gun = ?",
                (gun,),
            )
            now = datetime.now(UTC)
            deleted = [drop_rows(connection, gun, now)]
            deleted += [
                connection.execute(statement, (gun,)).rowcount
                for statement in (
                    "DELETE FROM current WHERE gun = ?",
                    "DELETE FROM metadata WHERE gun = ?",
                    "DELETE FROM collected WHERE gun = ?",
                    "DELETE FROM heads WHERE gun = ?",
                    "DELETE FROM events WHERE gun = ?",
                    "DELETE FROM online_keys WHERE gun = ?",
                )
            ]
            if any(deleted):
                write_change(connection, Change(gun, 0, "", "deletion", now))
            return any(deleted)

        return await self._write(work)

    async def changes(
        self, gun: str | None, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Change]:
        """See ``Store.changes``."""
        return await self._read(
            lambda connection: read_changes(
                connection, gun, after=after, before=before, limit=limit
            )
        )

    async def events(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[TagEvent]:
        """See ``Store.events``."""
        # The text is ours alone; values are bound.
        query = (
            f"SELECT {EVENT_COLUMNS} FROM events WHERE gun = :gun AND id < :below"  # noqa: S608
            f"{'' if target is None else ' AND target = :target'} ORDER BY id DESC LIMIT :limit"
        )
        values = {"gun": gun, "below": below(before), "target": target, "limit": max(limit, 0)}
        return await self._read(
            lambda connection: [event_of(row) for row in connection.execute(query, values)]
        )

    async def online_keys(self, gun: str, role: str) -> list[OnlineKeyRow]:
        """See ``Store.online_keys``."""
        query = (
            "SELECT keyid, role, public, sealed, created_at FROM online_keys"
            " WHERE gun = ? AND role = ? ORDER BY id DESC"
        )
        return await self._read(
            lambda connection: [
                online_key_of(row) for row in connection.execute(query, (gun, role))
            ]
        )

    async def oldest_online_keys(self, limit: int) -> list[tuple[str, OnlineKeyRow]]:
        """See ``Store.oldest_online_keys``."""
        query = (
            "SELECT gun, keyid, role, public, sealed, created_at FROM online_keys"
            " ORDER BY id LIMIT ?"
        )
        return await self._read(
            lambda connection: [
                (gun, online_key_of(row)) for gun, *row in connection.execute(query, (limit,))
            ]
        )

    async def add_online_key(
        self, gun: str, row: OnlineKeyRow, *, seen: Collection[str] | None = None
    ) -> bool:
        """See ``Store.add_online_key``."""

        def work(connection: sqlite3.Connection) -> bool:
            rows = connection.execute(
                "SELECT keyid FROM online_keys WHERE gun = ? AND role = ?", (gun, row.role)
            ).fetchall()
            if seen is not None and {keyid for (keyid,) in rows} != set(seen):
                return False
            if (row.keyid,) in rows:
                raise StorageError(f"{gun} has an online key {row.keyid} for {row.role} already")
            connection.execute(
                "INSERT INTO online_keys (gun, role, keyid, public, sealed, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (gun, row.role, row.keyid, row.public, row.sealed, ticks(row.created_at)),
            )
            return True

        return await self._write(work)

    async def restoration(self, gun: str) -> Restoration:
        """See ``Store.restoration``."""
        water = self._water

        def work(connection: sqlite3.Connection) -> Restoration:
            if water is not None:
                verify_complete(connection, water)
            return read_restoration(connection, gun)

        return await self._read(work)

    async def missing_changes(self) -> int:
        """See ``Store.missing_changes``."""
        water = self._water
        if water is None:
            return 0
        return await self._read(lambda connection: missing_changes(connection, water))

    async def accept_restore(self, *, skip: int | None = None, at: datetime) -> int:
        """See ``Store.accept_restore``."""
        water = self._water

        def work(connection: sqlite3.Connection) -> int:
            known = missing_changes(connection, water) if water is not None else 0
            missing = known if skip is None else max(skip, known)
            if missing:
                pass_over(connection, missing, at=at, is_loss=True)
            return missing

        return await self._write(work)

    async def files(self, gun: str) -> list[FileInfo]:
        """See ``Store.files``."""
        return await self._read(lambda connection: read_infos(connection, gun))

    async def collect(self, gun: str, files: Collection[tuple[str, int]]) -> int:
        """See ``Store.collect``."""

        def work(connection: sqlite3.Connection) -> int:
            length = 0
            for role, version in files:
                where = (gun, role, version)
                (newest,) = connection.execute(
                    "SELECT max(version) FROM metadata WHERE gun = ? AND role = ?", where[:2]
                ).fetchone()
                if role == "root" or newest is None or version >= newest:
                    raise StorageError(f"{gun}: {role} version {version} has to stay")
                connection.execute(
                    "INSERT INTO collected SELECT gun, role, version, sha256 FROM metadata"
                    " WHERE gun = ? AND role = ? AND version = ?",
                    where,
                )
                gone = connection.execute(
                    "DELETE FROM metadata WHERE gun = ? AND role = ? AND version = ?"
                    " RETURNING length",
                    where,
                ).fetchone()
                length += gone[0] if gone is not None else 0
            return length

        return await self._write(work)

    async def dump(self, *, with_bytes: bool = True) -> AsyncGenerator[Sequence[Record], None]:
        """See ``Store.dump``."""
        groups = dump(self._path, with_bytes=with_bytes)
        try:
            while (group := await asyncio.to_thread(next, groups, None)) is not None:
                yield group
        finally:
            await asyncio.to_thread(groups.close)

    async def begin_load(self) -> None:
        """See ``Store.begin_load``."""
        if self._water is not None and not await asyncio.to_thread(self._water.try_alone):
            await asyncio.to_thread(self._water.share)
            raise StorageError(
                f"store {self._path} is open in another process, maybe a server's",
                hint="stop it: what is published meanwhile would be lost",
            )
        await self._write(lambda connection: begin_load(connection, self._path))

    async def load(self, records: Sequence[Record]) -> None:
        """See ``Store.load``."""
        files = [record for record in records if isinstance(record, FileRecord)]
        for record in files:
            await asyncio.to_thread(check_hashes, record.gun, [record.file])
        await self._write(lambda connection: write_records(connection, records))

    async def end_load(self) -> None:
        """See ``Store.end_load``."""
        await self._write(end_load)

    async def now(self) -> None:
        """See ``Store.now``: it's the machine's."""

    async def check(self) -> None:
        """See ``Store.check``."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT version FROM schema_version").fetchone()
            verify_in_place(self._path, self._inode)

        if not self._writer.is_running:
            raise StorageError(f"store {self._path} doesn't write any more", hint="restart")
        await self._read(work)

    async def close(self) -> None:
        """See ``Store.close``."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        was_running = self._writer.is_running
        self._writer.close()
        self._readers.close()
        self._heads.close()
        if self._water is not None:
            if was_running:
                self._settle(self._water)
            self._water.close()

    def _settle(self, water: HighWater) -> None:
        """Leave the exact mark, if no other process has the store open: it might still commit."""
        # What fails leaves the mark as it is: no lower than what was told.
        with contextlib.suppress(StorageError, OSError, sqlite3.Error):
            if water.try_alone() and self._path.stat().st_ino == self._inode:
                with contextlib.closing(connect(self._path, read_only=True)) as connection:
                    water.settle(last_change(connection))

    async def _read(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._readers.submit(work))

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(work))
