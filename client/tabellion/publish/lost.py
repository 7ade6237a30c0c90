"""Bringing back what a server lost when an old backup was restored.

What was read from the server, and what was published from this home, are kept as they were signed.
Nothing is signed anew but a root, where the backup doesn't have the server's newest keys: the files
follow what the server holds now, and it judges them like any.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from tuf.api.metadata import Root, Targets

from tabellion.core.bins import bins_of
from tabellion.core.dialect import NOTARY, Dialect, dialect_of
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Gun
from tabellion.core.next_root import RootEdit
from tabellion.core.publication import UploadedFile
from tabellion.core.roles import delegated_roles
from tabellion.core.succession import online_roles_changed
from tabellion.core.targets_tree import verify_signed_by
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    CacheError,
    MalformedMetadataError,
    NotaryRefusalError,
    NotFoundError,
    RefusedPublicationError,
    TabellionError,
    ThresholdError,
    UnknownGunError,
    UsageError,
    VerificationError,
)
from tabellion.publish.root_edits import root_alone
from tabellion.publish.server_api import ServerApi
from tabellion.publish.signing import KeyRing
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


@dataclass(frozen=True)
class BroughtBack:
    """What became of a GUN whose server went back to a backup.

    Attributes:
        versions: Role to version of what was uploaded; empty if the server lacked nothing.
        rekeyed: The last root is a new one, with new keys of the server.
        behind: Role to version that readers know and the server lacks: another home may have it.
        removed: The same of roles that nothing delegates to any more: no home brings them back.
    """

    versions: Mapping[str, int]
    rekeyed: bool = False
    behind: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """What a server lacks; ``reached`` are the roles that are delegated to afterwards."""

    roots: list[UnverifiedMetadata[Root]]
    roles: list[UploadedFile]
    reached: set[str]


class LostFiles:
    """Finds what a server lacks of a GUN, and uploads it."""

    def __init__(self, api: ServerApi, ring: KeyRing, home: Path, gun: Gun) -> None:
        self._api = api
        self._ring = ring
        self._gun = gun
        self._read = MetadataCache.of(home, gun)
        self._published = PublishedFiles(home, gun)
        self._limits = Limits()

    async def bring_back(self, *, life: timedelta, now: datetime) -> BroughtBack:
        """Upload what the server lacks, with a new root if its keys are lost as well.

        Args:
            life: How long a new root lasts.
            now: The moment, aware.

        Raises:
            UnknownGunError: The server holds nothing of the GUN.
            UsageError: This home holds nothing of it, or nothing that can follow what is there.
            RefusedPublicationError: The server refused it.
            TransportError: No usable answer.
        """
        newest = await asyncio.to_thread(self._newest_root, now)
        served = await self._served_root()
        dialect = dialect_of(newest.data)
        if dialect is not dialect_of(served.data):
            raise self._converted(newest, served)
        roots = await asyncio.to_thread(lambda: list(self._roots(newest, served.version)))
        last = roots[-1] if roots else newest
        found = await self._lacking(dialect, roots, last)
        rekeyed: list[UploadedFile] = []
        try:
            await self._upload(dialect, found)
        except (RefusedPublicationError, NotaryRefusalError) as error:
            if not roots or not online_roles_changed(served.signed, last.signed):
                raise
            # The keys that the server made since the backup are lost with what they signed.
            rekeyed = [await self._rekey(dialect, last, error, life=life, now=now)]
            await self._upload(dialect, found, rekeyed)
            await asyncio.to_thread(self._published.keep, rekeyed)
        root = self._parse(dialect, "root", rekeyed[0].data) if rekeyed else last
        brought = [*found.roles, *rekeyed]
        versions = {"root": root.version} if roots else {}
        versions |= {
            item.role: self._parse(dialect, item.role, item.data).version for item in brought
        }
        behind, removed = await self._unmet(dialect, root, found.reached)
        return BroughtBack(versions, bool(rekeyed), behind, removed)

    def _newest_root(self, now: datetime) -> UnverifiedMetadata[Root]:
        """Give the newest trusted root, which may be one that was published and not read yet."""
        kept, published = self._read.load("root"), self._published.load("root")
        if kept is None:
            raise UsageError(
                f"this home has never read {self._gun}",
                hint="give the home folder that it was published from: --home",
            )
        trusted = TrustedSet(kept, now=now, gun=self._gun)
        with contextlib.suppress(VerificationError):  # not the next one, or of an earlier GUN
            if published is not None:
                trusted.update_root(published)
        return self._parse(trusted.dialect, "root", trusted.root.data)

    async def _served_root(self) -> UnverifiedMetadata[Root]:
        try:
            data = await self._api.metadata(
                self._gun, "root.json", max_bytes=self._limits.root_bytes
            )
        except NotFoundError as error:
            raise UnknownGunError(
                f"the server holds nothing for {self._gun}",
                hint="it was founded after the backup: found it again with: tabellion init",
            ) from error
        return await asyncio.to_thread(self._parse, dialect_of(data), "root", data)

    def _converted(
        self, newest: UnverifiedMetadata[Root], served: UnverifiedMetadata[Root]
    ) -> UsageError:
        """Give why nothing of before a conversion can follow it, or the other way round."""
        if dialect_of(served.data) is not NOTARY:
            return UsageError(
                f"{self._gun} was converted to TUF 1.0 (root version {served.version}) after this "
                f"home last read it (root version {newest.version}): what is kept here can't "
                "follow that",
                hint="run this from the home folder that it was converted or published from",
            )
        return UsageError(
            f"the server's backup is of before {self._gun} was converted to TUF 1.0 (root version "
            f"{newest.version}), and the keys that the server made for that are lost with it",
            hint="convert it once more: server/README.md tells how, under An old backup",
        )

    async def _upload(
        self, dialect: Dialect, found: _Found, more: Sequence[UploadedFile] = ()
    ) -> None:
        """Upload all in one publication; where roots come one by one, those before the last first.

        ``more`` is a root after those found.
        """
        roots = [(root.version, root.data) for root in found.roots]
        if dialect is NOTARY:
            for _, data in roots[:-1]:
                await self._api.upload(self._gun, [UploadedFile("root", data)])
            upload = [*(UploadedFile("root", data) for _, data in roots[-1:]), *found.roles]
        else:
            named = [UploadedFile(f"{version}.root", data) for version, data in roots]
            upload = [*named, *more, *found.roles]
        if upload:
            await self._api.upload(self._gun, upload)

    async def _rekey(
        self,
        dialect: Dialect,
        last: UnverifiedMetadata[Root],
        error: TabellionError,
        *,
        life: timedelta,
        now: datetime,
    ) -> UploadedFile:
        """Sign a root after the last one that names keys which the server makes now.

        The keys in the backup won't do: they may have been replaced because they were stolen.
        """
        entry = last.signed.roles["snapshot"]
        is_ours = await asyncio.to_thread(
            lambda: bool(self._ring.held().among(last.signed.keys, entry.keyids))
        )
        if dialect is not NOTARY:
            roles = ["timestamp"] if is_ours else ["snapshot", "timestamp"]
            keys = {
                role: [await self._api.rotate_online_key(self._gun, role, dialect)]
                for role in roles
            }
            signed = await asyncio.to_thread(
                lambda: root_alone(
                    TrustedSet(last.data, now=now, gun=self._gun),
                    RootEdit(keys=keys),
                    self._ring,
                    expires_at=now + life,
                )
            )
            if signed is not None:
                return UploadedFile("root", signed)
        raise UsageError(
            f"the server's keys that {self._gun} has since root version {last.version} are lost "
            "with what came after its backup",
            hint="the root keys here can't replace them in one step: server/README.md tells "
            "how it goes on, under An old backup",
        ) from error

    async def _unmet(
        self, dialect: Dialect, root: UnverifiedMetadata[Root], reached: set[str]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Compare the newest snapshot seen here with the server's: which roles would go back?

        Readers who saw it as well refuse the server's until all of them are there again (5.5.5).
        Where snapshots name no versions, readers don't go by what they listed.
        """
        kept = await asyncio.to_thread(self._newest, dialect, "snapshot", root)
        served = await self._served(dialect, "snapshot")
        behind: dict[str, int] = {}
        removed: dict[str, int] = {}
        if dialect is NOTARY or kept is None or served is None:
            return behind, removed  # after a change of its keys readers forget it
        for name, meta in kept.signed.meta.items():
            role, now = name.removesuffix(".json"), served.signed.meta.get(name)
            if now is None or now.version < meta.version:
                (behind if role in reached else removed)[role] = meta.version
        return behind, removed

    def _roots(
        self, newest: UnverifiedMetadata[Root], version: int
    ) -> Iterator[UnverifiedMetadata[Root]]:
        """Give the roots after a version, the newest last."""
        for number in range(version + 1, newest.version):
            data = self._read.load_root(number)
            if data is None:
                raise UsageError(
                    f"root version {number} of {self._gun} isn't kept in this home",
                    hint="run this from a home folder that has read or published it before: --home",
                )
            yield self._parse(dialect_of(newest.data), "root", data)
        if newest.version > version:
            yield newest

    async def _lacking(
        self,
        dialect: Dialect,
        roots: list[UnverifiedMetadata[Root]],
        last: UnverifiedMetadata[Root],
    ) -> _Found:
        """Walk the delegations as the newest files make them; give what the server lacks."""
        found: list[UploadedFile] = []
        seen = {"targets"}
        pending: list[tuple[str, UnverifiedMetadata[Any]]] = [("targets", last)]
        while pending and len(seen) <= self._limits.roles:
            role, delegator = pending.pop(0)
            served = await self._served(dialect, role)
            newest = await asyncio.to_thread(self._newest, dialect, role, delegator)
            if newest is not None and (served is None or newest.version > served.version):
                found.append(UploadedFile(role, newest.data))
            else:
                newest = served
            if newest is not None:
                names = await asyncio.to_thread(self._children, cast("Targets", newest.signed))
                pending += [(name, newest) for name in names if name not in seen]
                seen.update(names)
        snapshot = await self._own_snapshot(dialect, roots, last, found)
        return _Found(roots, [*found, *snapshot], seen)

    async def _own_snapshot(
        self,
        dialect: Dialect,
        roots: list[UnverifiedMetadata[Root]],
        last: UnverifiedMetadata[Root],
        found: Sequence[UploadedFile],
    ) -> list[UploadedFile]:
        """Who signs snapshots oneself has to give the one that goes with the files.

        Raises:
            UsageError: It lists roles that can't come back.
        """
        data = await asyncio.to_thread(self._published.load, "snapshot")
        served = await self._served(dialect, "snapshot")
        if not found or data is None or served is None:
            return []
        snapshot = self._parse(dialect, "snapshot", data)
        if snapshot.version <= served.version or not _signed_by(snapshot, last):
            return []  # or it's the server's to sign now
        listed = {f"{file.role}.json" for file in found} | served.signed.meta.keys()
        gone = sorted(snapshot.signed.meta.keys() - listed)
        if dialect is NOTARY or not gone:
            return [UploadedFile("snapshot", data)]
        await self._upload(dialect, _Found(roots, [], set()))
        names = ", ".join(name.removesuffix(".json") for name in gone)
        gun = self._gun
        raise UsageError(
            f"the snapshot of what is lost lists {names[:200]}, which nothing delegates to now",
            hint=f"let the server sign it for once: tabellion rotate {gun} snapshot timestamp "
            f"--server-managed, tabellion recover lost {gun}, tabellion rotate {gun} snapshot",
        )

    def _children(self, targets: Targets) -> list[str]:
        bins = bins_of(targets)
        if bins is None:
            return [child.name for child in delegated_roles(targets)]
        kept = (self._read, self._published)
        return [name for name in bins.get_roles() if any(files.load(name) for files in kept)]

    def _newest(
        self, dialect: Dialect, role: str, delegator: UnverifiedMetadata[Any]
    ) -> UnverifiedMetadata[Any] | None:
        """Give the newest file kept of a role that its delegator vouches for."""
        found: list[UnverifiedMetadata[Any]] = []
        for data in (self._read.load(role), self._published.load(role)):
            with contextlib.suppress(MalformedMetadataError):  # of before a conversion
                found += [] if data is None else [self._parse(dialect, role, data)]
        vouched = (item for item in found if _signed_by(item, delegator))
        return max(vouched, key=lambda item: item.version, default=None)

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


def _signed_by(item: UnverifiedMetadata[Any], delegator: UnverifiedMetadata[Any]) -> bool:
    try:
        verify_signed_by(item, delegator, item.role)
    except (ThresholdError, MalformedMetadataError):
        return False
    return True
