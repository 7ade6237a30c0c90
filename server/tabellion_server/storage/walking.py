"""Walking over all GUNs of a store, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tabellion_server.storage.interface import Head, Store

PAGE: Final = 100
"""How many heads are held at once, unless told otherwise."""


class GunPages:
    """All GUNs' heads in order, to be gone through by ``async for``, a page at a time.

    Not an async generator: of a walk that is cancelled nothing is left open. A GUN that comes
    behind those given already is met, one before them isn't.
    """

    def __init__(self, store: Store, *, prefix: str = "", limit: int = PAGE) -> None:
        """Take where they are, how their names begin, and how many a page has at most."""
        self._store = store
        self._prefix = prefix
        self._limit = limit
        self._after: str | None = None

    def __aiter__(self) -> GunPages:
        return self

    async def __anext__(self) -> Sequence[Head]:
        """Give the next page, which is never empty.

        Raises:
            StorageError: The store failed.
        """
        page = await self._store.guns(self._prefix, self._after, self._limit)
        if not page:
            raise StopAsyncIteration
        self._after = page[-1].gun
        return page
