"""The server's own part of a release: next snapshot and timestamp, signed by online keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed

from tabellion.core.dialect import Dialect
from tabellion.core.limits import Limits
from tabellion.core.release import next_snapshot, next_timestamp
from tabellion.core.transitions import OnlineKeys as OnlinePublicKeys
from tabellion.errors import KeyStoreError, RefusedPublicationError
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.files import Parsed
from tabellion_server.storage.interface import OnlineKeyRow, Store, StoredFile


class Clock(Protocol):
    """Gives the present moment, aware UTC."""

    def __call__(self) -> datetime:
        """Give it."""


async def online_public_keys(store: Store, gun: str) -> OnlinePublicKeys:
    """Give all public keys that the server can sign with for a GUN, old ones too."""
    snapshot = await store.online_keys(gun, "snapshot")
    timestamp = await store.online_keys(gun, "timestamp")
    return OnlinePublicKeys([_key(row) for row in snapshot], [_key(row) for row in timestamp])


def _key(row: OnlineKeyRow) -> Key:
    try:
        fields = json.loads(row.public)
        return Key.from_dict(fields.pop("keyid"), fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise KeyStoreError(
            f"online {row.role} key {row.keyid} is damaged", hint="restore the store from a backup"
        ) from error


class ReleaseSigner:
    """Signs what comes after the present snapshot and timestamp."""

    def __init__(
        self, online: OnlineKeys, *, snapshot_life: timedelta, timestamp_life: timedelta
    ) -> None:
        self._online = online
        self._lives = {"snapshot": snapshot_life, "timestamp": timestamp_life}

    def life(self, role: str) -> timedelta:
        """Give how long a fresh file of the role lives."""
        return self._lives[role]

    async def snapshot(
        self,
        gun: str,
        *,
        root: Root,
        previous: Parsed | None,
        files: Mapping[str, tuple[int, bytes]],
        dialect: Dialect,
        now: datetime,
    ) -> StoredFile:
        """Sign the next snapshot, naming ``files`` anew."""
        signed = await asyncio.to_thread(  # it hashes the files
            next_snapshot,
            dialect,
            previous.signed if previous else None,
            files,
            expires_at=self._expiry("snapshot", now),
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
    ) -> StoredFile:
        """Sign the next timestamp, naming ``snapshot``."""
        signed = await asyncio.to_thread(
            next_timestamp,
            dialect,
            previous.signed if previous else None,
            snapshot.data,
            snapshot.version,
            expires_at=self._expiry("timestamp", now),
        )
        return await self._sign(
            gun, "timestamp", root=root, signed=signed, dialect=dialect, now=now
        )

    def _expiry(self, role: str, now: datetime) -> datetime:
        return now.replace(microsecond=0) + self._lives[role]

    async def _sign(
        self, gun: str, role: str, *, root: Root, signed: Signed, dialect: Dialect, now: datetime
    ) -> StoredFile:
        data = await self._online.sign(gun, role, root.roles[role].keyids, signed, dialect)
        return await asyncio.to_thread(StoredFile.of, role, signed.version, data, stored_at=now)
