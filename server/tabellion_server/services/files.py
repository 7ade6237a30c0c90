"""Reading current metadata: heads from the store, immutable bytes from a bounded memory cache."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tabellion.core.dialect import dialect_named
from tabellion.core.transitions import CurrentSet
from tabellion_server.storage.interface import Head, Store, StoreCorruptionError, StoredFile

_CACHE_BYTES: Final = 64 * 1024 * 1024


class MetadataFiles:
    """Gives files of a head; bytes are looked up by hash, so no head can get another's."""

    def __init__(self, store: Store, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._store = store
        self._cache_bytes = cache_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[tuple[str, str, str], StoredFile] = OrderedDict()

    async def current(self, head: Head, role: str) -> StoredFile | None:
        """Give the file that ``head`` names for a role, None if it names none.

        Raises:
            StorageError: The store failed or lost it.
        """
        ref = head.files.get(role)
        if ref is None:
            return None
        key = (head.gun, role, ref.sha256)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        read = await self._store.read(head.gun, role, ref.version)
        if read is None or read.sha256 != ref.sha256:
            raise StoreCorruptionError(
                f"{head.gun}: {role} version {ref.version} isn't the one that is current",
                hint="if it was just deleted, ask again; else restore the store from a backup",
            )
        self._keep(key, read)
        return read

    async def find(self, gun: str, role: str, version: int | None) -> StoredFile | None:
        """Give one version of a role, or the current one; None if there's no such file."""
        head = await self._store.head(gun)
        if head is None:
            return None
        ref = head.files.get(role)
        if version is None or (ref is not None and ref.version == version):
            return await self.current(head, role)
        return await self._store.read(gun, role, version)

    async def current_set(self, head: Head | None) -> CurrentSet | None:
        """Give all that a head names, for judging a publication on it."""
        if head is None:
            return None
        files: dict[str, bytes] = {}
        for role in head.files:
            found = await self.current(head, role)
            if found is not None:
                files[role] = found.data
        return CurrentSet(files, dialect_named(head.dialect))

    def _keep(self, key: tuple[str, str, str], item: StoredFile) -> None:
        if key in self._cache or len(item.data) > self._cache_bytes:
            return
        self._cache[key] = item
        self._held_bytes += len(item.data)
        while self._held_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._held_bytes -= len(dropped.data)
