"""Checking a store: does what is there hold together, as a client would see it?

Every stored file is read and has its SHA-256; every root follows the one before; timestamp,
snapshot and targets roles name each other and are signed. Expiry is told apart: it's no damage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tuf.api.metadata import Signed

from tabellion.core.bins import bins_of
from tabellion.core.freshness import verify_fresh
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.roles import delegated_roles
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ExpiredMetadataError,
    MixAndMatchError,
    TabellionError,
    ThresholdError,
)
from tabellion_server.storage.interface import (
    Change,
    FileInfo,
    Head,
    StorageError,
    Store,
    StoreCorruptionError,
    StoredFile,
)
from tabellion_server.storage.records import FeedRecord, FileRecord, HeadRecord, Record

_LONG_AGO: Final = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Finding:
    """What is wrong with a GUN.

    Attributes:
        gun: The GUN; empty for the store as a whole.
        problem: What.
        is_damage: False for what time does by itself.
    """

    gun: str
    problem: str
    is_damage: bool = True


@dataclass
class Checked:
    """One GUN looked at.

    Attributes:
        gun: The GUN.
        files: How many files were read.
        length: How many bytes.
        findings: What is wrong.
    """

    gun: str
    files: int = 0
    length: int = 0
    findings: list[Finding] = field(default_factory=list)


async def check_rows(store: Store) -> list[Finding]:
    """Look at all that is stored, row by row: does it belong together?

    What a walk over GUNs never comes to is found here: files without a head, a head or a changefeed
    that doesn't fit the files, rows that can't be read.
    """
    rows = _Rows()
    try:
        async for group in store.dump():
            await asyncio.to_thread(rows.take_in, group)
    except StorageError as error:
        return [Finding("", error.message)]
    return rows.findings()


class _Rows:
    """What rows say of each GUN."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], int] = {}
        self._kept: set[tuple[str, str, int]] = set()
        self._heads: dict[str, HeadRecord] = {}
        self._told: dict[str, Change] = {}
        self._last = 0
        self._highest = 0

    def take_in(self, group: Sequence[Record]) -> None:
        """Note some rows."""
        for record in group:
            match record:
                case FileRecord(gun, file):
                    key = (gun, file.role)
                    self._newest[key] = max(self._newest.get(key, 0), file.version)
                    self._kept.add((*key, file.version))
                case HeadRecord():
                    self._heads[record.gun] = record
                case Change():
                    self._highest = max(self._highest, record.id)
                    told = self._told.get(record.gun)
                    if told is None or record.id > told.id:
                        self._told[record.gun] = record
                case FeedRecord():
                    self._last = record.last

    def findings(self) -> list[Finding]:
        """Tell what doesn't belong together."""
        found = [
            Finding(gun, "it has files, but isn't listed")
            for gun in sorted({gun for gun, _ in self._newest} - self._heads.keys())
        ]
        for gun, head in sorted(self._heads.items()):
            for role, version in sorted(head.current.items()):
                if (gun, role, version) not in self._kept:
                    found.append(Finding(gun, f"{role} {version} is current, but isn't there"))
                elif version < self._newest[gun, role]:
                    newest = self._newest[gun, role]
                    problem = f"{role} version {version} is current, but version {newest} is there"
                    found.append(Finding(gun, problem))
            told = self._told.get(gun)
            current = head.current.get("timestamp", 0)
            if told is not None and told.version > current:
                problem = f"the changefeed told timestamp version {told.version}, not {current}"
                found.append(Finding(gun, problem))
        if self._highest > self._last:
            found.append(Finding("", f"the changefeed has id {self._highest} above {self._last}"))
        return found


async def check_gun(store: Store, head: Head, *, now: datetime) -> Checked:
    """Look at one GUN.

    Raises:
        StorageError: The store itself can't be read.
    """
    checked = Checked(head.gun)
    infos = await store.files(head.gun)
    for info in sorted(infos, key=lambda item: (item.role, item.version)):
        try:
            file = await store.read(head.gun, info.role, info.version)
        except StoreCorruptionError as error:
            checked.findings.append(Finding(head.gun, error.message))
            continue
        if file is not None:  # else it was collected or dropped meanwhile
            checked.files += 1
            checked.length += len(file.data)
    for role, ref in head.files.items():
        if not any((info.role, info.version) == (role, ref.version) for info in infos):
            problem = f"{role} version {ref.version} is current, but isn't there"
            checked.findings.append(Finding(head.gun, problem))
    if not checked.findings:
        checked.findings += await _follow(store, head, infos, now=now)
    if checked.findings and await store.head(head.gun) != head:
        # It changed meanwhile: what was seen may be of two moments.
        again = await store.head(head.gun)
        return Checked(head.gun) if again is None else await check_gun(store, again, now=now)
    return checked


