"""Watching what people have to renew: root, targets, delegations, certificates, own snapshots.

What the server signs itself is the renewer's to keep fresh; here it's only told if that's late.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final

from tabellion.core.bins import bins_of
from tabellion.core.dialect import dialect_named
from tabellion.core.expiry import (
    UNKNOWN_LIFE,
    End,
    Level,
    Margins,
    RenewedBy,
    Standing,
    View,
    judge,
    remedy,
    worst,
)
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.publication import CurrentSet, holds_threshold
from tabellion.core.roles import TOP_LEVEL_ROLES, role_keys, verify_threshold
from tabellion.errors import TabellionError, ThresholdError
from tabellion_server.logs import log
from tabellion_server.services.cache import SizedCache
from tabellion_server.services.first_bins import FirstBins
from tabellion_server.services.signing import Clock, ReleaseSigner
from tabellion_server.services.timestamping import Renewer
from tabellion_server.storage.interface import Head, Store
from tabellion_server.storage.walking import PAGE, GunPages

KINDS: Final = ("root", "root_certificate", "targets", "delegation", "snapshot", "timestamp")
"""What metrics tell apart; delegations share one."""
_ROUND_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 1.0  # between pages: ten thousand GUNs take two minutes, and little else
_GUNS_HELD: Final = 50_000
_TOLD_HELD: Final = 100_000
_RENEWED: Final = frozenset({"snapshot", "timestamp"})


@dataclass(frozen=True)
class Round:
    """What one walk over all GUNs found.

    Attributes:
        guns: (Kind, level) to the number of GUNs whose worst of that kind is at that level.
        soonest: Kind to its soonest expiry, of GUNs that have one.
        ended_at: When the walk ended.
        missing: How many changes a restored store lacks; 0 for one that lacks nothing.
    """

    guns: Mapping[tuple[str, Level], int]
    soonest: Mapping[str, datetime]
    ended_at: datetime
    missing: int = 0


class ExpiryJudge:
    """Judges one GUN's current files, which were verified when they were published."""

    def __init__(self, signer: ReleaseSigner, margins: Margins, first_bins: FirstBins) -> None:
        self._signer = signer
        self.margins = margins
        self._first_bins = first_bins

    async def with_first_bin(self, head: Head, current: CurrentSet) -> CurrentSet:
        """Add the hash bin that ends first, which stands for all, if there are bins.

        Raises:
            StorageError: The store failed.
            VerificationError: A stored file can't be read.
        """
        targets = current.files.get("targets")
        bins = bins_of(targets.signed) if targets is not None else None
        first = await self._first_bins.file_of(head, bins) if bins is not None else None
        if first is None:
            return current
        return CurrentSet({**current.files, first.role: first}, current.dialect)

    async def standing(self, head: Head, current: CurrentSet, *, now: datetime) -> Standing:
        """Tell how a GUN stands; of hash bins by those that are in ``current``.

        Raises:
            StorageError: The store failed.
            VerificationError: The root can't be read.
        """
        online = await self.online(head, current)
        return await asyncio.to_thread(self._judge, head.gun, current, online, now)

    async def online(self, head: Head, current: CurrentSet) -> dict[str, Margins]:
        """Tell which roles a server signs, and how late is late: not known of another server."""
        dialect = dialect_named(head.dialect)
        held = await self._signer.public_keys(head.gun, dialect)
        root = current.files["root"].signed
        online = {
            role: Margins.of_renewed(self._signer.life(role, dialect))
            for role in _RENEWED
            if holds_threshold(root, role, held.of(role))
        }
        if "timestamp" not in online:  # a mirrored GUN
            return dict.fromkeys(_RENEWED, UNKNOWN_LIFE)
        return online

    def _judge(
        self, gun: str, current: CurrentSet, online: Mapping[str, Margins], now: datetime
    ) -> Standing:
        files = current.files
        signed_by = {role: file.signatures.keys() for role, file in files.items()}
        view = View(
            gun,
            {role: file.signed for role, file in files.items()},
            {**signed_by, "root": _root_signers(files["root"])},
            online,
        )
        return judge(view, now=now, margins=self.margins)


@dataclass(frozen=True)
class Known:
    """What is remembered of a GUN until people publish again.

    Attributes:
        ends: Of root, targets and delegations.
        online: Roles that a server signs, and how late is late.
    """

    ends: tuple[End, ...]
    online: Mapping[str, Margins]


