"""The server's own part of a release: next snapshot and timestamp, signed by online keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed

from tabellion.core.dialect import DIALECTS, NOTARY, Dialect
from tabellion.core.limits import Limits
from tabellion.core.publication import OnlineKeys as OnlinePublicKeys
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.errors import RefusedPublicationError
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.files import Parsed
from tabellion_server.storage.interface import StoredFile


class Clock(Protocol):
    """Gives the present moment, aware UTC."""

    def __call__(self) -> datetime:
        """Give it."""


@dataclass(frozen=True, slots=True)
class Lives:
    """How long what the server signs lives."""

    snapshot: timedelta
    timestamp: timedelta


class ReleaseSigner:
    """Signs what comes after the present snapshot and timestamp."""

    def __init__(
        self,
        online: OnlineKeys,
        *,
        tuf: Lives,
        notary: Lives,
        verify_expiry: Callable[[datetime], None] = lambda _: None,
    ) -> None:
        """Take keys and lives, and what refuses an expiry that has passed by a better clock."""
        self._online = online
        self._verify_expiry = verify_expiry
        self._tuf = tuf
        self._notary = notary

    def life(self, role: str, dialect: Dialect) -> timedelta:
        """Give how long a fresh file of the role lives."""
        lives = self._notary if dialect is NOTARY else self._tuf
        return lives.snapshot if role == "snapshot" else lives.timestamp

    @property
    def shortest_life(self) -> timedelta:
        """Give how long the timestamp lives that has to be renewed most often."""
        return min(self._tuf.timestamp, self._notary.timestamp)

    async def public_keys(self, gun: str, dialect: Dialect | None) -> OnlinePublicKeys:
        """Give all public keys that the server can sign with for a GUN, old ones too.

        Those of any dialect, where the GUN doesn't exist yet and so has none.
        """
        found: dict[str, list[Key]] = {"snapshot": [], "timestamp": []}
        for role, keys in found.items():
            for each in DIALECTS if dialect is None else (dialect,):
                keys.extend(await self._online.public_keys(gun, role, each))
        return OnlinePublicKeys(found["snapshot"], found["timestamp"])

    async def snapshot(
        self,
        gun: str,
        *,
        root: Root,
        previous: Parsed | None,
        files: Mapping[str, tuple[int, bytes]],
        dialect: Dialect,
        now: datetime,
        dropped: Collection[str] = (),
        skip: int = 0,
    ) -> StoredFile:
        """Sign the next snapshot, naming ``files`` anew and leaving ``dropped`` roles out.

        ``skip`` versions are passed over.
        """
        signed = await asyncio.to_thread(  # it hashes the files
            next_snapshot,
            dialect,
            previous.signed if previous else None,
            files,
            expires_at=self._expiry("snapshot", dialect, now),
            dropped=dropped,
            skip=skip,
        )
        file = await self._sign(gun, "snapshot", root=root, signed=signed, dialect=dialect, now=now)
        if len(file.data) > Limits().snapshot_bytes:
            raise RefusedPublicationError(
                f"the snapshot would have {len(file.data)} bytes, more than clients read",
                rule="snapshot-size",
                role="snapshot",
                hint="use fewer roles",
            )
        return file

    async def timestamp(
        self,
        gun: str,
        *,
        root: Root,
        previous: Parsed | None,
        snapshot: StoredFile | Parsed,
        dialect: Dialect,
        now: datetime,
        skip: int = 0,
    ) -> StoredFile:
        """Sign the next timestamp, naming ``snapshot``; ``skip`` versions are passed over."""
        signed = await asyncio.to_thread(
            next_timestamp,
            dialect,
            previous.signed if previous else None,
            snapshot.data,
            snapshot.version,
            expires_at=self._expiry("timestamp", dialect, now),
            skip=skip,
        )
        return await self._sign(
            gun, "timestamp", root=root, signed=signed, dialect=dialect, now=now
        )

    def _expiry(self, role: str, dialect: Dialect, now: datetime) -> datetime:
        expires_at = now.replace(microsecond=0) + self.life(role, dialect)
        self._verify_expiry(expires_at)
        return expires_at

    async def _sign(
        self, gun: str, role: str, *, root: Root, signed: Signed, dialect: Dialect, now: datetime
    ) -> StoredFile:
        data = await self._online.sign(gun, role, root.roles[role].keyids, signed, dialect)
        return await asyncio.to_thread(StoredFile.of, role, signed.version, data, stored_at=now)
