"""Letting old versions go: what no client that is under way can ask for any more.

A client that holds a timestamp or snapshot may fetch what it names until that expires; caches may
give old ones out as long. So a file stays while any snapshot names it that hasn't been expired
for the margin, or while it's younger than that. What people signed stays longer: after a theft one
wants to know what a role said before. Roots stay for ever, and so does the newest version of each
role: whoever comes back goes on from it.

Spec: tuf-checklist 55, 62.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tabellion.core.dialect import dialect_named
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.errors import VerificationError
from tabellion_server.services.absences import key_of, named_by
from tabellion_server.storage.interface import FileInfo, Head, Store, StoredFile

MARGIN: Final = timedelta(days=7)
"""How long after the last that could name it a file goes, unless told otherwise."""

SIGNED_MARGIN: Final = timedelta(days=400)
"""How long targets roles' files stay after they were published, unless told otherwise."""

ONLINE_ROLES: Final = ("timestamp", "snapshot")
_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Old:
    """What of a GUN may go.

    Attributes:
        gun: The GUN.
        files: What may go.
        kept: How many files stay.
        kept_bytes: Their length.
    """

    gun: str
    files: Sequence[FileInfo]
    kept: int
    kept_bytes: int

    @property
    def length(self) -> int:
        """Give how many bytes may go."""
        return sum(info.length for info in self.files)


@dataclass(frozen=True)
class Margins:
    """How long files stay: any after the last snapshot that names them, and what people signed."""

    any: timedelta = MARGIN
    signed: timedelta = SIGNED_MARGIN


async def old_of(store: Store, head: Head, *, now: datetime, margins: Margins) -> Old:
    """Tell what of one GUN may go.

    Raises:
        StorageError: The store failed.
    """
    infos = await store.files(head.gun)
    since = now - margins.any
    signed_since = now - max(margins.any, margins.signed)
    newest: dict[str, int] = {}
    for info in infos:
        newest[info.role] = max(newest.get(info.role, 0), info.version)
    stays = _Staying(head, since)
    # What a timestamp names stays with it, and what that snapshot names.
    for role in ONLINE_ROLES:
        for info in infos:
            if info.role == role:
                file = await store.read(head.gun, role, info.version)
                if file is not None:
                    is_newest = info.version == newest[role]
                    await asyncio.to_thread(stays.look_into, file, is_newest=is_newest)
    old = [
        info
        for info in infos
        if info.role != "root"
        and info.version < newest[info.role]
        and info.stored_at < (since if info.role in ONLINE_ROLES else signed_since)
        and not stays.covers(info)
    ]
    gone = {(info.role, info.version) for info in old}
    kept = [info for info in infos if (info.role, info.version) not in gone]
    return Old(head.gun, old, len(kept), sum(info.length for info in kept))


class _Staying:
    """What somebody may still ask for, by version or by SHA-256."""

    def __init__(self, head: Head, since: datetime) -> None:
        self._dialect = dialect_named(head.dialect)
        self._since = since
        self._named: set[tuple[str, str | int]] = set()

    def look_into(self, file: StoredFile, *, is_newest: bool) -> None:
        """Note a timestamp or snapshot that may be in use, and what it names."""
        try:
            signed = self._parse(file).signed
        except VerificationError:
            # Of before a conversion, then it's Notary's; or damaged: for `check` to tell.
            self._named.add((file.role, file.version))
            return
        is_named = not self._named.isdisjoint({(file.role, file.version), (file.role, file.sha256)})
        expired_at = signed.expires.replace(tzinfo=UTC)
        if expired_at <= self._since and not is_newest and not is_named:
            return
        self._named.add((file.role, file.version))
        self._named.update((role, key_of(meta)) for role, meta in named_by(signed))

    def covers(self, info: FileInfo) -> bool:
        """Tell whether a file stays."""
        return not self._named.isdisjoint({(info.role, info.version), (info.role, info.sha256)})

    def _parse(self, file: StoredFile) -> UnverifiedMetadata[Any]:
        return self._dialect.parse(file.role, file.data, max_bytes=_LIMITS.max_bytes(file.role))
