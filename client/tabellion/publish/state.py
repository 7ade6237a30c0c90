"""A GUN's verified current state, as a publisher needs it: every role's file and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from tabellion.core.metadata import TrustedMetadata
from tabellion.core.roles import delegated_roles, role_keys
from tabellion.core.search import RoleRequest, walk_roles
from tabellion.core.transitions import CurrentSet
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import ExpiredMetadataError, NotFoundError, UnknownGunError, UsageError
from tabellion.publish.server_api import ServerApi
from tabellion.verify.cache import MetadataCache

_MANY_ROLES = 100_000
_ONLINE = frozenset({"root", "timestamp", "snapshot"})


class Trust(Protocol):
    """The part of ``TrustClient`` that a publisher needs."""

    async def refresh(self, gun: str) -> TrustedSet:
        """Give the verified current state."""


@dataclass(frozen=True)
class Current:
    """Verified state that the next publication builds on.

    Attributes:
        gun: The GUN.
        trusted: The trusted set.
        roles: Published targets roles in the order they are asked.
        delegators: Role to the role that delegates to it; unpublished ones too.
    """

    gun: str
    trusted: TrustedSet
    roles: Mapping[str, TrustedMetadata[Targets]]
    delegators: Mapping[str, str]

    @property
    def root(self) -> Root:
        """Give the trusted root."""
        return self.trusted.root.signed

    def keys_of(self, role: str) -> tuple[Mapping[str, Key], Role]:
        """Give a role's keys, key ids and threshold as its delegator says.

        Raises:
            UsageError: Nothing delegates to it.
        """
        delegator = self.delegators.get(role)
        if delegator is None:
            names = ", ".join(self.delegators)
            raise UsageError(
                f"{self.gun} has no role {role[:80]!r}", hint=f"its roles: {names[:300]}"
            )
        by = self.root if delegator == "root" else self.roles[delegator].signed
        return role_keys(by, role)

    def as_served(self) -> CurrentSet:
        """Give the files, to judge a publication against."""
        found = {role: item.data for role, item in self.roles.items()}
        found["root"] = self.trusted.root.data
        if self.trusted.snapshot is not None:
            found["snapshot"] = self.trusted.snapshot.data
        if self.trusted.timestamp is not None:
            found["timestamp"] = self.trusted.timestamp.data
        return CurrentSet(found, self.trusted.dialect)

    def versions(self, roles: Sequence[str]) -> dict[str, int]:
        """Give the current versions of some roles."""
        return {role: self.roles[role].version for role in roles if role in self.roles}


class StateReader:
    """Reads states; files already read aren't fetched again."""

    def __init__(self, api: ServerApi, trust: Trust, home: Path) -> None:
        self._api = api
        self._trust = trust
        self._home = home
        self._seen: dict[tuple[str, str], tuple[int, bytes]] = {}

    async def read(self, gun: str) -> Current:
        """Verify and read the current state.

        Raises:
            VerificationError: It must not be built upon.
            TransportError: No usable answer.
        """
        try:
            trusted = await self._trust.refresh(gun)
        except ExpiredMetadataError as error:
            if error.role in _ONLINE:
                raise
            # Expired targets are what a publisher is here to renew.
            trusted = await self._read_expired(gun, error)
        except NotFoundError as error:
            raise UnknownGunError(
                f"the server holds nothing for {gun}", hint="create it: tabellion init GUN"
            ) from error
        trusted.limits = replace(trusted.limits, delegations=_MANY_ROLES)
        walk = walk_roles(trusted)
        while True:
            try:
                request = next(walk)
            except StopIteration as stop:
                return _current(gun, trusted, stop.value)
            await self._load(gun, trusted, request)

    async def _read_expired(self, gun: str, error: ExpiredMetadataError) -> TrustedSet:
        cache = MetadataCache.of(self._home, gun)

        def rebuild() -> TrustedSet:
            root, timestamp = cache.load("root"), cache.load("timestamp")
            snapshot = cache.load("snapshot")
            if root is None or timestamp is None or snapshot is None:
                raise error
            trusted = TrustedSet(root, now=error.expired_at - timedelta(seconds=1))
            trusted.load_timestamp(timestamp)
            trusted.load_snapshot(snapshot)
            return trusted

        return await asyncio.to_thread(rebuild)

    async def _load(self, gun: str, trusted: TrustedSet, request: RoleRequest) -> None:
        version = trusted.targets_meta(request.role).version
        seen_version, data = self._seen.get((gun, request.role), (0, b""))
        if seen_version != version:
            data = await self._api.metadata(
                gun,
                trusted.dialect.file_name(request.role, version),
                max_bytes=trusted.limits.targets_bytes,
            )
        await asyncio.to_thread(_take, trusted, data, request)
        self._seen[gun, request.role] = version, data


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
    return Current(gun, trusted, {item.role: item for item in found}, delegators)
