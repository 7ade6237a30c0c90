"""Pending proposals: kept until enough holders signed, then published as any upload is.

What is kept is only what could be published and only signatures that count. A proposal leaves by
being published, withdrawn, or past its expiry; each step is told in the audit, in one transaction
with the step itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from tabellion.core.proposal import Proposal, Standing
from tabellion.core.publication import UploadedFile
from tabellion.core.transitions import dialect_of_upload
from tabellion.errors import (
    ConflictError,
    NotFoundError,
    RefusedPublicationError,
    TabellionError,
    UnknownGunError,
)
from tabellion_server.logs import log
from tabellion_server.services.cache import SizedCache
from tabellion_server.services.files import MetadataFiles
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.offers import (
    Offered,
    Scene,
    Shown,
    judge_offer,
    read_offer,
    standing_of_row,
)
from tabellion_server.services.publishing import (
    Published,
    Publisher,
    each_alone,
    verify_not_closed,
)
from tabellion_server.services.signing import Clock, ReleaseSigner
from tabellion_server.storage.interface import AuditEntry, PendingFullError, PendingRow, Store

MAX_PENDING: Final = 16
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
_ATTEMPTS: Final = 20
_ROUND_SECONDS: Final = 60.0
_MOST_SHOWN: Final = 512
_NOT_AGAIN: Final = frozenset({"withdrawn", "expired"})


class Pendings:
    """Keeps proposals of every GUN; publishes one when its last signature comes."""

    def __init__(
        self,
        store: Store,
        files: MetadataFiles,
        signer: ReleaseSigner,
        publisher: Publisher,
        locks: GunLocks,
        *,
        clock: Clock,
        life: timedelta,
        report: Callable[[int], None],
    ) -> None:
        """Take what keeping them needs; ``report`` is told how many expired each time."""
        self._store = store
        self._files = files
        self._signer = signer
        self._publisher = publisher
        self._locks = locks
        self._clock = clock
        self._life = life
        self._report = report
        self._showing = asyncio.Lock()
        self._shown_before: SizedCache[tuple[object, ...], tuple[Sequence[Standing], bool]] = (
            SizedCache(_MOST_SHOWN)
        )

    async def offer(self, gun: str, upload: Sequence[UploadedFile], *, by: str = "") -> Offered:
        """Take a proposal or more signatures of one, or refuse it and change nothing.

        Raises:
            ConflictError: Built on versions that aren't current any more.
            RefusedPublicationError: A rule is broken, a signature doesn't count, it was withdrawn,
                or the GUN has too many.
            VerificationError: A file is malformed, too large or expired.
            StorageError: The store failed.
        """
        for _ in range(_ATTEMPTS):
            async with self._locks.of(gun):
                kept = await self._keep(gun, upload, by)
            if isinstance(kept, Offered):
                return kept
            if isinstance(kept, Proposal):
                return await self._publish(kept, by)
        raise ConflictError(f"{gun} is being signed by too many others at once", versions={})

    async def show(self, gun: str) -> list[Shown]:
        """List a GUN's pending proposals, oldest first.

        Raises:
            UnknownGunError: There's neither the GUN nor a proposal.
            StorageError: The store failed.
        """
        # Anybody may ask, and the files may be large: one at a time, and each is judged once.
        async with self._showing:
            scene = await self._scene(gun)
            rows = await self._store.pending(gun)
            if scene.current is None and not rows:
                raise UnknownGunError(f"there is nothing here for {gun}")
            return [await self._shown(row, scene) for row in rows]

    async def _shown(self, row: PendingRow, scene: Scene) -> Shown:
        name = (row.gun, row.id, row.created_at, row.revision, scene.revision)
        found = self._shown_before.get(name)
        if found is None:
            made = await asyncio.to_thread(standing_of_row, row, scene.current)
            found = (made.standings, made.is_stale)
            self._shown_before.put(name, found, 1)
        return Shown(row, *found)

    async def one(self, gun: str, number: str) -> Shown:
        """Give one pending proposal.

        Raises:
            NotFoundError: It isn't pending.
        """
        for shown in await self.show(gun):
            if shown.row.id == number:
                return shown
        raise _not_pending(gun, number)

    async def withdraw(self, gun: str, number: str, *, by: str = "") -> None:
        """Drop a proposal; the same can't be offered or published any more.

        Raises:
            NotFoundError: It isn't pending.
        """
        async with self._locks.of(gun):
            scene = await self._scene(gun)
            for row in await self._store.pending(gun):
                entry = AuditEntry(gun, number, "withdrawn", row.versions, (), by, scene.now)
                if row.id == number and await self._store.close_pending(entry):
                    log().info("proposal.withdrawn", gun=gun, proposal=number, **_who(by))
                    return
        raise _not_pending(gun, number)

    async def audit(self, gun: str, *, before: int | None, limit: int) -> list[AuditEntry]:
        """Tell what became of a GUN's proposals, newest first."""
        await self.expire()
        return await self._store.audit(gun, before=before, limit=limit)

    async def expire(self) -> None:
        """Drop what is past its expiry, of all GUNs.

        The store gives each to one process only, however many share it: it's told once.
        """
        gone = await self._store.expire_pending(self._clock())
        for entry in gone:
            log().info(
                "proposal.expired",
                gun=entry.gun,
                proposal=entry.proposal,
                versions=dict(entry.versions),
            )
        if gone:
            self._report(len(gone))

    async def expire_forever(self) -> None:
        """Drop what expired about once a minute, asked for or not; runs until cancelled."""
        while True:
            try:
                await self.expire()
            except TabellionError as error:
                log().error("proposals.not_expired", problem=error.message, hint=error.hint)
            except Exception:  # noqa: BLE001  (it must outlive any fault)
                log().exception("proposals.not_expired")
            await asyncio.sleep(_ROUND_SECONDS)

    async def _scene(self, gun: str, wanted: Collection[str] = ()) -> Scene:
        await self.expire()
        head = await self._store.head(gun)
        current = await self._files.served(head, wanted) if head is not None else None
        online = await self._signer.public_keys(gun, current.dialect if current else None)
        return Scene(self._clock(), current, online, head.revision if head is not None else None)

    async def _keep(
        self, gun: str, upload: Sequence[UploadedFile], by: str
    ) -> Offered | Proposal | None:
        """Store what is offered; a proposal is complete and to be published, None to be redone."""
        scene = await self._scene(gun, {item.role for item in upload})
        current = scene.current
        dialect = current.dialect if current is not None else dialect_of_upload(upload)
        offered = await asyncio.to_thread(read_offer, gun, dialect, upload)
        if await asyncio.to_thread(offered.is_served, current):
            return await self._published(offered)
        # In company, too: what is signed of a file holds without the others.
        for item in each_alone(list(offered.files.values())):
            await verify_not_closed(self._store, gun, item, _NOT_AGAIN)
        await verify_not_closed(self._store, gun, offered.files, _NOT_AGAIN)
        rows = {row.id: row for row in await self._store.pending(gun)}
        row = rows.get(offered.id)
        merged, fresh = await asyncio.to_thread(judge_offer, offered, row, scene)
        missing = await asyncio.to_thread(merged.missing, current)
        if not missing and not await asyncio.to_thread(
            merged.needs_own_snapshot, current, online=scene.online
        ):
            return merged
        kept = row or self._new_row(merged, by, scene.now)
        state: Literal["opened", "merged"] = "merged" if row is not None else "opened"
        if fresh or row is None:
            files = {role: item.data for role, item in merged.files.items()}
            kept = replace(kept, files=files)
            if row is None and _size(rows.values()) + _size([kept]) > MAX_PENDING_BYTES:
                raise _too_many(f"the pending proposals of {gun} would be too large together")
            action: Literal["opened", "signed"] = "opened" if row is None else "signed"
            entry = AuditEntry(gun, kept.id, action, kept.versions, fresh, by, scene.now)
            try:
                if not await self._store.put_pending(kept, entry, at_most=MAX_PENDING):
                    return None
            except PendingFullError as error:
                raise _too_many(error.message) from error
            told_of = {"gun": gun, "proposal": kept.id, "keyids": list(fresh), **_who(by)}
            if row is None:
                log().info("proposal.opened", **told_of)
            else:
                log().info("proposal.signed", **told_of)
        else:
            await self._store.confirm(gun)
        return Offered(state, kept.id, await asyncio.to_thread(standing_of_row, kept, current), {})

    def _new_row(self, proposal: Proposal, by: str, now: datetime) -> PendingRow:
        """Make the row of a new proposal: it lives no longer than what it holds."""
        ends = [item.signed.expires.replace(tzinfo=UTC) for item in proposal.files.values()]
        expires_at = min(now + self._life, *ends)
        return PendingRow(proposal.gun, proposal.id, proposal.versions, {}, by, now, expires_at)

    async def _publish(self, proposal: Proposal, by: str) -> Offered:
        """Publish what is complete; fine if another's last signature came first."""
        try:
            published = await self._publisher.publish(proposal.gun, proposal.upload, by=by)
        except ConflictError:
            scene = await self._scene(proposal.gun)
            if not await asyncio.to_thread(proposal.is_served, scene.current):
                raise
            return await self._published(proposal)
        _tell_published(proposal, published, by)
        return Offered("published", proposal.id, None, published.versions)

    async def _published(self, proposal: Proposal) -> Offered:
        await self._store.confirm(proposal.gun)
        head = await self._store.head(proposal.gun)
        versions = {role: ref.version for role, ref in head.files.items()} if head else {}
        return Offered("published", proposal.id, None, versions)


def _size(rows: Iterable[PendingRow]) -> int:
    return sum(len(data) for row in rows for data in row.files.values())


def _too_many(message: str) -> RefusedPublicationError:
    return RefusedPublicationError(
        message,
        rule="too-many-pending",
        hint="have them completed, or withdraw some: tabellion pending list GUN",
    )


def _not_pending(gun: str, number: str) -> NotFoundError:
    return NotFoundError(
        f"no proposal {number[:16]} of {gun} is pending",
        hint="it was published, withdrawn or expired: see the audit",
    )


def _tell_published(proposal: Proposal, published: Published, by: str) -> None:
    if not published.unchanged:
        log().info(
            "proposal.published",
            gun=proposal.gun,
            proposal=proposal.id,
            versions=dict(published.versions),
            **_who(by),
        )


def _who(by: str) -> dict[str, str]:
    return {"who": by} if by else {}
