"""A GUN's verified current state, as a publisher needs it: every role's file and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from tuf.api.metadata import MetaFile, Root, SuccinctRoles, Targets

from tabellion.core.bins import bins_of, is_bin
from tabellion.core.dialect import NOTARY
from tabellion.core.metadata import TrustedMetadata, UnverifiedMetadata
from tabellion.core.publication import CurrentSet, ServedFiles
from tabellion.core.role_requests import RoleRequest
from tabellion.core.roles import delegated_roles
from tabellion.core.search import BinChoice, walk_roles
from tabellion.core.succession import verify_hashes
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ExpiredMetadataError,
    NotFoundError,
    RollbackError,
    ServerAnswerError,
    ThresholdError,
    UnknownGunError,
)
from tabellion.publish.server_api import ServerApi
from tabellion.publish.spreading import no_bins
from tabellion.verify.cache import MetadataCache

_ONLINE = frozenset({"root", "timestamp", "snapshot"})
RENEWED_BY_ROOT = ("root", "snapshot", "timestamp")
"""What a new root may be made for though it has expired."""
_EXPIRIES = 4  # of the root, of its certificate, of the timestamp, of the snapshot
_SAYS_NONE = 500  # notary-server, of a delegation that isn't in the snapshot (notary-v1 1.3)
_MOST_VERSIONS = 1_000_000


class Trust(Protocol):
    """The part of ``TrustClient`` that a publisher needs."""

    async def refresh(
        self,
        gun: str,
        *,
        as_of: datetime | None = None,
        bins: BinChoice | None = None,
        forgets: bool = False,
    ) -> TrustedSet:
        """Give the verified current state; see ``TrustClient.refresh``."""

    async def is_known(self, gun: str) -> bool:
        """Tell whether a root of a GUN is trusted already, whatever the server says."""


@dataclass(frozen=True)
class Current:
    """Verified state that the next publication builds on.

    Attributes:
        gun: The GUN.
        trusted: The trusted set.
        roles: Published targets roles in the order they are asked; of hash bins those that were
            to be read.
        delegators: Role to the role that delegates to it; unpublished ones too.
        left: Files of roles that no delegation leads to, or whose file its keys don't vouch for:
            what is published next has to follow them. In TUF the snapshot lists them for ever
            (5.5.5); in a Notary GUN the version may be the server's word only.
        overruled: What was seen here before that this contradicts, as the caller is here to make
            everybody forget it; empty if nothing does.
    """

    gun: str
    trusted: TrustedSet
    roles: Mapping[str, TrustedMetadata[Targets]]
    delegators: Mapping[str, str]
    left: Mapping[str, UnverifiedMetadata[Targets]] = field(default_factory=dict)
    overruled: str = ""

    @property
    def root(self) -> Root:
        """Give the trusted root."""
        return self.trusted.root.signed

    def version_of(self, role: str) -> int:
        """Give the version of a role that was published last, 0 if none was."""
        if self.trusted.dialect is NOTARY:  # its snapshots name no versions
            file = self.roles.get(role) or self.left.get(role)
            return file.version if file is not None else 0
        meta = self.trusted.snapshot.signed.meta if self.trusted.snapshot is not None else {}
        named = meta.get(f"{role}.json")
        return named.version if named is not None else 0

    @property
    def bins(self) -> SuccinctRoles | None:
        """Give the hash bins it has, None without."""
        targets = self.roles.get("targets")
        return bins_of(targets.signed) if targets is not None else None

    def published(self) -> frozenset[str]:
        """Give the roles that the snapshot lists."""
        meta = self.trusted.snapshot.signed.meta if self.trusted.snapshot is not None else {}
        return frozenset(name.removesuffix(".json") for name in meta)

    def as_served(self) -> CurrentSet:
        """Give the files, to judge a publication against; bins that weren't read by name only."""
        found = {role: item.data for role, item in self.left.items()}
        found |= {role: item.data for role, item in self.roles.items()}
        found["root"] = self.trusted.root.data
        if self.trusted.snapshot is not None:
            found["snapshot"] = self.trusted.snapshot.data
        if self.trusted.timestamp is not None:
            found["timestamp"] = self.trusted.timestamp.data
        dialect, limits = self.trusted.dialect, self.trusted.limits

        def read(role: str) -> UnverifiedMetadata[Any]:
            if role not in found:
                raise RuntimeError(f"{role} wasn't read before the publication was judged")
            return dialect.parse(role, found[role], max_bytes=limits.max_bytes(role))

        unread = self.published() if self.bins is not None else ()
        return CurrentSet(ServedFiles({*found, *unread}, read), dialect)

    def versions(self, roles: Sequence[str]) -> dict[str, int]:
        """Give the current versions of some roles."""
        return {role: self.roles[role].version for role in roles if role in self.roles}


