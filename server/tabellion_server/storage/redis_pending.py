"""The Redis store's pending proposals and what became of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Final

from tabellion_server.storage.interface import AuditEntry, PendingFullError, PendingRow
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys, raw
from tabellion_server.storage.redis_link import RedisLink, Reply, Script, Value
from tabellion_server.storage.redis_numbered import newest
from tabellion_server.storage.redis_rows import (
    pack_entry,
    pack_pending,
    pairs,
    read_entry,
    read_pending,
)
from tabellion_server.storage.redis_writing import GunWriter
from tabellion_server.storage.values import ticks

_PUT: Final = Script("put_pending", "gun_prelude")
_CLOSE: Final = Script("close_pending", "gun_prelude")
_STRIKE: Final = Script("strike_expiry", "feed_prelude")
_ROWS: Final = ("pending", "audit", "audits", "outbox")
_PAGE: Final = 100


class PendingKeys(ABC):
    """That part of ``Store``."""

    _feed: FeedKeys
    _writer: GunWriter

    @property
    @abstractmethod
    def _link(self) -> RedisLink:
        """The way to the store."""

    @abstractmethod
    def _verify_open(self) -> None:
        """Refuse once the store is closed."""

    @abstractmethod
    def _keys(self, gun: str) -> GunKeys:
        """Give a GUN's keys."""

    async def pending(self, gun: str) -> list[PendingRow]:
        """See ``Store.pending``."""
        fields = pairs(await self._link.read("HGETALL", self._keys(gun).key("pending")))
        rows = [read_pending(gun, name.decode(), value) for name, value in fields.items()]
        return sorted(rows, key=lambda row: (row.created_at, row.id))

    async def put_pending(self, row: PendingRow, entry: AuditEntry, *, at_most: int) -> bool:
        """See ``Store.put_pending``."""
        packed = pack_pending(row)
        # First where its end is noted: what isn't there any more is struck when it's due.
        member = raw(f"{row.id}:{row.gun}")
        await self._link.read("ZADD", self._feed.key("expiries"), ticks(row.expires_at), member)
        word, count = await self._run(
            *(_PUT, row.gun, row.id, row.revision, at_most, packed, pack_entry(entry))
        )
        if word == b"full":
            raise PendingFullError(f"{row.gun} has {int(count)} pending proposals already")
        return bool(word == b"done")

    async def close_pending(self, entry: AuditEntry) -> bool:
        """See ``Store.close_pending``."""
        word, _ = await self._run(_CLOSE, entry.gun, entry.proposal, pack_entry(entry), "")
        return bool(word == b"done")

    async def expire_pending(self, now: datetime) -> list[AuditEntry]:
        """See ``Store.expire_pending``."""
        moment, key = ticks(now), self._feed.key("expiries")
        found: list[AuditEntry] = []
        while members := await self._link.read(
            "ZRANGEBYSCORE", key, "-inf", moment, "LIMIT", 0, _PAGE
        ):
            for member in members:
                proposal, _, gun = member.decode().partition(":")
                entry = AuditEntry(gun, proposal, "expired", {}, (), "", now)
                word, versions = await self._run(_CLOSE, gun, proposal, pack_entry(entry), moment)
                if word == b"done":
                    given = json.loads(versions or b"{}")
                    found.append(AuditEntry(gun, proposal, "expired", given, (), "", now))
                await self._link.run(
                    _STRIKE, self._feed.of("expiries"), (member, moment), waits=True
                )
        return found

    async def audit(
        self, gun: str, *, proposal: str | None = None, before: int | None = None, limit: int
    ) -> list[AuditEntry]:
        """See ``Store.audit``."""
        rows = await newest(
            *(self._link, self._keys(gun), "audit", "audits", proposal), before=before, limit=limit
        )
        return [read_entry(number, packed) for number, packed in rows]

    async def _run(self, script: Script, gun: str, *values: Value) -> tuple[bytes, Reply]:
        """Give the script's word, and what belongs to it."""
        keys = self._keys(gun).of(*_ROWS)
        self._verify_open()
        work = self._writer.write(gun, script, keys, values, judges=False)
        word, _, _, *more = await self._writer.whole(work)
        return word, more[0] if more else None
