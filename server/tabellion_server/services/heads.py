"""Heads for readers: asked of the store each time; while it can't be asked, as known last.

A node learns each change of the GUNs it is asked for by the changefeed, so what it knows is no
older than the last moment at which the store answered. Writers never come here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from tabellion_server.logs import log
from tabellion_server.services.cache import SizedCache
from tabellion_server.storage.interface import Head, StorageError, Store, StoreCorruptionError

_MAX_REFS: Final = 100_000
_PATIENCE_SECONDS: Final = 2.0  # how long a store may take, where something is known
_SHORT_PATIENCE_SECONDS: Final = 0.2  # and once it has failed
_LATE_SECONDS: Final = 0.2  # how late a timer of a process may be that runs
_PAUSE_SECONDS: Final = 1.0  # from one failure to the next question


class Heads:
    """Gives heads, for a while also of a store that doesn't answer."""

    def __init__(
        self,
        store: Store,
        *,
        serve_known: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the store, and how long after its last answer what is known is given."""
        self._store = store
        self._limit = serve_known.total_seconds()
        self._monotonic = monotonic
        self._known: SizedCache[str, Head] = SizedCache(_MAX_REFS)
        self._answered = monotonic()
        self._failed: float | None = None

    async def head(self, gun: str) -> Head | None:
        """Give a GUN's head, None if there's no such GUN.

        Raises:
            StorageError: The store failed, and what is known is too old, or nothing is.
        """
        known = self._known.get(gun)
        if known is None or not self._limit:
            return await self.learn(gun)
        if self._failed is not None and self._monotonic() - self._failed < _PAUSE_SECONDS:
            return self._as_known(known, StorageError("the store doesn't answer"))
        patience = _PATIENCE_SECONDS if self._failed is None else _SHORT_PATIENCE_SECONDS
        while True:
            asked = self._monotonic()
            try:
                async with asyncio.timeout(patience):
                    return await self.learn(gun)
            except StoreCorruptionError:
                raise
            except TimeoutError:
                if self._monotonic() - asked > patience + _LATE_SECONDS:
                    continue  # it was this process that stood still: others may have gone on
                return self._as_known(known, StorageError("the store takes too long"), is_new=True)
            except StorageError as error:
                return self._as_known(known, error, is_new=True)

    async def learn(self, gun: str) -> Head | None:
        """Give a GUN's head as the store has it now, never as known before.

        Raises:
            StorageError: The store failed.
        """
        return self._learn(gun, await self._store.head(gun))

    def knows(self, gun: str) -> bool:
        """Tell whether a GUN was asked for here."""
        return self._known.get(gun) is not None

    def forget(self, gun: str) -> None:
        """Know nothing of a GUN any more."""
        self._known.pop(gun)

    def are_current(self) -> None:
        """Take note that all that is known is what the store has now."""
        self._answered = self._monotonic()
        if self._failed is not None:
            self._failed = None
            log().info("store.answers")

    def _learn(self, gun: str, head: Head | None) -> Head | None:
        known = self._known.get(gun)
        if head is not None and known is not None and known.revision > head.revision:
            return head  # asked earlier than what is known, and answered later
        self._known.pop(gun)
        if head is not None:
            self._known.put(gun, head, 1 + len(head.files))
        return head

    def _as_known(self, known: Head, error: StorageError, *, is_new: bool = False) -> Head:
        now = self._monotonic()
        if is_new:
            if self._failed is None:
                log().error("store.silent", problem=error.message, hint=error.hint)
            self._failed = now
        if now - self._answered > self._limit:
            raise error
        return known
