"""What the tags of a Notary GUN meant when, read from all that a notary-server keeps.

Each timestamp names a snapshot, each snapshot its targets roles; the changefeed says when a
timestamp was made, where it may be read. All of it is the server's word.

Spec: notary-v1 sections 1.4 and 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

from tabellion.core.dialect import NOTARY
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import Gun
from tabellion.core.notary_reading import parse_moment
from tabellion.errors import AccessDeniedError, NotFoundError, UnknownGunError, VerificationError
from tabellion.publish.server_api import HistoryEntry, ServerApi
from tabellion.publish.state import Current, StateReader

_MAX_PUBLICATIONS: Final = 500
_LIMITS: Final = Limits()

Roles = Mapping[str, UnverifiedMetadata[Targets]]


async def read_history(  # noqa: PLR0917  (as the publisher has them)
    api: ServerApi,
    reader: StateReader,
    gun: Gun,
    target: str | None,
    before: int | None,
    limit: int,
) -> list[HistoryEntry]:
    """Give a GUN's history as its server tells it, newest first.

    A notary-server keeps none, but every version, from which it's read.
    """
    try:
        return await api.history(gun, target=target, before=before, limit=limit)
    except UnknownGunError:
        if before is not None or not await api.exists(gun):
            raise
        current = await reader.read(gun)
        if current.trusted.dialect is not NOTARY:
            raise
        return await NotaryHistory(api, current).entries(target, limit)


class NotaryHistory:
    """Reads one GUN's history, newest publication last."""

    def __init__(self, api: ServerApi, current: Current) -> None:
        self._api = api
        self._current = current
        self._files: dict[str, UnverifiedMetadata[Any]] = {}

    async def entries(self, target: str | None, limit: int) -> list[HistoryEntry]:
        """Give what was signed and revoked, newest first.

        Raises:
            TransportError: No usable answer.
        """
        newest = self._current.trusted.timestamp
        if newest is None:
            return []
        moments = await self._moments()
        first = max(1, newest.version - _MAX_PUBLICATIONS + 1)
        found: list[HistoryEntry] = []
        before: Roles = {}
        for version in range(first, newest.version + 1):
            after = await self._roles(version)
            if after is None:
                continue
            found += _differences(before, after, moments.get(version), len(found) + 1)
            before = after
        told = [entry for entry in found if target in {None, entry.target}]
        return told[::-1][:limit]

    async def _moments(self) -> dict[int, datetime]:
        """Give when each timestamp was made; nothing where the feed may not be read."""
        try:
            records = await self._api.changefeed(self._current.gun, _MAX_PUBLICATIONS)
            return {int(item["Version"]): parse_moment(item["CreatedAt"]) for item in records}
        except (AccessDeniedError, NotFoundError, KeyError, TypeError, ValueError):
            return {}

    async def _roles(self, version: int) -> Roles | None:
        try:
            timestamp: Timestamp = (
                await self._file("timestamp", f"{version}.timestamp.json")
            ).signed
            snapshot: Snapshot = (await self._named("snapshot", timestamp.snapshot_meta)).signed
            return {
                name.removesuffix(".json"): await self._named(name.removesuffix(".json"), meta)
                for name, meta in snapshot.meta.items()
                if name != "root.json"
            }
        except (NotFoundError, VerificationError):
            return None  # never made, or gone: what came after tells it all the same

    async def _named(self, role: str, meta: MetaFile) -> UnverifiedMetadata[Any]:
        root = self._current.root
        return await self._file(role, NOTARY.named_file(role, meta, root=root))

    async def _file(self, role: str, name: str) -> UnverifiedMetadata[Any]:
        if name not in self._files:
            limit = _LIMITS.max_bytes(role)
            data = await self._api.metadata(self._current.gun, name, max_bytes=limit)
            self._files[name] = NOTARY.parse(role, data, max_bytes=limit)
        return self._files[name]


def _differences(
    before: Roles, after: Roles, at: datetime | None, number: int
) -> Iterator[HistoryEntry]:
    """List what one publication signed and revoked."""
    old, new = _said(before), _said(after)
    for role, path in sorted(old.keys() | new.keys()):
        was, now = old.get((role, path)), new.get((role, path))
        if was is not None and now is not None and was.hashes == now.hashes:
            continue
        said_by = after.get(role) or before[role]
        target = now if now is not None else was
        assert target is not None  # noqa: S101  (the path is in one of them)
        yield HistoryEntry(
            kind="signed" if now is not None else "revoked",
            target=path,
            role=role,
            version=said_by.version,
            metadata_sha256=said_by.sha256,
            digests=dict(target.hashes),
            length=target.length,
            at=at,
            id=number,
        )
        number += 1


def _said(roles: Roles) -> dict[tuple[str, str], TargetFile]:
    return {
        (role, path): target
        for role, item in roles.items()
        for path, target in item.signed.targets.items()
    }
