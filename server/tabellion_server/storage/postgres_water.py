"""How far changes were told, as this node knows: what a restored or failed-over database lacks.

Each node keeps a high-water mark in a file of its own, over what it committed and what it read. A
node that finds the database below its mark writes that into the database, so that all others
refuse to write, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tabellion_server.storage.high_water import HighWater, Mark
from tabellion_server.storage.interface import Restoration, RestoredStoreError, StorageError
from tabellion_server.storage.postgres_link import Connection, Link
from tabellion_server.storage.values import loading_error, ticks

_COUNTER: Final = "SELECT last, known FROM tabellion.counter"
_PAUSE_SECONDS: Final = 2.0


class Water:
    """What this process knows; the file is shared by all processes of the node."""

    def __init__(self, link: Link, file: HighWater | None) -> None:
        self._link = link
        self._file = file
        self._seen = 0

    async def note(self, last: int) -> None:
        """Hear of the newest change, before anything of it is told.

        A mark that can't be written doesn't keep anybody from reading: who committed the change
        has it in a mark.
        """
        if last > self._seen:
            if self._file is not None and not self._file.covers(last):
                with contextlib.suppress(StorageError):
                    await asyncio.to_thread(self._file.cover, last)
            self._seen = last

    async def admit(self, last: int, known: int, upto: int) -> None:
        """Let a transaction commit that has the counter locked.

        Args:
            last: The newest change before it.
            known: What nodes know to have been told.
            upto: The newest change with it: from then on the mark is no lower.

        Raises:
            RestoredStoreError: The database lacks changes that were told.
            StorageError: The mark can't be read or written.
        """
        if missing := (await self._told()).beyond(last, known):
            raise restored_error(missing)
        if self._file is not None and not self._file.covers(upto):
            await asyncio.to_thread(self._file.cover, upto, committed=last)

    async def missing(self) -> int:
        """Tell how many changes may have been told that the database lacks; let all nodes know.

        Raises:
            StorageError: The database or the mark can't be read.
        """
        # First, or what others publish meanwhile would be taken for lost.
        told = await self._told()
        ((last, known),) = await self._link.fetch(_COUNTER)
        missing = told.beyond(last, known)
        if not missing:
            await self.note(last)
        elif last + missing > known:
            # Before any of them gives a number out again.
            await self._link.transact(lambda held: _report(held, last + missing))
        return missing

    async def watch(self) -> None:
        """Look again and again, so that a node without work tells what it knows, too."""
        while True:
            with contextlib.suppress(StorageError):
                await self.missing()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def begin(self, now: datetime) -> None:
        """Deal with what is found at the start, if no other process of the node runs.

        After a crash some ids that were written ahead weren't used, or a backup of a moment before
        was restored. Which of the two can't be told, so their versions are passed over.
        """
        file = self._file
        mark = None if file is None else await asyncio.to_thread(file.read)
        if file is not None and file.is_alone and mark is not None:
            ((last, _),) = await self._link.fetch(_COUNTER)
            if last < mark.number and not mark.may_be_restored(last):
                await self._link.transact(lambda held: _pass_up_to(held, mark.number, now))
        await self.missing()

    async def accept(self, skip: int | None, at: datetime) -> int:
        """See ``Store.accept_restore``."""

        async def work(connection: Connection) -> int:
            last, known = await locked_counter(connection)
            missing = (await self._told()).beyond(last, known)
            missing = missing if skip is None else max(skip, missing)
            if missing:
                await _pass_over(connection, last, missing, at=at, is_loss=True)
            return missing

        return await self._link.transact(work)

    async def end(self) -> None:
        """Write the exact mark, if no other process of the node runs, and leave it."""
        if self._file is None:
            return
        with contextlib.suppress(StorageError):  # it stays as it is: higher than what was told
            if await asyncio.to_thread(self._file.try_alone):
                ((last, _),) = await self._link.fetch(_COUNTER)
                await asyncio.to_thread(self._file.settle, last)
        self._file.close()

    async def _told(self) -> _Told:
        mark = None if self._file is None else await asyncio.to_thread(self._file.read)
        return _Told(self._seen, mark)


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told up to a moment: as this process has seen, and as the node's mark says."""

    seen: int
    mark: Mark | None

    def beyond(self, last: int, known: int) -> int:
        """Tell how many changes a database lacks whose counter was read after that moment."""
        is_below = self.mark is not None and self.mark.may_be_restored(last)
        marked = self.mark.number if self.mark is not None and is_below else 0
        return max(self.seen, marked, known, last) - last


