"""What the Redis store lacks after a restore or a fail-over, and how it goes on from there."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Final

from tabellion_server.storage.interface import Restoration, StorageError
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys
from tabellion_server.storage.redis_link import RedisLink, Script
from tabellion_server.storage.redis_marks import NodeMark
from tabellion_server.storage.redis_rows import pairs
from tabellion_server.storage.redis_writing import restored_error
from tabellion_server.storage.values import ticks

_MISSING: Final = Script("missing", "feed_prelude")
_ACCEPT: Final = Script("accept", "feed_prelude")
_RESTORATION: Final = Script("restoration", "gun_prelude")
_ONLINE: Final = frozenset({"snapshot", "timestamp"})

Losses = list[tuple[int, int, int]]


class RestorationKeys(ABC):
    """That part of ``Store``."""

    _feed: FeedKeys
    _mark: NodeMark

    @property
    @abstractmethod
    def _link(self) -> RedisLink:
        """The way to the store."""

    @abstractmethod
    def _keys(self, gun: str) -> GunKeys:
        """Give a GUN's keys."""

    async def restoration(self, gun: str) -> Restoration:
        """See ``Store.restoration``."""
        (missing, _, losses), own = await asyncio.gather(
            self._lost(),
            self._link.run(_RESTORATION, self._keys(gun).of("stored"), ()),
        )
        if missing:
            raise restored_error(self._link.address.name, missing)
        skip, token, lost_at, stored = own
        passed_over = int(skip or 0)
        if token:
            passed_over += sum(size for start, size, _ in losses if start >= int(token))
        newest = {
            role.decode(): int(at)
            for role, at in pairs(stored).items()
            if role.decode() not in _ONLINE
        }
        moments = [at for _, _, at in losses] + ([int(lost_at)] if lost_at else [])
        if not moments or not newest or min(newest.values()) >= max(moments):
            return Restoration(passed_over, may_lack=False)
        settled = frozenset(role for role, at in newest.items() if at >= max(moments))
        return Restoration(passed_over, may_lack=True, settled=settled)

    async def missing_changes(self) -> int:
        """See ``Store.missing_changes``."""
        missing, of_guns, _ = await self._lost()
        return missing + of_guns

    async def accept_restore(self, *, skip: int | None = None, at: datetime) -> int:
        """See ``Store.accept_restore``."""
        values = (self._mark.known, skip or 0, ticks(at), secrets.token_hex(8))
        keys = self._feed.of("lost", "losses", "moved")
        return int(await self._link.run(_ACCEPT, keys, values, waits=True))

    async def _lost(self) -> tuple[int, int, Losses]:
        """Give what is missing of all, of single GUNs, and what was accepted: begin, size, when."""
        missing, of_guns, rows = await self._link.run(
            _MISSING, self._feed.of("lost", "losses"), (self._mark.known,)
        )
        losses = [tuple(map(int, row.split(b" "))) for row in rows]
        return int(missing), int(of_guns), [(start, size, when) for start, size, when in losses]

    async def _leave_mark(self) -> None:
        """Write the exact mark; what can't be asked any more leaves the one that's written."""
        link = self._mark_link
        try:
            missing, _, _ = await link.run(
                _MISSING, self._feed.of("lost", "losses"), (self._mark.known,)
            )
            last = await link.read("HGET", self._feed.key("state"), "token")
        except StorageError:
            return
        if not int(missing):
            await asyncio.to_thread(self._mark.settle, int(last or 0))

    @property
    @abstractmethod
    def _mark_link(self) -> RedisLink:
        """The way to the store at its end."""
