"""Checking a store's rows: what a walk over GUNs never comes to.

Files without a head, a head or a changefeed that doesn't fit the files, rows that can't be read,
and sealed keys that don't open. Files' bytes aren't read: that is the walk's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from tabellion.errors import TabellionError
from tabellion_server.keys.online import OnlineKeys
from tabellion_server.services.absences import Absent
from tabellion_server.services.checking import Finding
from tabellion_server.storage.interface import (
    Change,
    OnlineKeyRow,
    StorageError,
    Store,
    StoreCorruptionError,
)
from tabellion_server.storage.record_checks import check_records
from tabellion_server.storage.records import (
    CollectedRecord,
    FeedRecord,
    HeadRecord,
    InfoRecord,
    OnlineKeyRecord,
    Record,
)


async def check_rows(
    store: Store,
    keys: OnlineKeys | None,
    absent: Mapping[str, Collection[Absent]] = MappingProxyType({}),
) -> list[Finding]:
    """Look at all that is stored, row by row: does it belong together?

    Args:
        store: The store.
        keys: Opens sealed keys; None where there's no master key, and none is tried.
        absent: GUN to what its files name and isn't stored: lost, unless ``gc`` let it go.
    """
    rows = _Rows(keys, absent)
    try:
        async with contextlib.aclosing(store.dump(with_bytes=False)) as groups:
            async for group in groups:
                await asyncio.to_thread(rows.take_in, group)
    except StorageError as error:
        return [Finding("", error.message)]
    return rows.findings()


class _Rows:
    """What rows say of each GUN."""

    def __init__(self, keys: OnlineKeys | None, absent: Mapping[str, Collection[Absent]]) -> None:
        self._keys = keys
        self._absent = absent
        self._seen: set[tuple[str, str, str | int]] = set()  # of GUNs that lack something
        self._newest: dict[tuple[str, str], int] = {}
        self._heads: dict[str, HeadRecord] = {}
        self._told: dict[str, Change] = {}
        self._last = 0
        self._highest = 0
        self._damaged: list[Finding] = []
        self._of_keys: list[Finding] = []
        self._untried = 0
        self._elsewhere = 0

    def take_in(self, group: Sequence[Record]) -> None:
        """Note some rows. Blocks."""
        for record in group:
            try:
                check_records([record], where="a row")
            except StoreCorruptionError as error:
                self._damaged.append(Finding(str(getattr(record, "gun", "")), error.message))
                continue
            match record:
                case InfoRecord(gun, info):
                    key = (gun, info.role)
                    self._newest[key] = max(self._newest.get(key, 0), info.version)
                    self._see(gun, info.role, info.version, info.sha256)
                case CollectedRecord(gun, role, version, sha256):
                    self._see(gun, role, version, sha256)
                case HeadRecord():
                    self._heads[record.gun] = record
                case Change():
                    self._highest = max(self._highest, record.id)
                    told = self._told.get(record.gun)
                    if told is None or record.id > told.id:
                        self._told[record.gun] = record
                case FeedRecord():
                    self._last = record.last
                case OnlineKeyRecord(gun, row):
                    self._try(gun, row)

    def findings(self) -> list[Finding]:
        """Tell what doesn't belong together."""
        found = [
            Finding(gun, "it has files, but isn't listed")
            for gun in sorted({gun for gun, _ in self._newest} - self._heads.keys())
        ]
        for gun, head in sorted(self._heads.items()):
            for role, version in sorted(head.current.items()):
                newest = self._newest.get((gun, role), 0)
                if version > newest:
                    found.append(
                        Finding(gun, f"{role} version {version} is current, but isn't there")
                    )
                elif version < newest:
                    problem = f"{role} version {version} is current, but version {newest} is there"
                    found.append(Finding(gun, problem))
            told = self._told.get(gun)
            current = head.current.get("timestamp", 0)
            if told is not None and told.version > current:
                problem = f"the changefeed told timestamp version {told.version}, not {current}"
                found.append(Finding(gun, problem))
        found += [
            Finding(gun, one.problem, is_damage=one.is_lost)
            for gun, absent in sorted(self._absent.items())
            for one in absent
            if (gun, one.role, one.key) not in self._seen and self._is_here(gun, one.by)
        ]
        if self._highest > self._last:
            found.append(Finding("", f"the changefeed has id {self._highest} above {self._last}"))
        return [*self._damaged, *found, *self._of_keys, *self._notes()]

    def _see(self, gun: str, role: str, version: int, sha256: str) -> None:
        if self._absent.get(gun):
            self._seen |= {(gun, role, version), (gun, role, sha256)}

    def _is_here(self, gun: str, by: tuple[str, int, str]) -> bool:
        """Tell whether what names a file is still the same, or was the GUN made anew meanwhile."""
        role, version, sha256 = by
        return {(gun, role, version), (gun, role, sha256)} <= self._seen

    def _try(self, gun: str, row: OnlineKeyRow) -> None:
        if self._keys is None:
            self._untried += 1
            return
        try:
            is_here = self._keys.try_key(gun, row)
        except TabellionError as error:
            problem = f"online {row.role} key {row.keyid}: {error.message}"
            self._of_keys.append(Finding(gun, problem))
        else:
            self._elsewhere += not is_here

    def _notes(self) -> list[Finding]:
        notes: list[Finding] = []
        if self._untried:
            problem = (
                f"{self._untried} online keys weren't tried: there's no master key to open them"
            )
            notes.append(Finding("", problem, is_damage=False))
        if self._elsewhere:
            problem = (
                f"{self._elsewhere} online keys live elsewhere: their signer URIs open, whether "
                "they sign wasn't tried; check-config tries those that the configuration names"
            )
            notes.append(Finding("", problem, is_damage=False))
        return notes