def restored_error(missing: int) -> RestoredStoreError:
    """Say that nothing may be signed or published on this database."""
    return RestoredStoreError(
        f"the store lacks up to {missing} changes that were told: it's an old backup, or a standby "
        "that took over without them, and what was signed since then must not be signed otherwise",
        missing=missing,
    )


async def locked_counter(connection: Connection) -> tuple[int, int]:
    """Give the newest change and what is known to have been told, locked until the end.

    Raises:
        StorageError: A backup is being restored: what others write now would be lost.
    """
    row = await connection.fetchrow(
        "SELECT last, known, is_loading FROM tabellion.counter FOR UPDATE"
    )
    if row["is_loading"]:
        raise loading_error()
    return int(row["last"]), int(row["known"])


async def _report(connection: Connection, told: int) -> None:
    await connection.execute("UPDATE tabellion.counter SET known = greatest(known, $1)", told)


async def _pass_up_to(connection: Connection, number: int, at: datetime) -> None:
    last, _ = await locked_counter(connection)
    if last < number:
        await _pass_over(connection, last, number - last, at=at, is_loss=False)


async def _pass_over(
    connection: Connection, last: int, missing: int, *, at: datetime, is_loss: bool
) -> None:
    """Take changes for lost: neither their ids nor their versions are given out again.

    All that is there was before: the moment is no earlier, whatever the clocks of nodes said.
    """
    await connection.execute(
        "INSERT INTO tabellion.restorations (after_id, missing, at, is_loss)"
        " VALUES ($1, $2, greatest($3, (SELECT max(created_at) + 1 FROM tabellion.online_keys),"
        " (SELECT max(stored_at) + 1 FROM tabellion.metadata)), $4)",
        *(last, missing, ticks(at), is_loss),
    )
    await connection.execute("UPDATE tabellion.counter SET last = $1", last + missing)


async def read_restoration(link: Link, gun: bytes) -> Restoration:
    """Tell what was restored beneath a GUN since its newest change, and publication.

    A GUN without any change may have been imported before, or founded since with keys that the
    backup has already; one whose keys are younger is new, and nothing of it is lost.
    """
    ((skip, lost_at),) = await link.fetch(
        "SELECT coalesce(sum(r.missing) FILTER (WHERE r.after_id >= coalesce("
        " (SELECT max(id) FROM tabellion.changes WHERE gun = $1),"
        " (SELECT 0 FROM tabellion.online_keys k WHERE k.gun = $1 AND k.created_at <= r.at"
        " LIMIT 1))), 0)::bigint, max(r.at) FILTER (WHERE r.is_loss)"
        " FROM tabellion.restorations r",
        gun,
    )
    if lost_at is None:
        return Restoration(skip, may_lack=False)
    newest = await link.fetch(
        "SELECT role, max(stored_at) FROM tabellion.metadata WHERE gun = $1"
        " AND role NOT IN ('snapshot', 'timestamp') GROUP BY role",
        gun,
    )
    if not newest or min(stored_at for _, stored_at in newest) >= lost_at:
        return Restoration(skip, may_lack=False)
    settled = frozenset(role.decode() for role, stored_at in newest if stored_at >= lost_at)
    return Restoration(skip, may_lack=True, settled=settled)
