"""Bringing back what a server lost when an old backup was restored.

What was read from the server, and what was published from this home, are kept as they were signed.
Nothing is signed anew: the files follow what the server holds now, and it judges them like any.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from tuf.api.metadata import Targets

from tabellion.core.bins import bins_of
from tabellion.core.dialect import NOTARY, Dialect, dialect_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Gun
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import delegated_roles
from tabellion.errors import (
    CacheError,
    MalformedMetadataError,
    NotFoundError,
    UnknownGunError,
    UsageError,
    VerificationError,
)
from tabellion.publish.server_api import ServerApi
from tabellion.verify.cache import MetadataCache


class PublishedFiles:
    """The newest files of each role that were published from one home. Its methods block."""

    def __init__(self, home: Path, gun: str) -> None:
        self._cache = MetadataCache.of(home / "published", gun)

    def keep(self, files: Sequence[UploadedFile]) -> None:
        """Keep files that the server has accepted; best effort: they are there."""
        for file in files:
            try:
                self._cache.save(file.role, file.data)
            except CacheError:
                return

    def load(self, role: str) -> bytes | None:
        """Give a role's file, None if none was published from here."""
        return self._cache.load(role)


class LostFiles:
    """Finds what a server lacks of a GUN, and uploads it."""

    def __init__(self, api: ServerApi, home: Path, gun: Gun) -> None:
        self._api = api
        self._gun = gun
        self._read = MetadataCache.of(home, gun)
        self._published = PublishedFiles(home, gun)
        self._limits = Limits()

    async def bring_back(self) -> dict[str, int]:
        """Upload what the server lacks; gives role to version, empty if it lacks nothing.

        Raises:
            UnknownGunError: The server holds nothing of the GUN.
            UsageError: This home holds nothing of it.
            RefusedPublicationError: The server refused it.
            TransportError: No usable answer.
        """
        root = await asyncio.to_thread(self._read.load, "root")
        if root is None:
            raise UsageError(
                f"this home has never read {self._gun}",
                hint="give the home folder that it was published from: --home",
            )
        dialect = dialect_of(root)
        served = await self._served(dialect, "root")
        if served is None:
            raise UnknownGunError(
                f"the server holds nothing for {self._gun}",
                hint="it was founded after the backup: found it again with: tabellion init",
            )
        brought = {}
        for upload in await self._uploads(dialect, served):
            await self._api.upload(self._gun, upload)
            for file in upload:
                role = "root" if file.role.endswith(".root") else file.role
                brought[role] = self._parse(dialect, role, file.data).version
        return brought

    async def _uploads(
        self, dialect: Dialect, served: UnverifiedMetadata[Any]
    ) -> list[list[UploadedFile]]:
        """Give one publication; where roots come one by one, those before the last first."""
        roots = await asyncio.to_thread(lambda: list(self._roots(dialect, served.version)))
        roles = await self._roles(dialect)
        if dialect is not NOTARY:
            named = [UploadedFile(f"{root.version}.root", root.data) for root in roots]
            return [[*named, *roles]] if named or roles else []
        before = [[UploadedFile("root", root.data)] for root in roots[:-1]]
        last = [*(UploadedFile("root", root.data) for root in roots[-1:]), *roles]
        return [*before, last] if last else before

    def _roots(self, dialect: Dialect, version: int) -> Iterator[UnverifiedMetadata[Any]]:
        while True:
            version += 1
            kept, published = self._read.load_root(version), self._published.load("root")
            if kept is None and published is not None:
                found = self._parse(dialect, "root", published)
                kept = published if found.version == version else None
            if kept is None:
                return
            yield self._parse(dialect, "root", kept)

    async def _roles(self, dialect: Dialect) -> list[UploadedFile]:
        """Walk the delegations as the newest files make them; give what the server lacks."""
        found: list[UploadedFile] = []
        pending, seen = ["targets"], {"targets"}
        while pending and len(seen) <= self._limits.roles:
            role = pending.pop(0)
            served = await self._served(dialect, role)
            newest = await asyncio.to_thread(self._newest, dialect, role)
            if newest is not None and (served is None or newest.version > served.version):
                found.append(UploadedFile(role, newest.data))
            else:
                newest = served
            if newest is not None:
                names = await asyncio.to_thread(self._children, cast("Targets", newest.signed))
                pending += [name for name in names if name not in seen]
                seen.update(names)
        snapshot = await asyncio.to_thread(self._published.load, "snapshot")
        served = await self._served(dialect, "snapshot")
        # Who signs snapshots oneself has to give the one that goes with the files.
        if found and snapshot is not None and served is not None:
            newer = self._parse(dialect, "snapshot", snapshot).version > served.version
            found += [UploadedFile("snapshot", snapshot)] if newer else []
        return found

    def _children(self, targets: Targets) -> list[str]:
        bins = bins_of(targets)
        if bins is None:
            return [child.name for child in delegated_roles(targets)]
        kept = (self._read, self._published)
        return [name for name in bins.get_roles() if any(files.load(name) for files in kept)]

    def _newest(self, dialect: Dialect, role: str) -> UnverifiedMetadata[Any] | None:
        found: list[UnverifiedMetadata[Any]] = []
        for data in (self._read.load(role), self._published.load(role)):
            with contextlib.suppress(MalformedMetadataError):  # of before a conversion
                found += [] if data is None else [self._parse(dialect, role, data)]
        return max(found, key=lambda item: item.version, default=None)

    async def _served(self, dialect: Dialect, role: str) -> UnverifiedMetadata[Any] | None:
        """Read what the server shows; not trusted: it only tells what there is to offer."""
        name = dialect.file_name(role, None)
        limit = self._limits.max_bytes(role)
        try:
            data = await self._api.metadata(self._gun, name, max_bytes=limit)
            return await asyncio.to_thread(self._parse, dialect, role, data)
        except (NotFoundError, VerificationError):
            return None

    def _parse(self, dialect: Dialect, role: str, data: bytes) -> UnverifiedMetadata[Any]:
        return dialect.parse(role, data, max_bytes=self._limits.max_bytes(role))