class ExpiryWatch:
    """Walks all GUNs again and again, a page at a time; warns once per GUN, role and day."""

    def __init__(
        self,
        store: Store,
        judge: ExpiryJudge,
        renewer: Renewer,
        *,
        clock: Clock,
        report: Callable[[Round], None],
    ) -> None:
        self._store = store
        self._judge = judge
        self._renewer = renewer
        self._clock = clock
        self._report = report
        self._known: SizedCache[tuple[str, bytes], Known] = SizedCache(_GUNS_HELD)
        self._told: SizedCache[tuple[str, str, date], bool] = SizedCache(_TOLD_HELD)

    async def watch_forever(self) -> None:
        """Walk about once a minute; runs until cancelled."""
        while True:
            try:
                self._report(await self.walk(pause_seconds=_PAUSE_SECONDS))
            except TabellionError as error:
                log().error("expiry.failed", problem=error.message, hint=error.hint)
            except Exception:  # noqa: BLE001  (the watch must outlive any fault)
                log().exception("expiry.failed")
            await asyncio.sleep(_ROUND_SECONDS)

    async def walk(self, *, pause_seconds: float = 0.0) -> Round:
        """Look at every GUN once, resting after each full page.

        Raises:
            StorageError: The store failed.
        """
        guns: Counter[tuple[str, Level]] = Counter()
        soonest: dict[str, datetime] = {}
        async for page in GunPages(self._store):
            for head in page:
                for kind, ends in _by_kind(await self._look(head)).items():
                    guns[kind, worst(end.level for end in ends)] += 1
                    at = min(end.expires_at for end in ends)
                    soonest[kind] = min(at, soonest.get(kind, at))
            if len(page) == PAGE:
                await asyncio.sleep(pause_seconds)
        missing = await self._store.missing_changes()
        return Round(guns, soonest, self._clock(), missing)

    async def _look(self, head: Head) -> list[End]:
        """Give what ends in a GUN; one that can't be read is told, and doesn't end the walk."""
        try:
            now = self._clock()
            known = await self._known_of(head, now)
            margins = self._judge.margins
            ends = [replace(end, level=margins.level(end.expires_at, now)) for end in known.ends]
            for role in _RENEWED & head.files.keys():
                at = await self._renewer.expires_at(head, role)
                if at is not None:
                    wanted = known.online.get(role, margins)
                    signer: RenewedBy = "server" if role in known.online else "publisher"
                    ends.append(End(role, "metadata", at, wanted.level(at, now), signer))
        except TabellionError as error:
            log().error("expiry.failed", gun=head.gun, problem=error.message, hint=error.hint)
            return []
        for end in ends:
            self._tell(head.gun, end, now)
        return ends

    async def _known_of(self, head: Head, now: datetime) -> Known:
        """Read a GUN's files once, past the caches: those are for what clients ask for."""
        key = _key(head)
        known = self._known.get(key)
        if known is None:
            files = await self._read(head, {"root", "targets"} & head.files.keys())
            if "root" not in files:  # dropped since it was listed
                return Known((), {})
            bins = bins_of(files["targets"].signed) if "targets" in files else None
            if bins is None:
                files |= await self._read(head, head.files.keys() - files.keys() - _RENEWED)
            current = CurrentSet(files, dialect_named(head.dialect))
            current = await self._judge.with_first_bin(head, current)
            online = await self._judge.online(head, current)
            ends = (await self._judge.standing(head, current, now=now)).ends
            known = Known(ends, online)
            self._known.put(key, known, 1)
        return known

    async def _read(self, head: Head, roles: Collection[str]) -> dict[str, UnverifiedMetadata[Any]]:
        data: dict[str, bytes] = {}
        for role in roles:
            file = await self._store.read(head.gun, role, head.files[role].version)
            if file is not None:
                data[role] = file.data
        parsed = await asyncio.to_thread(CurrentSet.parse, data, dialect_named(head.dialect))
        return dict(parsed.files)

    def _tell(self, gun: str, end: End, now: datetime) -> None:
        """Warn of what the server can't renew; of its own, ``timestamp.not_renewed`` tells."""
        key = (gun, end.name, now.date())
        if end.level == "ok" or end.renewed_by == "server" or self._told.get(key):
            return
        self._told.put(key, True, 1)  # noqa: FBT003  (a set that forgets)
        log().warning(
            "expiry.near",
            gun=gun,
            role=end.role,
            what=end.what,
            level=end.level,
            expires=f"{end.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            hint=remedy(end, gun),
        )


def _by_kind(ends: list[End]) -> dict[str, list[End]]:
    found: dict[str, list[End]] = {}
    for end in ends:
        is_top = end.role in TOP_LEVEL_ROLES
        kind = end.name.replace(" ", "_") if is_top else "delegation"
        found.setdefault(kind, []).append(end)
    return found


def _key(head: Head) -> tuple[str, bytes]:
    """Name a GUN's files that people sign: the server's own, new twice a day, change nothing."""
    hashes = sorted(ref.sha256 for role, ref in head.files.items() if role not in _RENEWED)
    return head.gun, hashlib.sha256("".join(hashes).encode()).digest()


def _root_signers(root: UnverifiedMetadata[Any]) -> tuple[str, ...]:
    keys, entry = role_keys(root.signed, "root")
    try:
        return verify_threshold(root, "root", keys, entry.keyids, entry.threshold)
    except ThresholdError as error:
        return error.signed_by
