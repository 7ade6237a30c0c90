"""What the Redis store lacks after a restore or a fail-over, and how it goes on from there."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tabellion_server.storage.interface import Restoration, StorageError
from tabellion_server.storage.redis_keys import FeedKeys, GunKeys
from tabellion_server.storage.redis_known import known_guns
from tabellion_server.storage.redis_link import RedisLink, Script
from tabellion_server.storage.redis_marks import NodeMark
from tabellion_server.storage.redis_rows import pairs, read_keys
from tabellion_server.storage.redis_writing import restored_error
from tabellion_server.storage.values import ticks

_MISSING: Final = Script("missing", "feed_prelude")
_PASS_OVER: Final = Script("pass_over", "feed_prelude")
_ACCEPT: Final = Script("accept", "feed_prelude")
_RESTORATION: Final = Script("restoration", "gun_prelude")
_ONLINE: Final = frozenset({"snapshot", "timestamp"})
_MAX_SKEW: Final = timedelta(days=1)
"""By how much the clock of a node may have been ahead; a start has no time to look at all keys."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What was taken for lost: behind which change, how many, when, and whether it's known to be.

    Attributes:
        after: The id of the last change before.
        missing: How many.
        at: When, in microseconds since 1970.
        is_loss: 0 where it only may have been.
    """

    after: int
    missing: int
    at: int
    is_loss: int


@dataclass(frozen=True, slots=True)
class _Lost:
    """What is missing of all and of single GUNs, a GUN's newest change, and what was accepted."""

    missing: int
    of_guns: int
    newest: int | None
    losses: list[Loss]


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
        lost, (skip, lost_at, stored) = await asyncio.gather(
            self._lost(gun),
            self._link.run(_RESTORATION, self._keys(gun).of("stored"), ()),
        )
        if lost.missing:
            raise restored_error(self._link.address.name, lost.missing)
        passed_over = int(skip) + await self._passed_over(gun, lost)
        newest = {
            role.decode(): int(at)
            for role, at in pairs(stored).items()
            if role.decode() not in _ONLINE
        }
        moments = [loss.at for loss in lost.losses if loss.is_loss]
        moments += [int(lost_at)] if lost_at else []
        if not moments or not newest or min(newest.values()) >= max(moments):
            return Restoration(passed_over, may_lack=False)
        settled = frozenset(role for role, at in newest.items() if at >= max(moments))
        return Restoration(passed_over, may_lack=True, settled=settled)

    async def _passed_over(self, gun: str, lost: _Lost) -> int:
        """Count what was taken for lost since the GUN's newest change.

        One without any may have been imported before, or founded since with keys that the backup
        has already; one whose keys are younger is new, and nothing of it is lost.
        """
        if not lost.losses:
            return 0
        if lost.newest is not None:
            newest = lost.newest
            return sum(loss.missing for loss in lost.losses if loss.after >= newest)
        fields = await self._link.read("HGETALL", self._keys(gun).key("keys"))
        oldest = min((ticks(row.created_at) for row in read_keys(pairs(fields))), default=None)
        return sum(loss.missing for loss in lost.losses if oldest is not None and oldest <= loss.at)

    async def missing_changes(self) -> int:
        """See ``Store.missing_changes``."""
        lost = await self._lost("")
        return lost.missing + lost.of_guns

    async def _lacking(self) -> int:
        """The same, also while the store is being closed."""
        keys = [*self._feed.of("lost", "losses"), self._feed.changes("")]
        missing, of_guns, *_ = await self._mark_link.run(
            _MISSING, keys, self._marks, is_urgent=True
        )
        return int(missing) + int(of_guns)

    async def accept_restore(self, *, skip: int | None = None, at: datetime) -> int:
        """See ``Store.accept_restore``."""
        least = max(skip or 0, (await self._lost("")).missing)
        moment = max(ticks(at), await self._newest() + 1)
        values = (self._mark.known, least, moment, secrets.token_hex(8))
        keys = self._feed.of("lost", "losses", "moved")
        return int(await self._link.run(_ACCEPT, keys, values, waits=True))

    async def _newest(self) -> int:
        """Give the last moment that anything there has: all of it was before what's lost."""
        newest, after = 0, ""
        while guns := await known_guns(self._link, self._feed, after):
            every = [self._keys(gun) for gun in guns]
            answers = await self._link.read_all(
                [("HGETALL", keys.key(name)) for keys in every for name in ("stored", "keys")]
            )
            for stored, online in zip(answers[::2], answers[1::2], strict=True):
                moments = [int(at) for at in pairs(stored).values()]
                moments += [ticks(row.created_at) for row in read_keys(pairs(online))]
                newest = max([newest, *moments])
            after = guns[-1]
        return newest

    async def _lost(self, gun: str) -> _Lost:
        keys = [*self._feed.of("lost", "losses"), self._feed.changes(gun)]
        missing, of_guns, newest, rows = await self._link.run(_MISSING, keys, self._marks)
        losses = [Loss(*map(int, row.split(b" "))) for row in rows]
        last = int(newest.partition(b"-")[0]) if newest else None
        all_missing = int(missing) + self._mark.unsure if int(missing) else 0
        return _Lost(all_missing, int(of_guns), last, losses)

    async def _begin(self) -> None:
        """Deal with what a crash of this node left."""
        ahead = self._mark.written_ahead
        if ahead:
            moment = datetime.now(UTC) + _MAX_SKEW
            values = (self._mark.known, ahead, ticks(moment))
            keys = self._feed.of("lost", "losses")
            await self._link.run(_PASS_OVER, keys, values, waits=True)
        await self._mark.share()

    async def _leave_mark(self) -> None:
        """Write the exact mark; what can't be asked any more leaves the one that's written."""
        if not await asyncio.to_thread(self._mark.try_alone):
            return
        link = self._mark_link
        try:
            keys = [*self._feed.of("lost", "losses"), self._feed.changes("")]
            missing, *_ = await link.run(_MISSING, keys, self._marks)
            last = await link.read("HGET", self._feed.key("state"), "token")
        except StorageError:
            return
        if not int(missing):
            await asyncio.to_thread(self._mark.settle, int(last or 0))

    @property
    def _marks(self) -> tuple[int, int]:
        return self._mark.known, self._mark.settled

    @property
    @abstractmethod
    def _mark_link(self) -> RedisLink:
        """The way to the store at its end."""
