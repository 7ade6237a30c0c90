"""The store in a PostgreSQL database, which any number of nodes share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from tabellion_server.storage.high_water import HighWater
from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    Head,
    OnlineKeyRow,
    Restoration,
    RestoredStoreError,
    StorageError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.postgres_checks import check_server
from tabellion_server.storage.postgres_commits import GroupWriter, write_changes
from tabellion_server.storage.postgres_dump import begin_load, dump, end_load, write_records
from tabellion_server.storage.postgres_errors import storage_error
from tabellion_server.storage.postgres_heads import HEADS, HeadReader, HeldHeads, head_of
from tabellion_server.storage.postgres_link import Connection, Link, Place
from tabellion_server.storage.postgres_pending import PendingTables
from tabellion_server.storage.postgres_plan import Publication
from tabellion_server.storage.postgres_rows import (
    CHANGE_COLUMNS,
    EVENT_COLUMNS,
    KEY_COLUMNS,
    change_of,
    counted,
    drop_pending,
    key_of,
    tag_event_of,
)
from tabellion_server.storage.postgres_schema import (
    VERSION,
    verify_not_loading,
    verify_schema,
)
from tabellion_server.storage.postgres_water import Water, read_restoration, restored_error
from tabellion_server.storage.records import FileRecord, Record
from tabellion_server.storage.values import MAX_INTEGER, below, check_hashes, moment_of, ticks

T = TypeVar("T")

_LARGE_BYTES: Final = 64 * 1024  # what hashes quicker than a thread is reached
_FILE: Final = "SELECT version, sha256, data, stored_at FROM tabellion.metadata"
_WAITS_FOR_STANDBY: Final = "SELECT current_setting('synchronous_standby_names') <> ''"
_NEWEST: Final = (
    "SELECT role, max(version) FROM tabellion.metadata WHERE gun = $1"
    " AND role = ANY ($2::bytea[]) GROUP BY role"
)
_COLLECT: Final = (
    "WITH gone AS (DELETE FROM tabellion.metadata m"
    " USING unnest($2::bytea[], $3::bigint[]) AS w (role, version)"
    " WHERE m.gun = $1 AND m.role = w.role AND m.version = w.version"
    " RETURNING m.gun, m.role, m.version, m.sha256, m.length),"
    " kept AS (INSERT INTO tabellion.collected (gun, role, version, sha256)"
    " SELECT gun, role, version, sha256 FROM gone)"
    " SELECT coalesce(sum(length), 0)::bigint FROM gone"
)
_ADD_KEY: Final = (
    "INSERT INTO tabellion.online_keys (gun, role, keyid, public, sealed, created_at)"
    " VALUES ($1, $2, $3, $4, $5, $6)"
)


class PostgresStore(PendingTables):
    """A ``Store`` in one database; used by one event loop."""

    def __init__(self, link: Link, water: Water) -> None:
        super().__init__(link)
        self._water = water
        self._held = HeldHeads()
        self._heads = HeadReader(link, water, self._held)
        self._writer = GroupWriter(link, water, self._held)
        self._watch = asyncio.create_task(water.watch())
        self._begun: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    @classmethod
    async def open(cls, place: Place, *, high_water: Path | None = None) -> PostgresStore:
        """Open the database, which has to be migrated.

        Args:
            place: Where it is.
            high_water: Where the mark is kept that tells a restored backup; None keeps none.

        Raises:
            StorageError: It can't be reached or used, or isn't for this release.
        """
        link = await Link.open(place, schema=VERSION)
        file: HighWater | None = None
        try:
            async with link.connection() as connection:
                await verify_schema(connection, place.name)
                await verify_not_loading(connection, place.name)
                await check_server(connection, place)
            if high_water is not None:
                file = await asyncio.to_thread(HighWater, high_water)
            water = Water(link, file)
            await water.begin(datetime.now(UTC))
            with contextlib.suppress(StorageError):  # read-only, it may still be read
                await link.transact(_forget_old)
            if file is not None:
                await asyncio.to_thread(file.share)
        except BaseException:
            if file is not None:
                file.close()
            await link.close()
            raise
        return cls(link, water)

    async def head(self, gun: str) -> Head | None:
        """See ``Store.head``."""
        self._link.key(gun)  # so that one who asks for what can't be asks alone
        return await self._heads.head(gun)

    async def read(self, gun: str, role: str, version: int | None = None) -> StoredFile | None:
        """See ``Store.read``."""
        place = self._link.key(gun), self._link.key(role)
        if version is None:
            current = "SELECT version FROM tabellion.current WHERE gun = $1 AND role = $2"
            query = f"{_FILE} WHERE gun = $1 AND role = $2 AND version = ({current})"
            rows = await self._link.fetch(query, *place)
        elif 0 < version <= MAX_INTEGER:
            query = f"{_FILE} WHERE gun = $1 AND role = $2 AND version = $3"
            rows = await self._link.fetch(query, *place, version)
        else:
            rows = []
        return await _file_of(gun, role, rows)

    async def read_hash(self, gun: str, role: str, sha256: str) -> StoredFile | None:
        """See ``Store.read_hash``."""
        place = self._link.key(gun), self._link.key(role)
        query = f"{_FILE} WHERE gun = $1 AND role = $2 AND sha256 = $3"
        return await _file_of(gun, role, await self._link.fetch(query, *place, sha256))

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
        try:
            item = Publication.of(
                gun,
                added,
                dialect=dialect,
                expected_revision=expected_revision,
                removed_heads=removed_heads,
                events=events,
                changes=changes,
                converts=converts,
                closes=closes,
                at=at,
            )
        except UnicodeEncodeError as error:
            raise storage_error(error, self._link.name) from error
        if item.size > _LARGE_BYTES:
            await asyncio.to_thread(check_hashes, gun, added)
        else:
            check_hashes(gun, added)
        return await self._reporting(self._writer.submit(item))

    async def confirm(self, gun: str) -> None:  # noqa: ARG002  (all that was before is)
        """See ``Store.confirm``: what can be seen is on disk, but perhaps not the standby's yet."""
        ((waits,),) = await self._link.fetch(_WAITS_FOR_STANDBY)
        if waits:
            await self._link.transact(_nothing)  # its COMMIT waits for all that was before

    async def guns(
        self, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> list[Head]:
        """See ``Store.guns``."""
        start = self._link.key(prefix)
        low, bound = start, ">="
        if after is not None and (behind := self._link.key(after)) >= start:
            low, bound = behind, ">"
        # No UTF-8 has the byte 255, so this is above all that begin with the prefix.
        source = (
            f"(SELECT * FROM tabellion.heads WHERE gun {bound} $1 AND gun < $2"  # noqa: S608  (ours alone)
            " ORDER BY gun LIMIT $3)"
        )
        rows = await self._link.fetch(
            f"{HEADS.format(source=source)} ORDER BY h.gun",
            *(low, start + b"\xff", max(limit, 0)),
        )
        if rows:
            await self._water.note(rows[0]["last"])
        return [head_of(row)[0] for row in rows]

    async def delete(self, gun: str) -> bool:
        """See ``Store.delete``."""
        key = self._link.key(gun)

        async def work(connection: Connection) -> tuple[bool, int]:
            await connection.execute(
                "INSERT INTO tabellion.retired SELECT gun, revision FROM tabellion.heads"
                " WHERE gun = $1 ON CONFLICT (gun) DO UPDATE SET revision = excluded.revision",
                key,
            )
            now = datetime.now(UTC)
            deleted = [await drop_pending(connection, key, now)]
            for table in ("current", "metadata", "collected", "heads", "events", "online_keys"):
                statement = f"DELETE FROM tabellion.{table} WHERE gun = $1"  # noqa: S608  (ours alone)
                deleted.append(counted(await connection.execute(statement, key)))
            told = [(key, 0, "", "deletion", ticks(now))] if any(deleted) else []
            return any(deleted), await write_changes(connection, self._water, told)

        was_there, last = await self._reporting(self._write(work, key))
        await self._water.note(last)
        return was_there

    async def changes(
        self, gun: str | None, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Change]:
        """See ``Store.changes``."""
        is_forward = after is not None
        order, bound = ("ASC", ">") if is_forward else ("DESC", "<")
        border = after if after is not None else before
        border = MAX_INTEGER if border is None else max(-1, min(border, MAX_INTEGER))
        rows = await self._link.fetch(
            f"SELECT {CHANGE_COLUMNS} FROM tabellion.changes WHERE id {bound} $1"  # noqa: S608  (ours alone)
            f"{'' if gun is None else ' AND gun = $3'} ORDER BY id {order} LIMIT $2",
            *(border, max(limit, 0), *(() if gun is None else (self._link.key(gun),))),
        )
        found = [change_of(row) for row in rows]
        if found:
            await self._water.note(max(change.id for change in found))
        return found if is_forward else found[::-1]

    async def events(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[TagEvent]:
        """See ``Store.events``."""
        rows = await self._link.fetch(
            f"SELECT {EVENT_COLUMNS} FROM tabellion.events WHERE gun = $1 AND id < $2"  # noqa: S608  (ours alone)
            f"{'' if target is None else ' AND target = $4'} ORDER BY id DESC LIMIT $3",
            *(self._link.key(gun), below(before), max(limit, 0)),
            *(() if target is None else (self._link.key(target),)),
        )
        return [tag_event_of(row) for row in rows]

    async def online_keys(self, gun: str, role: str) -> list[OnlineKeyRow]:
        """See ``Store.online_keys``."""
        rows = await self._link.fetch(
            f"SELECT {KEY_COLUMNS} FROM tabellion.online_keys"  # noqa: S608  (ours alone)
            " WHERE gun = $1 AND role = $2 ORDER BY id DESC",
            *(self._link.key(gun), self._link.key(role)),
        )
        return [key_of(row) for row in rows]

    async def oldest_online_keys(self, limit: int) -> list[tuple[str, OnlineKeyRow]]:
        """See ``Store.oldest_online_keys``."""
        rows = await self._link.fetch(
            f"SELECT gun, {KEY_COLUMNS} FROM tabellion.online_keys ORDER BY id LIMIT $1",  # noqa: S608  (ours alone)
            max(limit, 0),
        )
        return [(gun.decode(), key_of(row)) for gun, *row in rows]

    async def add_online_key(
        self, gun: str, row: OnlineKeyRow, *, seen: Collection[str] | None = None
    ) -> bool:
        """See ``Store.add_online_key``."""
        key, role, keyid = map(self._link.key, (gun, row.role, row.keyid))
        values = (keyid, self._link.key(row.public), row.sealed, ticks(row.created_at))

        async def work(connection: Connection) -> bool:
            rows = await connection.fetch(
                "SELECT keyid FROM tabellion.online_keys WHERE gun = $1 AND role = $2", key, role
            )
            held = {found.decode() for (found,) in rows}
            if seen is not None and held != set(seen):
                return False
            if row.keyid in held:
                raise StorageError(f"{gun} has an online key {row.keyid} for {row.role} already")
            await connection.execute(_ADD_KEY, key, role, *values)
            return True

        return await self._write(work, key)

    async def restoration(self, gun: str) -> Restoration:
        """See ``Store.restoration``."""
        missing = await self._water.missing()
        if missing:
            raise restored_error(missing)
        return await read_restoration(self._link, self._link.key(gun))

    async def missing_changes(self) -> int:
        """See ``Store.missing_changes``."""
        return await self._water.missing()

    async def accept_restore(self, *, skip: int | None = None, at: datetime) -> int:
        """See ``Store.accept_restore``."""
        return await self._water.accept(skip, at)

    async def files(self, gun: str) -> list[FileInfo]:
        """See ``Store.files``."""
        rows = await self._link.fetch(
            "SELECT role, version, sha256, length, stored_at FROM tabellion.metadata"
            " WHERE gun = $1",
            self._link.key(gun),
        )
        return [
            FileInfo(role.decode(), version, sha256, length, moment_of(stored_at))
            for role, version, sha256, length, stored_at in rows
        ]

    async def collect(self, gun: str, files: Collection[tuple[str, int]]) -> int:
        """See ``Store.collect``."""
        key = self._link.key(gun)
        roles = [self._link.key(role) for role, _ in files]
        versions = [version for _, version in files]

        async def work(connection: Connection) -> int:
            newest = dict(await connection.fetch(_NEWEST, key, roles))
            for role, version in files:
                if role == "root" or version >= newest.get(role.encode(), 0):
                    raise StorageError(f"{gun}: {role} version {version} has to stay")
            return int(await connection.fetchval(_COLLECT, key, roles, versions))

        return await self._write(work, key)

    async def dump(self, *, with_bytes: bool = True) -> AsyncGenerator[Sequence[Record], None]:
        """See ``Store.dump``."""
        async with (
            self._link.connection() as connection,
            contextlib.aclosing(dump(connection, with_bytes=with_bytes)) as groups,
        ):
            async for group in groups:
                await asyncio.to_thread(_check_records, group)
                yield group

    async def begin_load(self) -> None:
        """See ``Store.begin_load``."""
        await self._link.transact(lambda held: begin_load(held, self._link.name))

    async def load(self, records: Sequence[Record]) -> None:
        """See ``Store.load``."""
        await asyncio.to_thread(_check_records, records)
        await self._link.transact(lambda held: write_records(held, records))

    async def end_load(self) -> None:
        """See ``Store.end_load``."""
        await self._link.transact(end_load)

    async def now(self) -> datetime:
        """See ``Store.now``."""
        query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        ((microseconds,),) = await self._link.fetch(query)
        return moment_of(microseconds)

    async def check(self) -> None:
        """See ``Store.check``."""
        async with self._link.connection() as connection:
            await verify_schema(connection, self._link.name)

    async def close(self) -> None:
        """See ``Store.close``."""
        if self._is_closed:
            return
        self._is_closed = True
        self._watch.cancel()
        await self._writer.close()
        await asyncio.gather(*self._begun, return_exceptions=True)
        await self._water.end()
        await self._link.close()

    async def _write(self, work: Callable[[Connection], Awaitable[T]], gun: bytes) -> T:
        """Run work in a transaction of its own, to its end even if who asked for it goes away."""
        if self._is_closed:
            raise StorageError(f"store {self._link.name} is closed", hint="open it again")
        task = asyncio.create_task(self._link.transact(work, guns=[gun]))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(task)

    async def _reporting(self, written: Awaitable[T]) -> T:
        """Let all nodes know of what this one found missing."""
        try:
            return await written
        except RestoredStoreError:
            await self._water.missing()
            raise


async def _nothing(_: Connection) -> None:
    """Do nothing in a transaction, which writes its receipt."""


def _check_records(records: Sequence[Record]) -> None:
    for record in records:
        if isinstance(record, FileRecord):
            check_hashes(record.gun, [record.file])


async def _file_of(gun: str, role: str, rows: Sequence[Any]) -> StoredFile | None:
    if not rows:
        return None
    version, sha256, data, stored_at = rows[0]
    file = StoredFile(role, version, sha256, data, moment_of(stored_at))
    if len(data) > _LARGE_BYTES:
        await asyncio.to_thread(check_hashes, gun, [file])
    else:
        check_hashes(gun, [file])
    return file


async def _forget_old(connection: Connection) -> None:
    """Drop receipts whose transactions nobody can ask about any more."""
    await connection.execute("DELETE FROM tabellion.receipts WHERE at < now() - interval '1 day'")
