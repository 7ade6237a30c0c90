"""Of a GUN's hash bins, the one that ends first: thousands of files, each read once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from tuf.api.metadata import SuccinctRoles

from tabellion.core.bins import is_bin
from tabellion.core.dialect import dialect_named
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.publication import CurrentSet
from tabellion_server.services.cache import SizedCache
from tabellion_server.storage.interface import Head, Store

_BINS_HELD: Final = 100_000


class FirstBins:
    """Remembers when bins end, past the caches: those are for what clients ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: SizedCache[str, datetime] = SizedCache(_BINS_HELD)

    async def file_of(
        self, head: Head, bins: SuccinctRoles | None
    ) -> UnverifiedMetadata[Any] | None:
        """Give the file of the bin that ends first; None if none is published.

        Raises:
            StorageError: The store failed.
            VerificationError: A stored file can't be read.
        """
        ends: list[tuple[datetime, str]] = []
        for role, ref in head.files.items():
            if not is_bin(bins, role):
                continue
            at = self._ends.get(ref.sha256)
            if at is None:
                file = await self._read(head, role)
                if file is None:  # dropped since the head was read
                    continue
                at = file.signed.expires.replace(tzinfo=UTC)
                self._ends.put(ref.sha256, at, 1)
            ends.append((at, role))
        return await self._read(head, min(ends)[1]) if ends else None

    async def _read(self, head: Head, role: str) -> UnverifiedMetadata[Any] | None:
        file = await self._store.read(head.gun, role, head.files[role].version)
        if file is None:
            return None
        dialect = dialect_named(head.dialect)
        return (await asyncio.to_thread(CurrentSet.parse, {role: file.data}, dialect)).files[role]
