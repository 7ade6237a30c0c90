"""One lock per GUN, gone when nobody holds or waits for it."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary


class GunLocks:
    """Orders the writers of a GUN within this process; the store orders processes."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, gun: str) -> asyncio.Lock:
        """Give the GUN's lock."""
        lock = self._locks.get(gun)
        if lock is None:
            lock = self._locks[gun] = asyncio.Lock()
        return lock
