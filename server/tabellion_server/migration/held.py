"""What this server's own store holds of Notary GUNs, as rows: to mirror on, or to take keys over.

A ``Source`` blocks, so it's called in a thread; the store lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tabellion.core.dialect import NOTARY
from tabellion_server.migration.rows import FileRow
from tabellion_server.migration.signer_rows import SignerRow
from tabellion_server.storage.interface import Change, Head, Store
from tabellion_server.storage.walking import GunPages

T = TypeVar("T")


async def held_rows(store: Store, head: Head) -> list[FileRow]:
    """Give all roots of a GUN, and what is current."""
    wanted = {(role, ref.version) for role, ref in head.files.items()}
    newest = head.files["root"].version if "root" in head.files else 0
    wanted.update(("root", version) for version in range(1, newest))
    files = [await store.read(head.gun, *place) for place in sorted(wanted)]
    return [
        FileRow(file.role, file.version, file.sha256, file.data, file.stored_at)
        for file in files
        if file is not None
    ]


async def _notary_guns(store: Store) -> list[str]:
    return [
        head.gun async for page in GunPages(store) for head in page if head.dialect == NOTARY.name
    ]


class HeldSource:
    """A ``Source`` of the Notary GUNs that are here; make it on the store's event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()

    def guns(self) -> list[str]:
        """See ``Source.guns``."""
        return self._wait(_notary_guns(self._store))

    def files(self, gun: str) -> list[FileRow]:
        """See ``Source.files``."""
        head = self._wait(self._store.head(gun))
        return [] if head is None else self._wait(held_rows(self._store, head))

    def changes(self, gun: str) -> list[Change]:
        """Give none: what is here was told here; see ``Source.changes``."""
        del gun
        return []

    def signer_keys(self) -> list[SignerRow]:
        """Give none: keys that are here are sealed."""
        return []

    def close(self) -> None:
        """See ``Source.close``; the store is closed by who opened it."""

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
