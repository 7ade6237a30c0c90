"""Importing GUN by GUN: judged whole, then stored in one transaction with its feed and history.

Re-runnable: what is here with the same bytes is passed over, what differs is refused. A GUN that
was published to here since stays as it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tuf.api.metadata import Root

from tabellion.core.dialect import NOTARY
from tabellion.core.names import parse_gun
from tabellion.core.notary_keys import NotaryKey
from tabellion.errors import (
    ConfigurationError,
    ConflictError,
    KeyStoreError,
    PassphraseError,
    TabellionError,
)
from tabellion_server.keys.online import ONLINE_ROLES, OnlineKeys
from tabellion_server.migration.chain import Resolved, resolve
from tabellion_server.migration.rows import FileRow, Source
from tabellion_server.migration.signer_rows import (
    PrivateKey,
    SignerRow,
    passphrase_variable,
    unwrap_key,
)
from tabellion_server.storage.interface import Change, Head, Store, StoredFile

_ALL = 2**31


class Status(StrEnum):
    """How the import of a GUN ended."""

    IMPORTED = "imported"
    REPAIRED = "repaired"
    UNCHANGED = "unchanged"
    DIVERGED = "diverged"
    REFUSED = "not imported"


@dataclass(frozen=True)
class Outcome:
    """What became of a GUN.

    Attributes:
        gun: The GUN as the source names it.
        status: How it ended.
        files: Files added; with a dry run, those that would be.
        keys: Online keys added, likewise.
        remarks: Why it was refused, what was left out, what its owner should know.
    """

    gun: str
    status: Status
    files: int = 0
    keys: int = 0
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """Where to import to; without one it's a dry run into nothing."""

    store: Store
    online_keys: OnlineKeys


@dataclass(frozen=True)
class _OnlineKey:
    role: str
    key: NotaryKey
    private: PrivateKey
    created_at: datetime


