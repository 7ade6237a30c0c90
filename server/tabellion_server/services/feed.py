"""The changefeed as it grows: who waits for a change learns of it, whichever node wrote it.

One task of each node looks for what is new, however many wait, and what it read is given to all
who stand near the end: the store isn't asked by each. Ids only grow and have an order that all
nodes share, so a reader that goes on from the last id it saw misses nothing.

Readers are woken in lots, and the more of a node's time that takes, the longer it is to the next
look: publishers are answered meanwhile, and readers get more changes at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from tabellion.errors import TabellionError
from tabellion_server.logs import log
from tabellion_server.services.recent import RecentChanges
from tabellion_server.storage.interface import Change, StorageError, Store

Follow = Callable[[Sequence[Change]], Awaitable[None]]

MAX_WAITERS: Final = 1000
_SECONDS: Final = 0.2  # from one look to the next, while somebody waits
_IDLE_SECONDS: Final = 1.0
_GONE_SECONDS: Final = 1.0  # so soon a place is free again whose holder has gone
_PAGE: Final = 500
_LOT: Final = 25  # woken at a time
_REST: Final = 3.0  # how much longer than the last waking it is to the next look
_ASKING: Final = 4  # of those who wait, how many ask the store at a time


class TooManyWaitersError(StorageError):
    """As many wait for changes as may."""

    code = "too-many-waiters"
    default_hint = "ask without waiting, or later"


class Feed:
    """Gives changes at once, or as soon as there are some."""

    def __init__(self, store: Store, *, follow: Follow) -> None:
        """Take the store, and what is told all changes, in order: after each look, also of none."""
        self._store = store
        self._follow = follow
        self._last: int | None = None  # all up to here were followed
        self._recent = RecentChanges()
        self._asking = asyncio.Semaphore(_ASKING)
        self._waking_seconds = 0.0
        self._waiters: defaultdict[str | None, set[asyncio.Event]] = defaultdict(set)
        self._count = 0
        self._wanted = asyncio.Event()
        self._is_failing = False
        self.has_ended = False

    async def newest(self) -> int:
        """Give the id of the newest change, 0 if there's none.

        Raises:
            StorageError: The store failed.
        """
        found = await self._store.changes(None, limit=1)
        return found[-1].id if found else 0

    async def read(
        self,
        gun: str | None,
        *,
        after: int,
        limit: int,
        wait_seconds: float = 0.0,
        is_there: Callable[[], bool] = lambda: True,
    ) -> list[Change]:
        """Give the first changes above an id, of one GUN or of all, oldest first.

        Args:
            gun: The GUN, None for all.
            after: The id.
            limit: How many at most.
            wait_seconds: How long to wait for one if there's none; then none is given.
            is_there: Whether who asked still waits.

        Raises:
            TooManyWaitersError: Too many wait already.
            StorageError: The store failed.
        """
        if not wait_seconds:
            return await self._store.changes(gun, after=after, limit=limit)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        with self._waiting(gun) as news:
            while True:
                news.clear()
                known = self._recent.newest
                found = None if self._is_failing else self._recent.after(gun, after, limit)
                if found is None:
                    async with self._asking:
                        found = await self._store.changes(gun, after=after, limit=limit)
                    after = max(after, known or 0)  # unless some were found: then it's done
                left = until - loop.time()
                if found or left <= 0 or self.has_ended:
                    return found
                if not await self._is_news(news, until, is_there):
                    return found

    async def _is_news(
        self, news: asyncio.Event, until: float, is_there: Callable[[], bool]
    ) -> bool:
        """Wait for news or the end of the time; False once who asked has gone."""
        loop = asyncio.get_running_loop()
        while not news.is_set() and (left := until - loop.time()) > 0:
            if not is_there():
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _GONE_SECONDS)):
                    await news.wait()
        return True

    async def watch_forever(self) -> None:
        """Look for changes; runs until cancelled."""
        while True:
            try:
                await self._look()
                self._is_failing = False
            except TabellionError as error:
                if not self._is_failing:  # told once; who reads gets an error each time
                    log().error("feed.failed", problem=error.message, hint=error.hint)
                self._is_failing = True
            except Exception:  # noqa: BLE001  (the watch must outlive any fault)
                log().exception("feed.failed")
            self._wanted.clear()
            if self._count:
                rest = min(_REST * self._waking_seconds, _IDLE_SECONDS)
                await asyncio.sleep(max(_SECONDS, rest))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._wanted.wait()

    def end(self) -> None:
        """Let nobody wait any more."""
        self.has_ended = True
        for news in self._standing(set(self._waiters)):
            news.set()

    async def _look(self) -> None:
        self._waking_seconds = 0.0
        if self._last is None:
            self._last = await self.newest()
            self._recent.begin(self._last)
            await self._wake(set(self._waiters))  # some may have read before that
        while found := await self._store.changes(None, after=self._last, limit=_PAGE):
            fresh = self._recent.add(found)
            await self._wake({None, *(change.gun for change in fresh)})
            await self._follow(found)
            self._last = found[-1].id
        await self._follow(())

    async def _wake(self, guns: set[str | None]) -> None:
        """Wake who waits for these; each lot is answered before the next is woken."""
        began = time.monotonic()
        standing = self._standing(guns)
        for place in range(0, len(standing), _LOT):
            for news in standing[place : place + _LOT]:
                news.set()
            await asyncio.sleep(0)
        self._waking_seconds += time.monotonic() - began

    def _standing(self, guns: set[str | None]) -> list[asyncio.Event]:
        return [news for gun in guns & self._waiters.keys() for news in self._waiters[gun]]

    @contextlib.contextmanager
    def _waiting(self, gun: str | None) -> Iterator[asyncio.Event]:
        if self._count >= MAX_WAITERS:
            raise TooManyWaitersError(f"{MAX_WAITERS} readers wait for changes already")
        news = asyncio.Event()
        self._waiters[gun].add(news)
        self._count += 1
        self._wanted.set()
        try:
            yield news
        finally:
            self._count -= 1
            self._waiters[gun].discard(news)
            if not self._waiters[gun]:
                del self._waiters[gun]
