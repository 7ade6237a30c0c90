"""Keeping timestamps and snapshots fresh: on read past half their life, and ahead of expiry."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from tabellion.core.dialect import dialect_named
from tabellion.core.publication import holds_threshold
from tabellion.errors import TabellionError
from tabellion_server.logs import log
from tabellion_server.services.cache import SizedCache
from tabellion_server.services.clocks import ClockWatch
from tabellion_server.services.files import MetadataFiles, Parsed, verify_whole
from tabellion_server.services.heads import Heads
from tabellion_server.services.locks import GunLocks
from tabellion_server.services.signing import (
    Clock,
    ReleaseSigner,
)
from tabellion_server.storage.interface import (
    Head,
    StaleHeadError,
    StorageError,
    Store,
    StoreCorruptionError,
    StoredFile,
)
from tabellion_server.storage.walking import GunPages

_PATIENCE_SECONDS: Final = 2.0  # how long a reader waits while what is there is still valid
_PAUSE: Final = timedelta(seconds=10)  # from a failed renewal to the next, while there's time
_EXPIRIES_HELD: Final = 100_000
_ATTEMPTS: Final = 5


class Renewer:
    """Signs new timestamps, and new snapshots where the server holds the key; one at a time."""

    def __init__(
        self,
        store: Store,
        heads: Heads,
        files: MetadataFiles,
        signer: ReleaseSigner,
        locks: GunLocks,
        *,
        clock: Clock,
        clocks: ClockWatch,
    ) -> None:
        self._store = store
        self._heads = heads
        self._files = files
        self._signer = signer
        self._locks = locks
        self._clock = clock
        self._clocks = clocks
        self._expiries: SizedCache[str, datetime] = SizedCache(_EXPIRIES_HELD)
        self._foreign: SizedCache[str, bool] = SizedCache(_EXPIRIES_HELD)
        self._failed: SizedCache[str, datetime] = SizedCache(_EXPIRIES_HELD)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def fresh_head(self, gun: str) -> Head | None:
        """Give the GUN's head, after renewing what is past half its life.

        A failure is logged, not raised: what is there may still be valid, and if it isn't,
        clients say so better than we could. Only a clock of ours that hides it is no excuse.

        Raises:
            ClockError: It's expired by the store's clock, and by ours nothing better can be signed.
        """
        head = await self._renewed(gun)
        expires_at = await self.expires_at(head, "timestamp") if head is not None else None
        if head is not None and expires_at is not None and self._clocks.is_past(expires_at):
            life = self._signer.life("timestamp", dialect_named(head.dialect))
            self._clocks.verify(self._clock() + life)
        return head

    async def _renewed(self, gun: str) -> Head | None:
        head = await self._heads.head(gun)
        if head is None or not await self._is_due(head):
            return head
        expires_at = await self.expires_at(head, "timestamp")
        valid = expires_at is not None and expires_at > self._clock()
        failed_at = self._failed.get(gun)
        if valid and failed_at is not None and self._clock() - failed_at < _PAUSE:
            return head  # what signs may hang; readers don't wait for it each time
        task = self._running.get(gun)
        if task is None:
            task = asyncio.create_task(self._renew_logged(gun))
            self._running[gun] = task
            task.add_done_callback(lambda _: self._running.pop(gun, None))
        await asyncio.wait([task], timeout=_PATIENCE_SECONDS if valid else None)
        return await self._heads.head(gun)

    async def sweep(self) -> int:
        """Renew every GUN that is due; give how many GUNs were looked at."""
        count = 0
        async for page in GunPages(self._store):
            for head in page:
                await self._sweep_one(head)
            count += len(page)
        return count

    async def _sweep_one(self, head: Head) -> None:
        """Renew a GUN that is due; one that is damaged is told, and not in the way of others."""
        try:
            if await self._is_due(head):
                await self.fresh_head(head.gun)
        except TabellionError as error:
            if isinstance(error, StorageError) and not isinstance(error, StoreCorruptionError):
                raise  # that's all of the store's
            log().error(
                "timestamp.not_renewed", gun=head.gun, problem=error.message, hint=error.hint
            )

    async def sweep_forever(self) -> None:
        """Sweep often enough that nothing expires unread; runs until cancelled."""
        interval = min(3600.0, max(1.0, self._signer.shortest_life.total_seconds() / 8))
        while True:
            try:
                await self.sweep()
            except TabellionError as error:
                log().error("sweep.failed", problem=error.message, hint=error.hint)
            except Exception:  # noqa: BLE001  (the sweep must outlive any fault)
                log().exception("sweep.failed")
            await asyncio.sleep(interval)

    async def drain(self) -> None:
        """Wait until nothing is being renewed."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def _renew_logged(self, gun: str) -> None:
        try:
            await self._renew(gun)
        except TabellionError as error:
            self._failed.put(gun, self._clock(), 1)
            log().error("timestamp.not_renewed", gun=gun, problem=error.message, hint=error.hint)
        except Exception:  # noqa: BLE001  (a reader still gets what is there)
            log().exception("timestamp.not_renewed", gun=gun)

    async def _renew(self, gun: str) -> None:
        for _ in range(_ATTEMPTS):
            async with self._locks.of(gun):
                head = await self._store.head(gun)
                if head is None or not await self._is_due(head):
                    return
                if not await self._may_sign(head):
                    self._tell_foreign(gun)
                    return
                try:
                    added = await self._sign(head)
                    await self._store.commit(
                        gun,
                        dialect=head.dialect,
                        expected_revision=head.revision,
                        added=added,
                        at=added[-1].stored_at,
                    )
                except StaleHeadError:
                    continue
                log().info(
                    "timestamp.renewed",
                    gun=gun,
                    versions={item.role: item.version for item in added},
                )
                return
        raise StorageError(f"{gun} changed {_ATTEMPTS} times while its timestamp was renewed")

    async def _sign(self, head: Head) -> list[StoredFile]:
        verify_whole(head)
        now = self._clock()
        skip = (await self._store.restoration(head.gun)).skip
        current = await self._files.current_set(head, {"root", "snapshot", "timestamp"})
        held, dialect, root = current.files, current.dialect, current.files["root"].signed
        added: list[StoredFile] = []
        snapshot: Parsed | StoredFile = held["snapshot"]
        is_old = self._past_half("snapshot", held["snapshot"].signed.expires, head, now)
        # Versions are passed over in both at once: the next commit knows of nothing lost.
        if (is_old or skip) and await self._holds(head, "snapshot", held["root"]):
            snapshot = await self._signer.snapshot(
                head.gun,
                root=root,
                previous=held["snapshot"],
                files={},
                dialect=dialect,
                now=now,
                skip=skip,
            )
            added.append(snapshot)
        timestamp = await self._signer.timestamp(
            head.gun,
            root=root,
            previous=held["timestamp"],
            snapshot=snapshot,
            dialect=dialect,
            now=now,
            skip=skip,
        )
        return [*added, timestamp]

    async def _holds(self, head: Head, role: str, root: Parsed) -> bool:
        held = await self._signer.public_keys(head.gun, dialect_named(head.dialect))
        return holds_threshold(root.signed, role, held.of(role))

    async def _may_sign(self, head: Head) -> bool:
        """Tell whether the GUN's timestamps are this server's to sign: of a mirrored one not."""
        root = (await self._files.current_set(head, {"root"})).files.get("root")
        return root is not None and await self._holds(head, "timestamp", root)

    def _tell_foreign(self, gun: str) -> None:
        if self._foreign.get(gun) is None:
            self._foreign.put(gun, True, 1)  # noqa: FBT003  (a set that forgets)
            log().warning("timestamp.foreign", gun=gun, hint="another server signs it")

    async def _is_due(self, head: Head) -> bool:
        now = self._clock()
        timestamp = await self.expires_at(head, "timestamp")
        if timestamp is None or self._past_half("timestamp", timestamp, head, now):
            return True
        if self._clocks.is_past(timestamp):
            return True  # whatever this node's clock says
        snapshot = await self.expires_at(head, "snapshot")
        if snapshot is None or not self._past_half("snapshot", snapshot, head, now):
            return False
        root = (await self._files.current_set(head, {"root"})).files.get("root")
        return root is not None and await self._holds(head, "snapshot", root)

    def _past_half(self, role: str, expires: datetime, head: Head, now: datetime) -> bool:
        life = self._signer.life(role, dialect_named(head.dialect))
        return expires.replace(tzinfo=UTC) - now <= life / 2

    async def expires_at(self, head: Head, role: str) -> datetime | None:
        """Give when a role's current file expires, None if there's none.

        Raises:
            StorageError: The store failed.
            VerificationError: It can't be read.
        """
        ref = head.files.get(role)
        if ref is None:
            return None
        found = self._expiries.get(ref.sha256)
        if found is not None:
            return found
        file = (await self._files.current_set(head, {role})).files.get(role)
        if file is None:
            return None
        moment: datetime = file.signed.expires.replace(tzinfo=UTC)
        self._expiries.put(ref.sha256, moment, 1)
        return moment