class Importer:
    """Imports from one source into one store."""

    def __init__(
        self,
        source: Source,
        target: Target | None,
        *,
        signer_keys: Collection[SignerRow] | None,
        passphrases: Mapping[str, str],
        clock: Callable[[], datetime],
        dry_run: bool = False,
    ) -> None:
        """Take what to import.

        Args:
            source: The server's database.
            target: Where to; None only with ``dry_run``, where there's no store yet.
            signer_keys: What notary-signer holds; None if it isn't imported.
            passphrases: Alias to passphrase.
            clock: Tells the moment, aware UTC.
            dry_run: Write nothing.

        Raises:
            PassphraseError: A passphrase is missing.
        """
        self._source = source
        self._target = target
        self._signer_keys = signer_keys
        self._passphrases = passphrases
        self._clock = clock
        self._dry_run = dry_run or target is None
        # Used ones first: a key that waits for its root has to be the newest.
        in_order = sorted(signer_keys or (), key=lambda row: (not row.used, row.created_at))
        self._by_gun: dict[str, list[SignerRow]] = {}
        self._by_keyid = {row.keyid: row for row in in_order}
        for row in in_order:
            self._by_gun.setdefault(row.gun, []).append(row)
        if missing := {row.alias for row in in_order} - passphrases.keys():
            names = ", ".join(sorted(alias[:40] for alias in missing))
            raise PassphraseError(
                f"no passphrase for signer keys of alias {names}",
                hint=f"set {passphrase_variable(min(missing)[:40])} as notary-signer has it, or "
                "name another variable: --passphrase-env ALIAS=VARIABLE",
            )

    async def run(self, guns: Sequence[str]) -> AsyncIterator[Outcome]:
        """Import GUNs in turn; one that is refused changes nothing and stops no other.

        Raises:
            ConfigurationError: The source can't be read any more.
        """
        for gun in guns:
            try:
                outcome = await self._import(gun)
            except ConfigurationError:
                raise
            except TabellionError as error:
                remarks = [error.message, *([error.hint] if error.hint else ())]
                outcome = Outcome(gun, Status.REFUSED, remarks=remarks)
            yield outcome

    async def _import(self, gun: str) -> Outcome:
        rows = await asyncio.to_thread(self._source.files, gun)
        now = self._clock()
        resolved = await asyncio.to_thread(_judge, gun, rows, now)
        here = await self._held_keys(gun)
        keys, notes = await asyncio.to_thread(self._online_keys, gun, resolved.roots, here)
        head = await self._target.store.head(gun) if self._target else None
        files = await self._missing(gun, head, resolved)
        added_keys = [item for item in keys if (item.role, item.key.keyid) not in here]
        remarks = [*resolved.repairs, *resolved.notes, *notes]
        status = Status.REPAIRED if resolved.repairs else Status.IMPORTED
        if not files and not added_keys:
            return Outcome(gun, Status.UNCHANGED, remarks=remarks)
        if self._target is not None and not self._dry_run:
            for item in added_keys:
                await self._target.online_keys.import_key(
                    gun, item.role, item.key, item.private, created_at=item.created_at
                )
            if files:
                await self._commit(
                    self._target.store, gun, head, added=files, resolved=resolved, now=now
                )
        return Outcome(gun, status, len(files), len(added_keys), remarks)

    async def _commit(
        self,
        store: Store,
        gun: str,
        head: Head | None,
        *,
        added: Sequence[StoredFile],
        resolved: Resolved,
        now: datetime,
    ) -> None:
        feed = await asyncio.to_thread(self._source.changes, gun)
        told = await store.changes(gun, after=0, limit=_ALL)
        known = head.files["timestamp"].version if head else 0
        events = [
            event for version, release in resolved.history if version > known for event in release
        ]
        await store.commit(
            gun,
            dialect=NOTARY.name,
            expected_revision=head.revision if head else None,
            added=added,
            removed_heads=resolved.removed_heads if resolved.heads["timestamp"] > known else (),
            events=events,
            changes=_new_changes(feed, told, resolved.heads["timestamp"]),
            at=now,
        )

    async def _missing(
        self, gun: str, head: Head | None, resolved: Resolved
    ) -> Sequence[StoredFile]:
        """List the files that aren't here yet.

        Raises:
            ConflictError: One is here with other bytes, or the GUN is another one.
        """
        if head is None or self._target is None:
            return resolved.files
        if head.dialect != NOTARY.name:
            raise ConflictError(
                f"it's here already, in dialect {head.dialect}",
                versions={},
                hint="delete it here first if it's to be Notary's",
            )
        missing: list[StoredFile] = []
        differing: list[str] = []
        for file in resolved.files:
            held = await self._target.store.read(gun, file.role, file.version)
            if held is None:
                missing.append(file)
            elif held.sha256 != file.sha256:
                differing.append(f"{file.role} version {file.version}")
        versions = {role: ref.version for role, ref in head.files.items()}
        if differing:
            raise ConflictError(
                f"it's here with other bytes: {', '.join(differing[:5])}"
                f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}",  # noqa: PLR2004
                versions=versions,
                hint="it was published to on both servers; delete it here to import it anew",
            )
        ahead = [role for role, version in versions.items() if version > _top(resolved, role)]
        if ahead and missing:
            raise ConflictError(
                f"it was published to here, and has files there that are missing here: "
                f"{missing[0].role} version {missing[0].version}",
                versions=versions,
                hint="delete it here to import it anew, or leave it as it is here",
            )
        return missing

    def _online_keys(
        self, gun: str, roots: Sequence[Root], here: Collection[tuple[str, str]]
    ) -> tuple[list[_OnlineKey], list[str]]:
        """Unwrap the signer's keys for a GUN; nothing is written yet."""
        named = [
            (role, keyid)
            for root in roots
            for role in sorted(ONLINE_ROLES)
            for keyid in root.roles[role].keyids
        ]
        wanted: dict[tuple[str, str], SignerRow] = {
            (row.role, row.keyid): row
            for row in self._by_gun.get(gun, ())
            if row.role in ONLINE_ROLES
        }
        # Old rows don't tell their GUN and role, but roots name their keys.
        for role, keyid in named:
            row = self._by_keyid.get(keyid)
            if row is not None and row.gun in {"", gun}:
                wanted.setdefault((role, keyid), row)
        keys: list[_OnlineKey] = []
        notes: list[str] = []
        for (role, _), row in sorted(
            wanted.items(), key=lambda item: (not item[1].used, item[1].created_at)
        ):
            try:
                key, private = unwrap_key(row, self._passphrases[row.alias])
            except KeyStoreError as error:
                notes.append(error.message)
                continue
            keys.append(_OnlineKey(role, key, private, row.created_at))
        held = {(item.role, item.key.keyid) for item in keys}.union(here)
        current = roots[-1].roles["timestamp"].keyids
        if not any(("timestamp", keyid) in held for keyid in current):
            notes.append(
                "no timestamp key: nothing new can be signed until its owner takes this server's "
                f"keys: tabellion rotate {gun} snapshot timestamp --server-managed (without "
                "snapshot and the option where the owner signs snapshots)"
            )
        return keys, notes

    async def _held_keys(self, gun: str) -> set[tuple[str, str]]:
        if self._target is None:
            return set()
        return {
            (role, row.keyid)
            for role in ONLINE_ROLES
            for row in await self._target.store.online_keys(gun, role)
        }


def _judge(gun: str, rows: Sequence[FileRow], now: datetime) -> Resolved:
    parse_gun(gun)
    return resolve(gun, rows, now=now)


def _top(resolved: Resolved, role: str) -> int:
    return max((file.version for file in resolved.files if file.role == role), default=0)


def _new_changes(
    feed: Sequence[Change], told: Sequence[Change], timestamp_version: int
) -> list[Change]:
    """Choose what the feed tells: nothing twice, and no release that was left out."""
    deletions = [place for place, item in enumerate(feed) if item.category == "deletion"]
    alive_from = deletions[-1] + 1 if deletions else 0
    seen = Counter(_content(item) for item in told)
    chosen: list[Change] = []
    for place, item in enumerate(feed):
        if place >= alive_from and item.version > timestamp_version:
            continue
        if seen[_content(item)] > 0:
            seen[_content(item)] -= 1
            continue
        chosen.append(item)
    return chosen


def _content(item: Change) -> tuple[object, ...]:
    return item.version, item.sha256, item.category, item.at