async def _follow(
    store: Store, head: Head, infos: Sequence[FileInfo], *, now: datetime
) -> list[Finding]:
    """Walk the chain as a client that begins at the oldest root."""
    versions = sorted(info.version for info in infos if info.role == "root")
    roots = [await store.read(head.gun, "root", version) for version in versions]
    held = {
        role: await store.read(head.gun, role, ref.version)
        for role, ref in head.files.items()
        if role != "root"
    }
    walk = _Walk(head.gun, {role: file for role, file in held.items() if file is not None}, now)
    await asyncio.to_thread(walk.run, [root for root in roots if root is not None])
    return walk.findings


class _Walk:
    """One way down a GUN's chain."""

    def __init__(self, gun: str, held: Mapping[str, StoredFile], now: datetime) -> None:
        self.findings: list[Finding] = []
        self._gun = gun
        self._held = held
        self._now = now

    def run(self, roots: Sequence[StoredFile]) -> None:
        """Go as far as it holds, and note what is found."""
        try:
            trusted = self._follow_roots(roots)
            trusted.update_timestamp(self._file("timestamp").data)
            snapshot = trusted.update_snapshot(self._file("snapshot").data)
            top: tuple[TrustedMetadata[Any] | None, ...]
            top = (trusted.root, trusted.timestamp, snapshot)
            for role, file in zip(("root", "timestamp", "snapshot"), top, strict=True):
                self._note_expiry(role, file.signed if file is not None else None)
            for role, file in (("timestamp", trusted.timestamp), ("snapshot", snapshot)):
                self._verify_number(file, self._held[role])
            self._file("targets")
            self._follow_targets(trusted)
        except TabellionError as error:
            self._note(error.message)

    def _follow_roots(self, roots: Sequence[StoredFile]) -> TrustedSet:
        if not roots:
            raise MixAndMatchError("there is no root")
        trusted = TrustedSet(roots[0].data, now=_LONG_AGO, gun=self._gun)
        self._verify_number(trusted.root, roots[0])
        for root in roots[1:]:
            trusted.update_root(root.data)
            self._verify_number(trusted.root, root)
        return trusted

    def _verify_number(self, found: TrustedMetadata[Any] | None, file: StoredFile) -> None:
        """Refuse a file that is given out under another version than its own.

        Raises:
            MixAndMatchError: It is.
        """
        if found is not None and found.version != file.version:
            raise MixAndMatchError(
                f"{file.role} version {file.version} says that it's version {found.version}"
            )

    def _follow_targets(self, trusted: TrustedSet) -> None:
        pending, seen = [("targets", "root")], set[str]()
        while pending:
            role, delegator = pending.pop(0)
            if role in seen:
                continue
            seen.add(role)
            if role not in self._held:
                if self._is_named(trusted, role):
                    self._note(f"the snapshot names {role}, of which there is no current file")
                continue  # else nothing was published yet
            try:
                found = trusted.update_targets(self._held[role].data, role, delegator)
                self._verify_number(found, self._held[role])
                signed = found.signed
            except ThresholdError as error:
                # Happens to the last signer's removal; clients pass over such a role.
                self._note(error.message, is_damage=role == "targets")
                continue
            self._note_expiry(role, signed)
            bins = bins_of(signed)
            names = [child.name for child in delegated_roles(signed)]
            names += [] if bins is None else bins.get_roles()
            pending += [(name, role) for name in names]

    def _is_named(self, trusted: TrustedSet, role: str) -> bool:
        return trusted.snapshot is not None and f"{role}.json" in trusted.snapshot.signed.meta

    def _file(self, role: str) -> StoredFile:
        if role not in self._held:
            raise MixAndMatchError(f"there is no current {role}")
        return self._held[role]

    def _note_expiry(self, role: str, signed: Signed | None) -> None:
        try:
            if signed is not None:
                verify_fresh(role[:80], signed, self._now)
        except ExpiredMetadataError as error:
            self._note(error.message, is_damage=False)

    def _note(self, problem: str, *, is_damage: bool = True) -> None:
        self.findings.append(Finding(self._gun, problem, is_damage))
