"""All that a Redis store has as records, and back; old versions let go."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Final

from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    FileInfo,
    PendingRow,
    StorageError,
    StoreCorruptionError,
    StoredFile,
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
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys, raw
from tabellion_server.storage.redis_known import known_guns
from tabellion_server.storage.redis_link import RedisLink, Script, Value
from tabellion_server.storage.redis_numbered import newest
from tabellion_server.storage.redis_restoration import Loss
from tabellion_server.storage.redis_rows import (
    change_of,
    field_of,
    file_of,
    head_of,
    pack_change,
    pack_entry,
    pack_event,
    pack_key,
    pack_pending,
    pairs,
    read_entry,
    read_event,
    read_keys,
    read_pending,
    target_key,
    text_of,
)
from tabellion_server.storage.values import check_hashes, loading_error, moment_of, ticks

_COLLECT: Final = Script("collect", "gun_prelude")
_LOAD_FILE: Final = Script("load_file", "gun_prelude")
_DUMP_GUN: Final = Script("dump_gun", "gun_prelude")
_PAGE: Final = 500
_GROUP_BYTES: Final = 1024 * 1024
_TOKEN_BITS: Final = 20  # of a row's id, below the token's


class DumpedKeys(ABC):
    """That part of ``Store``."""

    _feed: FeedKeys
    _loaded_top: int = 0

    @property
    @abstractmethod
    def _link(self) -> RedisLink:
        """The way to the store."""

    @abstractmethod
    def _keys(self, gun: str) -> GunKeys:
        """Give a GUN's keys."""

    async def files(self, gun: str) -> list[FileInfo]:
        """See ``Store.files``."""
        fields = pairs(await self._link.read("HGETALL", self._keys(gun).key("files")))
        return [_info_of(name, value) for name, value in fields.items()]

    async def collect(self, gun: str, files: Collection[tuple[str, int]]) -> int:
        """See ``Store.collect``."""
        if not files:
            return 0
        keys = self._keys(gun)
        names = keys.of("files", "hashes", "collected")
        names += [keys.blob(role, version) for role, version in files]
        values: list[Value] = [len(files)]
        for role, version in files:
            values += [raw(role), version]
        word, *what = await self._link.run(_COLLECT, names, values, waits=True)
        if word == b"kept":
            raise StorageError(f"{gun}: {text_of(what[0])} version {int(what[1])} has to stay")
        return int(what[0])

    async def dump(self, *, with_bytes: bool = True) -> AsyncGenerator[Sequence[Record], None]:
        """See ``Store.dump``."""
        group: list[Record] = []
        size = 0
        async for record in self._records(with_bytes=with_bytes):
            group.append(record)
            size += len(record.file.data) if isinstance(record, FileRecord) else 0
            if len(group) >= _PAGE or size >= _GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    async def begin_load(self) -> None:
        """See ``Store.begin_load``."""
        state = self._feed.key("state")
        known = await self._link.read("EXISTS", self._feed.key("known"))
        last = await self._link.read("HGET", state, "last")
        if known or int(last or 0):
            raise StorageError(
                f"store {self._link.address.name} isn't empty",
                hint="restore into a store of its own: add ?prefix=NAME to storage.url",
            )
        if not await self._link.read("HSETNX", state, "loading", 1):
            raise loading_error()

    async def load(self, records: Sequence[Record]) -> None:
        """See ``Store.load``."""
        files = [record for record in records if isinstance(record, FileRecord)]
        for item in files:
            await asyncio.to_thread(check_hashes, item.gun, [item.file])
        await asyncio.gather(*(self._load_file(item.gun, item.file) for item in files))
        commands: list[list[Value]] = []
        for record in records:
            if isinstance(record, HeadRecord):
                commands += await self._head_commands(record)
            elif isinstance(record, OnlineKeyRecord):
                commands += await self._key_commands(record)
            elif not isinstance(record, FileRecord | Change):
                commands += self._commands(record)
        await self._link.read_all(commands)
        changes = [record for record in records if isinstance(record, Change)]
        await self._link.read_in_order([each for item in changes for each in self._told(item)])

    async def end_load(self) -> None:
        """See ``Store.end_load``."""
        state = self._feed.key("state")
        await self._link.read("HSET", state, "token", (self._loaded_top >> _TOKEN_BITS) + 1)
        await self._link.read("HDEL", state, "loading")

    async def _verify_whole(self) -> None:
        if await self._link.read("HGET", self._feed.key("state"), "loading"):
            raise StorageError(
                f"store {self._link.address.name} has only part of a backup: a restore was cut off",
                hint="restore into another one: change ?prefix=NAME in storage.url",
            )

    async def _records(self, *, with_bytes: bool) -> AsyncIterator[Record]:
        last = int(await self._link.read("HGET", self._feed.key("state"), "last") or 0)
        yield FeedRecord(last)
        start = "-"
        while rows := await self._link.read(
            "XRANGE", self._feed.changes(None), start, f"{last}-0", "COUNT", _PAGE
        ):
            for number, fields in rows:
                yield change_of(number, fields[b"c"])
            start = f"({text_of(rows[-1][0])}"
        for row in await self._link.read("LRANGE", self._feed.key("losses"), 0, -1):
            loss = Loss(*map(int, row.split(b" ")))
            yield RestorationRecord(
                loss.after, loss.missing, moment_of(loss.at), bool(loss.is_loss)
            )
        skip = 0
        after = ""
        while guns := await known_guns(self._link, self._feed, after):
            for gun in guns:
                kept, *parts = map(
                    pairs,
                    await self._link.run(
                        _DUMP_GUN, self._keys(gun).of("files", "collected", "keys", "pending"), ()
                    ),
                )
                skip = max(skip, int(kept.get(b"skip", 0)))
                async for record in self._gun(gun, kept, parts, with_bytes=with_bytes):
                    yield record
            after = guns[-1]
        if skip:
            # What its masters' restarts would have passed over, of which others know nothing.
            now = moment_of(int((await self._link.read("TIME"))[0]) * 1_000_000)
            yield RestorationRecord(last, skip, now, is_loss=False)

    async def _gun(
        self,
        gun: str,
        kept: dict[bytes, bytes],
        parts: Sequence[dict[bytes, bytes]],
        *,
        with_bytes: bool,
    ) -> AsyncIterator[Record]:
        head_fields, files, collected, online, pending = parts
        for name, value in files.items():
            info = _info_of(name, value)
            if with_bytes:
                yield FileRecord(gun, await self._stored(gun, info))
            else:
                yield InfoRecord(gun, info)
        for name, value in collected.items():
            version, _, role = text_of(name).partition(":")
            yield CollectedRecord(gun, role, int(version), text_of(value))
        head = head_of(gun, head_fields)
        if head is not None:
            current = {role: ref.version for role, ref in head.files.items()}
            yield HeadRecord(gun, head.dialect, head.revision, head.changed_at, current)
        elif b"revision" in kept:
            yield RetiredRecord(gun, int(kept[b"revision"]))
        for row in reversed(read_keys(online)):
            yield OnlineKeyRecord(gun, row)
        for proposal, value in pending.items():
            yield read_pending(gun, text_of(proposal), value)
        end = (int(kept.get(b"token", 0)) + 1) << _TOKEN_BITS
        async for number, packed in self._rows(gun, "events", "targets", end):
            yield EventRecord(gun, read_event(number, packed))
        async for number, packed in self._rows(gun, "audit", "audits", end):
            yield read_entry(number, packed)

    async def _rows(
        self, gun: str, rows: str, index: str, end: int
    ) -> AsyncIterator[tuple[int, bytes]]:
        keys = self._keys(gun)
        while page := await newest(*(self._link, keys, rows, index, None), before=end, limit=_PAGE):
            for row in page:
                yield row
            end = page[-1][0]

    async def _stored(self, gun: str, info: FileInfo) -> StoredFile:
        value = await self._link.read("GET", self._keys(gun).blob(info.role, info.version))
        if value is None:
            name = raw(f"{info.version}:{info.role}")
            if await self._link.read("HEXISTS", self._keys(gun).key("files"), name):
                raise StoreCorruptionError(
                    f"{gun}: {info.role} version {info.version} is listed, but has no bytes",
                    hint="run tabellion-server check, which names all that is damaged; then "
                    "restore a backup",
                )
            raise StorageError(
                f"{gun}: {info.role} version {info.version} went while it was read",
                hint="was the GUN deleted, or collected? begin again",
            )
        return await asyncio.to_thread(file_of, gun, info.role, info.version, value)

    async def _load_file(self, gun: str, file: StoredFile) -> None:
        keys = self._keys(gun)
        names = [*keys.of("files", "hashes", "stored"), keys.blob(file.role, file.version)]
        values = (raw(file.role), file.version, file.sha256, len(file.data))
        await self._link.run(_LOAD_FILE, names, (*values, ticks(file.stored_at), file.data))

    async def _head_commands(self, record: HeadRecord) -> list[list[Value]]:
        keys = self._keys(record.gun)
        names = [raw(f"{version}:{role}") for role, version in record.current.items()]
        found = await self._link.read("HMGET", keys.key("files"), *names) if names else []
        fields: list[Value] = ["dialect", record.dialect, "revision", record.revision]
        fields += ["changed_at", ticks(record.changed_at), "stamp", secrets.token_hex(8)]
        for (role, version), value in zip(record.current.items(), found, strict=True):
            if value is None:
                raise StoreCorruptionError(
                    f"the backup is damaged: {record.gun} names {role} version {version}, which "
                    "isn't in it"
                )
            info = _info_of(raw(f"{version}:{role}"), value)
            fields += [b":" + raw(role), f"{version} {info.sha256} {info.length}"]
        return [
            ["HSET", keys.head, *fields],
            ["HSET", keys.key("kept"), "revision", record.revision],
            ["ZADD", self._feed.key("names"), 0, raw(record.gun)],
            ["ZADD", self._feed.key("known"), 0, raw(record.gun)],
        ]

    async def _key_commands(self, record: OnlineKeyRecord) -> list[list[Value]]:
        keys, row = self._keys(record.gun), record.row
        number = await self._link.read("HINCRBY", keys.key("kept"), "keys", 1)
        place = await self._link.read("HINCRBY", self._feed.key("state"), "loaded_keys", 1)
        packed = b"%d " % number + pack_key(row)
        return [
            ["HSET", keys.key("keys"), field_of(row.role, row.keyid), packed],
            ["ZADD", self._feed.key("keyed"), "NX", place / 1e9, raw(record.gun)],
            ["ZADD", self._feed.key("known"), 0, raw(record.gun)],
        ]

    def _commands(self, record: Record) -> list[list[Value]]:
        """Give what writes a record that needs no look at the store."""
        match record:
            case FeedRecord(last):
                return [["HSET", self._feed.key("state"), "last", last]]
            case RestorationRecord(after_id, missing, at, is_loss):
                row = f"{after_id} {missing} {ticks(at)} {int(is_loss)}"
                return [["RPUSH", self._feed.key("losses"), row]]
        return self._gun_commands(record)

    def _told(self, change: Change) -> list[list[Value]]:
        entry: list[Value] = [f"{change.id}-0", "c", pack_change(change)]
        feeds = (self._feed.changes(None), self._feed.changes(change.gun))
        return [["XADD", feed, *entry] for feed in feeds]

    def _gun_commands(self, record: Record) -> list[list[Value]]:
        """The same for one that is a GUN's own."""
        found: list[list[Value]]
        match record:
            case CollectedRecord(gun, role, version, sha256):
                name = raw(f"{version}:{role}")
                found = [["HSET", self._keys(gun).key("collected"), name, sha256]]
            case RetiredRecord(gun, revision):
                found = [["HSET", self._keys(gun).key("kept"), "revision", revision]]
            case EventRecord(gun, event):
                about = target_key(event.target)
                found = self._row_commands(
                    gun, ("events", "targets"), about, event.id, pack_event(event)
                )
            case AuditEntry(gun=gun, proposal=about):
                found = self._row_commands(
                    gun, ("audit", "audits"), about, record.id, pack_entry(record)
                )
            case PendingRow(gun=gun):
                packed = pack_pending(replace(record, revision=record.revision - 1))
                member = raw(f"{record.id}:{gun}")
                found = [
                    ["HSET", self._keys(gun).key("pending"), record.id, packed],
                    ["ZADD", self._feed.key("expiries"), ticks(record.expires_at), member],
                ]
            case _:
                raise StorageError(f"there is no place for a {type(record).__name__}")
        found.append(["ZADD", self._feed.key("known"), 0, raw(gun)])
        return found

    def _row_commands(
        self, gun: str, places: tuple[str, str], about: str, number: int, packed: bytes
    ) -> list[list[Value]]:
        self._loaded_top = max(self._loaded_top, number)
        rows, index = (self._keys(gun).key(place) for place in places)
        name = f"{number:016x}"
        return [
            ["HSET", rows, name, packed],
            ["ZADD", index, 0, f":{name}", 0, f"{about}:{name}"],
        ]


def _info_of(name: bytes, value: bytes) -> FileInfo:
    version, _, role = name.decode().partition(":")
    sha256, stored_at, length = value.decode().split(" ")
    return FileInfo(role, int(version), sha256, int(length), moment_of(int(stored_at)))
