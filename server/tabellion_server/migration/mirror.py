"""Mirroring GUN by GUN: what a Notary server serves, judged whole as an import is, then stored.

Only what isn't here is fetched. The roots that are here stay: others have to follow them. A GUN is
stored in one transaction, so a run that was killed goes on with the next one.

Spec: notary-v1 sections 1, 7 and 9.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from tabellion.core.dialect import NOTARY
from tabellion.core.limits import Limits
from tabellion.core.metadata import UnverifiedMetadata
from tabellion.core.names import parse_gun
from tabellion.errors import (
    MetadataTooLargeError,
    MixAndMatchError,
    TabellionError,
    UnknownGunError,
    VerificationError,
)
from tabellion_server.migration.chain import is_role
from tabellion_server.migration.held import held_rows
from tabellion_server.migration.importing import Importer, Outcome, Status, Target
from tabellion_server.migration.mirror_site import NotarySite
from tabellion_server.migration.rows import FileRow
from tabellion_server.migration.signer_rows import SignerRow
from tabellion_server.storage.interface import Change, Head

_LIMITS: Final = Limits()
_MAX_GUN_BYTES: Final = 256 * 1024**2  # fetched for one GUN in one run; it's held in memory
_NO_TROUBLE: Final = 0
_REFUSED: Final = 1


class _DivergedError(TabellionError):
    """The GUN here and the GUN there aren't one line."""

    code = "diverged"
    exit_status = _REFUSED
    default_hint = "it stays as it is here; delete it here to mirror it anew"


class Mirror:
    """Mirrors from one server into one store."""

    def __init__(self, site: NotarySite, target: Target, *, clock: Callable[[], datetime]) -> None:
        self._site = site
        self._target = target
        self._clock = clock

    async def run(
        self, guns: Sequence[str], *, concurrency: int, tell: Callable[[Outcome], None]
    ) -> tuple[list[Outcome], int]:
        """Mirror GUNs; one that fails changes nothing and stops no other.

        Args:
            guns: Which.
            concurrency: GUNs at a time.
            tell: Called with each outcome as it comes.

        Returns:
            Outcomes in the order of the GUNs; exit status: 0 all is here, 1 not, 3 trouble.
        """
        slots = asyncio.Semaphore(concurrency)

        async def one(gun: str) -> tuple[Outcome, int]:
            async with slots:
                outcome, status = await self._mirror(gun)
            tell(outcome)
            return outcome, status

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(gun)) for gun in guns]
        results = [task.result() for task in tasks]
        return [outcome for outcome, _ in results], max(
            (status for _, status in results), default=_NO_TROUBLE
        )

    async def _mirror(self, gun: str) -> tuple[Outcome, int]:
        try:
            parse_gun(gun)
            head = await self._target.store.head(gun)
            fetched = _Fetched(gun, head, self._site, self._target, self._clock())
            if not await fetched.collect():
                return Outcome(gun, Status.UNCHANGED), _NO_TROUBLE
        except _DivergedError as error:
            return Outcome(gun, Status.DIVERGED, remarks=[error.message, error.hint]), _REFUSED
        except TabellionError as error:
            remarks = [error.message, *([error.hint] if error.hint else ())]
            # A GUN that can't be had is that GUN's fault, whatever the error's own status.
            status = error.exit_status if error.exit_status == 3 else _REFUSED  # noqa: PLR2004
            return Outcome(gun, Status.REFUSED, remarks=remarks), status
        importer = Importer(
            fetched, self._target, signer_keys=None, passphrases={}, clock=self._clock
        )
        (outcome,) = [outcome async for outcome in importer.run([gun])]
        if outcome.status is Status.UNCHANGED:
            # Newer ones are there, but nothing of them holds.
            outcome = Outcome(gun, Status.REFUSED, remarks=outcome.remarks)
        return outcome, _REFUSED if outcome.status is Status.REFUSED else _NO_TROUBLE


