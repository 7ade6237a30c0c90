"""Reading current metadata: heads from the store, immutable files from bounded memory caches."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from tabellion.core.dialect import Dialect, dialect_named
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.publication import CurrentSet, ServedFiles
from tabellion.core.roles import TOP_LEVEL_ROLES
from tabellion_server.services.cache import SizedCache
from tabellion_server.services.heads import Heads
from tabellion_server.storage.interface import (
    Change,
    Head,
    Store,
    StoreCorruptionError,
    StoredFile,
)

_CACHE_BYTES: Final = 64 * 1024 * 1024
_PARSED_SHARE: Final = 8  # parsed, files take some seven times as much
_ASKED_BY_ALL: Final = frozenset({"timestamp", "snapshot", "targets"})
FEW_ROLES: Final = 64

Parsed = UnverifiedMetadata[Any]


class MetadataFiles:
    """Gives files of a head; they are looked up by hash, so no head can get another's.

    Parsed files are shared by all who ask, and never changed.
    """

    def __init__(
        self, store: Store, *, cache_bytes: int = _CACHE_BYTES, parsed_bytes: int | None = None
    ) -> None:
        """Take how many bytes of files are held, and of how many bytes what is parsed."""
        self._store = store
        self._stored: SizedCache[tuple[str, str, str], StoredFile] = SizedCache(cache_bytes)
        self._parsed: SizedCache[tuple[str, str, str], Parsed] = SizedCache(
            cache_bytes // _PARSED_SHARE if parsed_bytes is None else parsed_bytes
        )

    async def current(self, head: Head, role: str) -> StoredFile | None:
        """Give the file that ``head`` names for a role, None if it names none.

        Raises:
            StorageError: The store failed or lost it.
        """
        ref = head.files.get(role)
        if ref is None:
            return None
        key = (head.gun, role, ref.sha256)
        found = self._stored.get(key)
        if found is not None:
            return found
        read = await self._store.read(head.gun, role, ref.version)
        if read is None or read.sha256 != ref.sha256:
            raise StoreCorruptionError(
                f"{head.gun}: {role} version {ref.version} isn't the one that is current",
                hint="if it was just deleted, ask again; else restore the store from a backup",
            )
        self._stored.put(key, read, len(read.data))
        return read

    async def find_hash(self, head: Head, role: str, sha256: str) -> StoredFile | None:
        """Give the version of a role that has a hash, None if there's no such file.

        Raises:
            StorageError: The store failed.
        """
        ref = head.files.get(role)
        if ref is not None and ref.sha256 == sha256:
            return await self.current(head, role)
        # Not from memory: that may hold files of a GUN that was dropped and made anew.
        return await self._store.read_hash(head.gun, role, sha256)

    async def find(self, head: Head, role: str, version: int | None) -> StoredFile | None:
        """Give one version of a role, or the current one; None if there's no such file.

        Raises:
            StorageError: The store failed or lost it.
        """
        ref = head.files.get(role)
        if version is None or (ref is not None and ref.version == version):
            return await self.current(head, role)
        if ref is not None and ref.version < version:
            return None  # the highest is current: every refresh asks for the next root
        return await self._store.read(head.gun, role, version)

    async def current_set(self, head: Head, roles: Collection[str] | None = None) -> CurrentSet:
        """Give all that a head names, or the given roles of it, parsed.

        Raises:
            StorageError: The store failed or lost one.
            VerificationError: A stored file can't be read.
        """
        dialect = dialect_named(head.dialect)
        held: dict[str, Parsed] = {}
        missing: dict[str, bytes] = {}
        for role in head.files if roles is None else head.files.keys() & set(roles):
            ref = head.files[role]
            found = self._parsed.get((dialect.name, role, ref.sha256))
            if found is not None:
                held[role] = found
            elif (item := await self.current(head, role)) is not None:
                missing[role] = item.data
        if missing:
            parsed = await asyncio.to_thread(CurrentSet.parse, missing, dialect)
            for role, file in parsed.files.items():
                self.keep_parsed(dialect, file, head.files[role].sha256)
            held.update(parsed.files)
        return CurrentSet(held, dialect)

    async def served(self, head: Head, wanted: Collection[str]) -> CurrentSet:
        """Give all that a head names; where that's much, only ``wanted`` is read ahead.

        The rest is read when looked at, for which the reader has to be in a thread of its own.

        Raises:
            StorageError: The store failed or lost one.
            VerificationError: A stored file can't be read.
        """
        if len(head.files) <= FEW_ROLES:
            return await self.current_set(head)
        ahead = await self.current_set(head, {*wanted, *TOP_LEVEL_ROLES})
        loop = asyncio.get_running_loop()

        def read(role: str) -> Parsed:
            if role in ahead.files:
                return ahead.files[role]
            asked = asyncio.run_coroutine_threadsafe(self.current_set(head, {role}), loop)
            return asked.result().files[role]

        return CurrentSet(ServedFiles(head.files.keys(), read), ahead.dialect)

    async def follow(self, changes: Sequence[Change], heads: Heads) -> None:
        """Hold the new files of GUNs that are asked for here, and none of a GUN that was dropped.

        Raises:
            StorageError: The store failed.
        """
        dropped = {change.gun for change in changes if change.category == "deletion"}
        if dropped:
            self._stored.drop(lambda key: key[0] in dropped)
        for gun in {change.gun for change in changes}:
            if not heads.knows(gun):
                continue
            try:
                head = await heads.learn(gun)  # or all that's known would be taken for current
                if head is not None:
                    for role in _ASKED_BY_ALL & head.files.keys():
                        await self.current(head, role)
            except StoreCorruptionError:  # who asks for it is told
                heads.forget(gun)

    def keep_parsed(self, dialect: Dialect, item: Parsed, sha256: str) -> None:
        """Hold a file that was parsed, and hashed, elsewhere and will be current."""
        self._parsed.put((dialect.name, item.role, sha256), item, len(item.data))


def verify_whole(head: Head) -> None:
    """Refuse to sign on for a GUN of which a version that was signed last isn't known.

    Raises:
        StoreCorruptionError: It has no current root, snapshot or timestamp.
    """
    for role in ("root", "snapshot", "timestamp"):
        if role not in head.files:
            raise StoreCorruptionError(
                f"{head.gun} has no current {role}",
                hint="see what else is damaged: tabellion-server check; restore from a backup",
            )
