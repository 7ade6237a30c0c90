"""The store in Redis or Valkey, shared by any number of nodes: one server, Sentinels or Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tabellion_server.storage.head_questions import HeadQuestions
from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    Head,
    OnlineKeyRow,
    StaleHeadError,
    StorageError,
    StoreCorruptionError,
    StoredFile,
    TagEvent,
)
from tabellion_server.storage.redis_address import RedisAddress
from tabellion_server.storage.redis_dump import DumpedKeys
from tabellion_server.storage.redis_durability import Durability, check_servers
from tabellion_server.storage.redis_heads import RedisHeads
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys, raw
from tabellion_server.storage.redis_link import RedisLink, Reply, Script, Value
from tabellion_server.storage.redis_marks import NodeMark
from tabellion_server.storage.redis_numbered import newest
from tabellion_server.storage.redis_pending import PendingKeys
from tabellion_server.storage.redis_restoration import RestorationKeys
from tabellion_server.storage.redis_rows import (
    change_of,
    field_of,
    file_of,
    head_of,
    pack_change,
    pack_entry,
    pack_event,
    pack_key,
    pairs,
    read_event,
    read_keys,
    target_key,
    text_of,
)
from tabellion_server.storage.redis_schema import verify_schema
from tabellion_server.storage.redis_writing import GunWriter, Makes
from tabellion_server.storage.values import (
    MAX_INTEGER,
    check_hashes,
    moment_of,
    other_bytes_error,
    ticks,
)

_COMMIT: Final = Script("commit", "gun_prelude")
_DELETE: Final = Script("delete", "gun_prelude")
_ADD_KEY: Final = Script("add_key", "gun_prelude")
_CONFIRM: Final = Script("confirm", "gun_prelude")
_COMMIT_KEYS: Final = (
    *("files", "hashes", "stored", "events", "targets"),
    *("outbox", "pending", "audit", "audits", "collected"),
)
_LARGE_BYTES: Final = 65_536


class RedisStore(PendingKeys, RestorationKeys, DumpedKeys):
    """A ``Store`` in Redis or Valkey; see ``redis_writing`` for how it writes."""

    def __init__(self, link: RedisLink, mark: NodeMark) -> None:
        self._held_link = link
        self._mark = mark
        self._feed = FeedKeys(link.address.prefix)
        self._writer = GunWriter(link, mark)
        self._heads = RedisHeads(link)
        self._questions = HeadQuestions(self._heads.look_up)
        self._closed = False

    @classmethod
    async def open(
        cls,
        address: RedisAddress,
        *,
        high_water: Path | None = None,
        durability: Durability | None = None,
        replicas: int = 0,
        connections: int = 10,
        ca: Path | None = None,
    ) -> RedisStore:
        """Connect, and see whether the servers keep what the store promises.

        Args:
            address: Where.
            high_water: Where this node keeps the highest token it was given; None keeps none.
            durability: What the servers are said to promise; see ``check_servers``.
            replicas: How many replicas must have a write before it's acknowledged.
            connections: How many to have at most, of a Cluster to each node.
            ca: Certificates that the servers' must come from; None for the system's.

        Raises:
            StorageError: They can't be reached, keep less than what is said, or have what another
                release wrote.
            ConfigurationError: ``ca`` can't be used.
        """
        link = RedisLink(address, replicas=replicas, connections=connections, ca=ca)
        try:
            await check_servers(link, durability)
            await verify_schema(link)
            mark = await asyncio.to_thread(NodeMark, high_water)
        except BaseException:
            await link.close()
            raise
        store = cls(link, mark)
        try:
            await store._verify_whole()
            await store._begin()
        except BaseException:
            await link.close()
            mark.close()
            raise
        store._writer.start(store._lacking)
        return store

    @property
    def _link(self) -> RedisLink:
        self._verify_open()
        return self._held_link

    def _verify_open(self) -> None:
        if self._closed:
            name = self._held_link.address.name
            raise StorageError(f"store {name} is closed", hint="open it again")

    def _keys(self, gun: str) -> GunKeys:
        return GunKeys(self._held_link.address.prefix, gun)

    async def head(self, gun: str) -> Head | None:
        """See ``Store.head``."""
        self._verify_open()
        return await self._questions.head(gun)

    async def read(self, gun: str, role: str, version: int | None = None) -> StoredFile | None:
        """See ``Store.read``."""
        keys = self._keys(gun)
        if version is None:
            current = await self._link.read("HGET", keys.head, b":" + raw(role))
            if current is None:
                return None
            version = int(current.partition(b" ")[0])
        if not 0 < version <= MAX_INTEGER:
            return None
        value = await self._link.read("GET", keys.blob(role, version))
        if value is None:
            return None
        if len(value) < _LARGE_BYTES:
            return file_of(gun, role, version, value)
        return await asyncio.to_thread(file_of, gun, role, version, value)

    async def read_hash(self, gun: str, role: str, sha256: str) -> StoredFile | None:
        """See ``Store.read_hash``."""
        name = raw(f"{sha256}:{role}")
        version = await self._link.read("HGET", self._keys(gun).key("hashes"), name)
        return None if version is None else await self.read(gun, role, int(version))

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
        self._verify_open()
        keys = self._keys(gun)

        def pack() -> tuple[list[bytes], list[Any]]:
            check_hashes(gun, added)
            blobs = [keys.blob(file.role, file.version) for file in added]
            values: list[Any] = [raw(gun), _text(expected_revision), dialect, converts or dialect]
            closing = (closes.proposal, pack_entry(closes)) if closes is not None else ("", "")
            values += [int(converts is not None), *closing, len(added)]
            for file in added:
                values += _packed(gun, file, is_told=changes is None)
            values += [len(removed_heads), *map(raw, removed_heads), len(events)]
            for event in events:
                values += [target_key(event.target), pack_event(event)]
            values += [len(changes or ()), *map(pack_change, changes or ())]
            return [*keys.of(*_COMMIT_KEYS), *blobs], values

        async def write() -> list[Reply]:
            names, values = await asyncio.to_thread(pack)
            makes: Makes = "gun" if expected_revision is None else ""
            return await self._writer.write(gun, _COMMIT, names, values, makes=makes, at=at)

        word, found, _, *what = await self._writer.whole(write())
        if word == b"dialect":
            raise StoreCorruptionError(f"{gun} speaks {text_of(what[0])}, not {dialect}")
        if word == b"other":
            raise other_bytes_error(gun, text_of(what[0]), int(what[1]))
        head = head_of(gun, pairs(found))
        if word == b"withdrawn" and closes is not None:
            raise StaleHeadError(f"proposal {closes.proposal[:16]} was withdrawn", head=head)
        if word == b"stale":
            revision = None if head is None else head.revision
            raise StaleHeadError(
                f"{gun} is at revision {revision}, not at {expected_revision}", head=head
            )
        if head is None:
            raise StoreCorruptionError(f"{gun} vanished while it was written")
        return head

    async def confirm(self, gun: str) -> None:
        """See ``Store.confirm``: wait until as many replicas have it as must."""
        if self._held_link.replicas:
            await self._link.run(_CONFIRM, self._keys(gun).of(), (), waits=True)

    async def guns(
        self, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> list[Head]:
        """See ``Store.guns``."""
        start, end = raw(prefix), raw(prefix) + b"\xff" if prefix else b""
        low = b"[" + start if start else b"-"
        if after is not None and after >= prefix:
            low = b"(" + raw(after)
        high = b"(" + end if end else b"+"
        found: list[Head] = []
        while len(found) < limit:
            wanted = limit - len(found)
            names = await self._link.read(
                *("ZRANGE", self._feed.key("names"), low, high, "BYLEX", "LIMIT", 0, wanted)
            )
            # One whose making was given up, or that is being dropped, is listed and has no head.
            guns = [text_of(name) for name in names]
            heads = await self._heads.look_up(guns)
            found += [head for gun in guns if (head := heads[gun]) is not None]
            if len(names) < wanted:
                break
            low = b"(" + names[-1]
        return found

    async def delete(self, gun: str) -> bool:
        """See ``Store.delete``."""
        self._verify_open()
        keys, now = self._keys(gun), datetime.now(UTC)
        change = pack_change(Change(gun, 0, "", "deletion", now))
        work = self._writer.write(
            *(gun, _DELETE, keys.of(*_COMMIT_KEYS, "keys"), (raw(gun), change, keys.blobs)),
            drops=True,
            at=now,
        )
        word, *_ = await self._writer.whole(work)
        return bool(word == b"done")

    async def changes(
        self, gun: str | None, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Change]:
        """See ``Store.changes``."""
        if limit <= 0 or (after is None and before is not None and before <= 0):
            return []
        key, count = self._feed.changes(gun), ("COUNT", limit)
        if after is not None:
            low = f"({max(0, min(after, MAX_INTEGER))}-0" if after > 0 else "-"
            rows = await self._link.read("XRANGE", key, low, "+", *count)
        else:
            high = "+" if before is None else f"({min(before, MAX_INTEGER)}-0"
            rows = (await self._link.read("XREVRANGE", key, high, "-", *count))[::-1]
        return [change_of(number, fields[b"c"]) for number, fields in rows]

    async def events(
        self, gun: str, *, target: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[TagEvent]:
        """See ``Store.events``."""
        about = None if target is None else target_key(target)
        rows = await newest(
            *(self._link, self._keys(gun), "events", "targets", about), before=before, limit=limit
        )
        return [read_event(number, packed) for number, packed in rows]

    async def online_keys(self, gun: str, role: str) -> list[OnlineKeyRow]:
        """See ``Store.online_keys``."""
        fields = await self._link.read("HGETALL", self._keys(gun).key("keys"))
        return [row for row in read_keys(pairs(fields)) if row.role == role]

    async def oldest_online_keys(self, limit: int) -> list[tuple[str, OnlineKeyRow]]:
        """See ``Store.oldest_online_keys``."""
        found: list[tuple[str, OnlineKeyRow]] = []
        start = 0
        while len(found) < limit and (
            names := await self._link.read(
                "ZRANGE", self._feed.key("keyed"), start, start + limit - 1
            )
        ):
            for name in names:
                gun = text_of(name)
                fields = await self._link.read("HGETALL", self._keys(gun).key("keys"))
                found += [(gun, row) for row in reversed(read_keys(pairs(fields)))]
            start += len(names)
        return found[:limit]

    async def add_online_key(
        self, gun: str, row: OnlineKeyRow, *, seen: Collection[str] | None = None
    ) -> bool:
        """See ``Store.add_online_key``."""
        self._verify_open()
        given = [field_of(row.role, keyid) for keyid in seen or ()]
        sees: list[Value] = [] if seen is None else [len(given), *given]
        values = (raw(row.role), field_of(row.role, row.keyid), pack_key(row))
        work = self._writer.write(
            *(gun, _ADD_KEY, self._keys(gun).of("keys", "outbox")),
            (*values, int(seen is not None), *sees),
            makes="key",
        )
        word, *_ = await self._writer.whole(work)
        if word == b"twice":
            raise StorageError(f"{gun} has an online key {row.keyid} for {row.role} already")
        return bool(word == b"done")

    async def sweep(self, *, age_seconds: int = 0) -> int:
        """Finish what others began longer ago than that, and left; give how many writes.

        Raises:
            StorageError: The store failed.
        """
        self._verify_open()
        return await self._writer.sweep(age_seconds=age_seconds)

    async def now(self) -> datetime:
        """See ``Store.now``."""
        seconds, microseconds = await self._link.read("TIME")
        return moment_of(int(seconds) * 1_000_000 + int(microseconds))

    async def check(self) -> None:
        """See ``Store.check``."""
        await self._link.read("HGET", self._feed.key("state"), "token")

    async def close(self) -> None:
        """See ``Store.close``."""
        if self._closed:
            return
        self._closed = True
        await self._writer.drain()
        try:
            await self._leave_mark()
        finally:
            await self._held_link.close()
            self._mark.close()

    @property
    def _mark_link(self) -> RedisLink:
        return self._held_link


def _text(revision: int | None) -> str:
    return "" if revision is None else str(revision)


def _packed(gun: str, file: StoredFile, *, is_told: bool) -> list[Any]:
    if not 0 < file.version <= MAX_INTEGER:
        raise StorageError(f"{gun}: {file.role} can't have version {file.version}")
    change: bytes = b""
    if is_told and file.role == "timestamp":
        change = pack_change(Change(gun, file.version, file.sha256, "update", file.stored_at))
    stored_at = ticks(file.stored_at)
    return [
        *(raw(file.role), file.version, file.sha256, len(file.data), stored_at, change, file.data)
    ]