class _Fetched:
    """What is known of one GUN, from here and there; a ``Source`` of that GUN alone."""

    def __init__(
        self, gun: str, head: Head | None, site: NotarySite, target: Target, now: datetime
    ) -> None:
        self._gun = gun
        self._head = head
        self._site = site
        self._store = target.store
        self._now = now
        self._bytes = 0
        self._rows: dict[tuple[str, str], FileRow] = {}
        self._new_timestamps: list[FileRow] = []

    async def collect(self) -> bool:
        """Gather what is here and fetch the rest; False if nothing is new.

        Raises:
            UnknownGunError: The server has nothing of it.
            VerificationError: The server's timestamp, or one that leads on, can't be read.
            TransportError: The server can't be reached.
        """
        current = await self._fetch("timestamp", "timestamp.json", None)
        if current is None:
            raise UnknownGunError("the server has nothing of it", hint="check the GUN's name")
        known = await self._check_line(current)
        if current.version == known:
            return False
        await self._take_held()
        await self._fetch_roots()
        found: FileRow | None = current
        while found is not None:
            self._keep(found)
            self._new_timestamps.insert(0, found)
            await self._follow(found)
            version = found.version - 1
            if version <= known:
                break
            found = await self._fetch("timestamp", f"{version}.timestamp.json", version)
        return True

    async def _check_line(self, current: FileRow) -> int:
        """Give the version of the timestamp that is here, 0 without one."""
        if self._head is None or "timestamp" not in self._head.files:
            return 0
        if self._head.dialect != NOTARY.name:
            raise _DivergedError(f"it's here already, in dialect {self._head.dialect}")
        held = self._head.files["timestamp"]
        if held.version > current.version:
            raise _DivergedError(
                f"timestamp version {held.version} is here, the server has {current.version}: it "
                "was published to here, or the server went back"
            )
        same: FileRow | None = current
        if held.version < current.version:
            same = await self._fetch("timestamp", f"{held.version}.timestamp.json", held.version)
        if same is None or same.sha256 != held.sha256:
            raise _DivergedError(
                f"the server has another timestamp version {held.version}: the GUN was published "
                "to here, or made anew there"
            )
        return held.version

    async def _take_held(self) -> None:
        """Take all roots that are here, and what is current."""
        if self._head is not None:
            for row in await held_rows(self._store, self._head):
                self._keep(row)

    async def _fetch_roots(self) -> None:
        held = self._head.files["root"].version if self._head else 0
        for version in range(held + 1, held + 1 + _LIMITS.root_rotations):
            row = await self._fetch("root", f"{version}.root.json", version)
            if row is None:
                return
            self._keep(row)
        raise MetadataTooLargeError(f"it has over {_LIMITS.root_rotations} new roots")

    async def _follow(self, timestamp: FileRow) -> None:
        """Get what a timestamp leads to; whether that holds is judged afterwards."""
        payload = (await _parse(timestamp)).signed
        snapshot = await self._by_hash("snapshot", payload.snapshot_meta.hashes)
        if snapshot is None:
            return
        for name, meta in (await _parse(snapshot)).signed.meta.items():
            role = name.removesuffix(".json")
            # Once roots are here, others come by their versions only.
            if is_role(role) and (role != "root" or self._head is None):
                await self._by_hash(role, meta.hashes)

    async def _by_hash(self, role: str, hashes: dict[str, str] | None) -> FileRow | None:
        sha256 = (hashes or {}).get("sha256", "")
        if (role, sha256) in self._rows:
            return self._rows[role, sha256]
        held = await self._store.read_hash(self._gun, role, sha256)
        if held is not None:
            row = FileRow(role, held.version, sha256, held.data, held.stored_at)
        else:
            fetched = await self._fetch(role, f"{role}.{sha256}.json", None)
            if fetched is None:
                return None  # told as a repair, or why the GUN is refused
            if fetched.sha256 != sha256:
                raise MixAndMatchError(
                    f"the server gave other bytes for {role[:80]} than those of SHA-256 {sha256}"
                )
            row = fetched
        self._keep(row)
        return row

    async def _fetch(self, role: str, name: str, version: int | None) -> FileRow | None:
        """Fetch a file; with ``version`` it has to be that one."""
        answer = await self._site.file(self._gun, name, max_bytes=_LIMITS.max_bytes(role))
        if answer is None:
            return None
        self._bytes += len(answer.data)
        if self._bytes > _MAX_GUN_BYTES:
            raise MetadataTooLargeError(
                f"its new files have more than {_MAX_GUN_BYTES} bytes",
                hint="import it from the server's database",
            )
        stored_at = min(answer.stored_at or self._now, self._now)
        sha256 = await asyncio.to_thread(_sha256, answer.data)
        row = FileRow(role, version or 0, sha256, answer.data, stored_at)
        found = (await _parse(row)).version
        if version not in (None, found):
            raise MixAndMatchError(f"the server's {name} is version {found}")
        return FileRow(role, found, sha256, answer.data, stored_at)

    def _keep(self, row: FileRow) -> None:
        self._rows[row.role, row.sha256] = row

    def guns(self) -> list[str]:
        """See ``Source.guns``."""
        return [self._gun]

    def files(self, gun: str) -> list[FileRow]:
        """See ``Source.files``."""
        return list(self._rows.values()) if gun == self._gun else []

    def changes(self, gun: str) -> list[Change]:
        """Tell each timestamp that is new here; see ``Source.changes``."""
        return [
            Change(gun, row.version, row.sha256, "update", row.created_at)
            for row in self._new_timestamps
        ]

    def signer_keys(self) -> list[SignerRow]:
        """Give none: keys don't come over HTTP."""
        return []

    def close(self) -> None:
        """See ``Source.close``."""


async def _parse(row: FileRow) -> UnverifiedMetadata[Any]:
    try:
        return await asyncio.to_thread(
            NOTARY.parse, row.role, row.data, max_bytes=_LIMITS.max_bytes(row.role)
        )
    except VerificationError as error:
        raise MixAndMatchError(
            f"{row.role[:80]}: {error.message}", hint="ask the server's operator"
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