class StateReader:
    """Reads states; files already read aren't fetched again."""

    def __init__(self, api: ServerApi, trust: Trust, home: Path) -> None:
        self._api = api
        self._trust = trust
        self._home = home
        self._seen: dict[tuple[str, str], tuple[str, bytes]] = {}

    async def read(
        self,
        gun: str,
        *,
        renews: Collection[str] = (),
        revives: Collection[str] = (),
        bins: BinChoice | None = no_bins,
        forgets: bool = False,
    ) -> Current:
        """Verify and read the current state.

        Args:
            gun: The GUN.
            renews: The caller is here to give these roles other keys and so new files: of the
                root and the server's roles, expired ones do.
            revives: Delegated roles that it's here to sign anew: too few signatures of theirs
                don't matter, they are left out.
            bins: Chooses the hash bins to read; None for all that are published.
            forgets: The caller is here to give both of the server's roles other keys. After that
                nobody goes by the versions seen before, so they don't stop it here, either.

        Raises:
            VerificationError: It must not be built upon.
            TransportError: No usable answer.
        """
        overruled = ""
        try:
            trusted = await self._refresh(gun, renews, bins)
        except RollbackError as error:
            if not forgets or error.role == "root":
                raise
            trusted = await self._refresh(gun, renews, bins, forgets=True)
            overruled = error.message
        except ExpiredMetadataError as error:
            _tell_remedy(error, gun)
            if error.role in _ONLINE:
                raise
            # Expired targets are what a publisher is here to renew.
            trusted = await self._read_expired(gun, error)
        except NotFoundError as error:
            raise UnknownGunError(
                f"the server holds nothing for {gun}", hint="create it: tabellion init GUN"
            ) from error
        # A verifier may leave roles out; who publishes builds on each as its delegator knows it.
        trusted.unusable.clear()
        walk = walk_roles(trusted, bins=bins)
        while True:
            try:
                request = next(walk)
            except StopIteration as stop:
                return replace(_current(gun, trusted, stop.value), overruled=overruled)
            try:
                await self._load(gun, trusted, request)
            except ThresholdError as error:
                # Notary's server takes publications that leave such a file; its owner mends it.
                mends = request.role in revives or trusted.dialect is NOTARY
                if not mends or not request.optional:
                    raise
                trusted.note_unusable(request.role, request.delegator, error)

    async def is_known(self, gun: str) -> bool:
        """Tell whether a root of a GUN is trusted already, whatever the server says."""
        return await self._trust.is_known(gun)

    async def with_bins(
        self, current: Current, *, renews: Collection[str] = (), forgets: bool = False
    ) -> Current:
        """Read a GUN again with all its hash bins, and whatever came since; else as ``read``."""
        anew = await self.read(current.gun, renews=renews, bins=None, forgets=forgets)
        return await self.with_left(anew)

    async def _refresh(
        self, gun: str, renews: Collection[str], bins: BinChoice | None, *, forgets: bool = False
    ) -> TrustedSet:
        as_of: datetime | None = None
        for _ in range(_EXPIRIES):
            try:
                return await self._trust.refresh(gun, as_of=as_of, bins=bins, forgets=forgets)
            except ExpiredMetadataError as error:
                if not forgets and (error.role not in _ONLINE or error.role not in renews):
                    raise
                as_of = error.expired_at - timedelta(seconds=1)
        return await self._trust.refresh(gun, as_of=as_of, bins=bins, forgets=forgets)

    async def with_left(self, current: Current, spoken_of: Collection[str] = ()) -> Current:
        """Add the files of removed roles, as the snapshot names them.

        A Notary snapshot may name them no longer, though the server takes no version twice. Of
        the roles delegated to, and those spoken of, the server is asked for what it holds.

        Raises:
            VerificationError: One isn't as the snapshot names it.
            TransportError: No usable answer.
        """
        trusted, snapshot = current.trusted, current.trusted.snapshot
        names = [name.removesuffix(".json") for name in snapshot.signed.meta] if snapshot else []
        if current.bins is not None:  # names of earlier bins are never taken again
            names = [role for role in names if role in spoken_of and is_bin(current.bins, role)]
        left: dict[str, UnverifiedMetadata[Targets]] = {}
        for role in names:
            if role in current.roles or role == "root":
                continue
            meta = trusted.targets_meta(role)
            _, data = await self._fetch(current.gun, trusted, role, meta)
            verify_hashes(role, data, meta.hashes or {})
            parsed: UnverifiedMetadata[Any] = trusted.dialect.parse(
                role, data, max_bytes=trusted.limits.targets_bytes
            )
            left[role] = parsed
        if trusted.dialect is NOTARY:
            for role in sorted(
                {*current.delegators, *spoken_of} - current.roles.keys() - left.keys()
            ):
                stored = await self._stored(current, role)
                if stored is not None:
                    left[role] = stored
        return replace(current, left=left)

    async def _stored(self, current: Current, role: str) -> UnverifiedMetadata[Targets] | None:
        """Ask for a file that the snapshot doesn't name; None if the server says there's none.

        Raises:
            ServerAnswerError: Its version is out of reason: ours would be as high, and the role's
                versions used up.
        """
        dialect, limits = current.trusted.dialect, current.trusted.limits
        name = dialect.file_name(role, None)
        try:
            data = await self._api.metadata(current.gun, name, max_bytes=limits.targets_bytes)
        except NotFoundError:
            return None
        except ServerAnswerError as error:
            if error.status != _SAYS_NONE:
                raise
            return None
        parsed: UnverifiedMetadata[Any] = dialect.parse(role, data, max_bytes=limits.targets_bytes)
        if parsed.version > _MOST_VERSIONS:
            raise ServerAnswerError(
                f"{current.gun}: {name} is version {parsed.version}, and no snapshot names it",
                status=200,
                hint="the server may be hostile: nothing was signed; tell its operator",
            )
        return parsed

    async def _read_expired(self, gun: str, error: ExpiredMetadataError) -> TrustedSet:
        cache = MetadataCache.of(self._home, gun)

        def rebuild() -> TrustedSet:
            root, timestamp = cache.load("root"), cache.load("timestamp")
            snapshot = cache.load("snapshot")
            if root is None or timestamp is None or snapshot is None:
                raise error
            trusted = TrustedSet(root, now=error.expired_at - timedelta(seconds=1), gun=gun)
            trusted.load_timestamp(timestamp)
            trusted.load_snapshot(snapshot)
            return trusted

        return await asyncio.to_thread(rebuild)

    async def _load(self, gun: str, trusted: TrustedSet, request: RoleRequest) -> None:
        meta = trusted.targets_meta(request.role)
        name, data = await self._fetch(gun, trusted, request.role, meta)
        await asyncio.to_thread(_take, trusted, data, request)
        self._seen[gun, request.role] = name, data

    async def _fetch(
        self, gun: str, trusted: TrustedSet, role: str, meta: MetaFile
    ) -> tuple[str, bytes]:
        name = trusted.dialect.named_file(role, meta, root=trusted.root.signed)
        seen_name, data = self._seen.get((gun, role), ("", b""))
        if seen_name != name:
            data = await self._api.metadata(gun, name, max_bytes=trusted.limits.targets_bytes)
        return name, data


def _tell_remedy(error: ExpiredMetadataError, gun: str) -> None:
    """Name to a publisher, who can do something about it, what renews a root."""
    if error.role == "root" and error.hint == error.default_hint:
        error.hint = f"its holders renew it: tabellion witness {gun} root"


def _take(trusted: TrustedSet, data: bytes, request: RoleRequest) -> None:
    try:
        trusted.update_targets(data, request.role, request.delegator)
    except ExpiredMetadataError as error:
        held = trusted.now
        trusted.now = error.expired_at - timedelta(seconds=1)
        try:
            trusted.update_targets(data, request.role, request.delegator)
        finally:
            trusted.now = held


def _current(gun: str, trusted: TrustedSet, found: Sequence[TrustedMetadata[Targets]]) -> Current:
    delegators = {"targets": "root"}
    for item in found:
        for child in delegated_roles(item.signed):
            delegators.setdefault(child.name, item.role)
        bins = bins_of(item.signed)
        if bins is not None:
            for name in (each.role for each in found if is_bin(bins, each.role)):
                delegators.setdefault(name, item.role)
    return Current(gun, trusted, {item.role: item for item in found}, delegators)
