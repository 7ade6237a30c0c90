"""Heads of GUNs from Redis: large ones are held, and read again only once they were changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from tabellion_server.storage.interface import Head
from tabellion_server.storage.redis_keys import GunKeys
from tabellion_server.storage.redis_link import RedisLink
from tabellion_server.storage.redis_rows import head_of, pairs

_LARGE: Final = 16  # roles from which on it's dearer to read a head than to ask whether it changed
_MAX_REFS: Final = 50_000


class RedisHeads:
    """Looks heads up; each commit gives a head a stamp that no other has."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._held: OrderedDict[str, tuple[bytes, Head]] = OrderedDict()
        self._refs = 0

    async def look_up(self, guns: Sequence[str]) -> dict[str, Head | None]:
        """Give heads by name, None for GUNs that aren't there.

        Raises:
            StorageError: The store failed.
        """
        keys = {gun: GunKeys(self._link.address.prefix, gun).head for gun in guns}
        found: dict[str, Head | None] = {}
        asked = [gun for gun in guns if gun in self._held]
        stamps = await self._link.read_all([("HGET", keys[gun], "stamp") for gun in asked])
        for gun, stamp in zip(asked, stamps, strict=True):
            if gun in self._held and self._held[gun][0] == stamp:
                found[gun] = self._held[gun][1]
                self._held.move_to_end(gun)
        rest = [gun for gun in keys if gun not in found]
        values = await self._link.read_all([("HGETALL", keys[gun]) for gun in rest])
        for gun, value in zip(rest, values, strict=True):
            fields = pairs(value)
            head = found[gun] = head_of(gun, fields)
            self._drop(gun)
            if head is not None and len(head.files) >= _LARGE:
                self._hold(fields[b"stamp"], head)
        return found

    def _hold(self, stamp: bytes, head: Head) -> None:
        self._held[head.gun] = stamp, head
        self._refs += len(head.files)
        while self._refs > _MAX_REFS and len(self._held) > 1:
            self._drop(next(iter(self._held)))

    def _drop(self, gun: str) -> None:
        dropped = self._held.pop(gun, None)
        if dropped is not None:
            self._refs -= len(dropped[1].files)
