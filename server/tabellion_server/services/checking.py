"""Checking a store: does what is there hold together, as a client would see it?

Every stored file, old ones too, is read once and is what its row says; every root follows the one
before; timestamp, snapshot and targets roles name each other and are signed. Expiry is told apart:
it's no damage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tuf.api.metadata import Signed

from tabellion.core.bins import bins_of
from tabellion.core.dialect import dialect_named
from tabellion.core.freshness import verify_fresh
from tabellion.core.metadata import TrustedMetadata
from tabellion.core.roles import delegated_roles
from tabellion.core.trusted_set import TrustedSet
from tabellion.errors import (
    ConfigurationError,
    ExpiredMetadataError,
    MixAndMatchError,
    TabellionError,
    ThresholdError,
)
from tabellion_server.services.absences import Absences, Absent
from tabellion_server.services.file_checks import FileJudge
from tabellion_server.storage.interface import (
    FileInfo,
    Head,
    Store,
    StoreCorruptionError,
    StoredFile,
)
from tabellion_server.storage.record_checks import check_records
from tabellion_server.storage.records import InfoRecord

_ATTEMPTS: Final = 3  # to see a GUN as it is at one moment
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
        absent: What isn't there; whether it was let go, the rows tell.
    """

    gun: str
    files: int = 0
    length: int = 0
    findings: list[Finding] = field(default_factory=list)
    absent: Collection[Absent] = ()


async def check_gun(store: Store, head: Head, *, now: datetime) -> Checked:
    """Look at one GUN; each of its files is read once.

    Raises:
        StorageError: The store itself can't be read.
    """
    checked = await _look(store, head, now=now)
    for _ in range(_ATTEMPTS):
        if not checked.findings or (now_there := await store.head(head.gun)) == head:
            break
        # It changed meanwhile: what was seen may be of two moments.
        if now_there is None:
            return Checked(head.gun)
        head = now_there
        checked = await _look(store, head, now=now)
    return checked


async def _look(store: Store, head: Head, *, now: datetime) -> Checked:
    try:
        reading = _Reading(store, head)
        await reading.read_all()
    except (ConfigurationError, StoreCorruptionError) as error:  # no known dialect, or no list
        return Checked(head.gun, findings=[Finding(head.gun, error.message)])
    checked = reading.checked
    if reading.held.keys() == head.files.keys():
        walk = _Walk(head.gun, reading.held, now)
        await asyncio.to_thread(walk.run, reading.roots)
        checked.findings += walk.findings
    return checked


class _Reading:
    """Reads a GUN's files one by one; holds its roots, and of the others what is current."""

    def __init__(self, store: Store, head: Head) -> None:
        self.checked = Checked(head.gun)
        self.roots: list[StoredFile] = []
        self.held: dict[str, StoredFile] = {}
        self._store = store
        self._head = head
        self._dialect = dialect_named(head.dialect)

    async def read_all(self) -> None:
        """Read them, roots first, and note what is wrong with each."""
        gun = self._head.gun
        infos = await self._store.files(gun)
        check_records((InfoRecord(gun, info) for info in infos), where="a row")
        infos.sort(key=lambda item: (item.role != "root", item.role, item.version))
        absences = Absences(self._head, infos)
        self._judge = FileJudge(self._dialect, absences)
        if not infos or (infos[0].role, infos[0].version) != ("root", 1):
            self._judge.miss_root()  # what was brought from elsewhere may begin later
        for info in infos:
            await self._read(info)
        self.checked.absent = absences.found()
        there = {(info.role, info.version) for info in infos}
        for role, ref in self._head.files.items():
            if (role, ref.version) not in there:
                self._note(f"{role} version {ref.version} is current, but isn't there")

    async def _read(self, info: FileInfo) -> None:
        try:
            file = await self._store.read(self._head.gun, info.role, info.version)
        except StoreCorruptionError as error:
            self._note(error.message)
            if info.role == "root":
                self._judge.miss_root()
            return
        if file is None:
            # Unless it was let go or dropped meanwhile, and its row with it.
            if info in await self._store.files(self._head.gun):
                self._note(f"{info.role} version {info.version} is listed, but has no bytes")
            return
        self.checked.files += 1
        self.checked.length += len(file.data)
        problem = await asyncio.to_thread(lambda: self._judge.problem_of(file, info))
        if info.role == "root":
            self.roots.append(file)
        ref = self._head.files.get(info.role)
        is_current = ref is not None and ref.version == info.version
        if problem is None and ref is not None and is_current and ref.sha256 != file.sha256:
            problem = f"{info.role} version {info.version} is current with another SHA-256"
        if problem is not None:
            self._note(problem)
        elif is_current:
            self.held[info.role] = file

    def _note(self, problem: str) -> None:
        self.checked.findings.append(Finding(self._head.gun, problem))


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
            self._file("targets")
            self._follow_targets(trusted)
        except TabellionError as error:
            self._note(error.message)

    def _follow_roots(self, roots: Sequence[StoredFile]) -> TrustedSet:
        if not roots:
            raise MixAndMatchError("there is no root")
        trusted = TrustedSet(roots[0].data, now=_LONG_AGO, gun=self._gun)
        for root in roots[1:]:
            trusted.update_root(root.data)
        return trusted

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
