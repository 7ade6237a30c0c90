"""Publications written in groups: those that wait together share a transaction and its fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from tabellion_server.storage.interface import Head, StorageError
from tabellion_server.storage.postgres_errors import is_of_content, storage_error
from tabellion_server.storage.postgres_heads import HEADS, HeldHeads, head_of
from tabellion_server.storage.postgres_link import WRITE_SECONDS, Connection, Link, free_of
from tabellion_server.storage.postgres_plan import Found, Place, Plan, Publication, Row, State
from tabellion_server.storage.postgres_rows import close_row, drop_pending
from tabellion_server.storage.postgres_water import Water, locked_counter
from tabellion_server.storage.values import ticks

MAX_GROUP: Final = 64
_LARGE_BYTES: Final = 1024 * 1024
_FOUND: Final = (
    "SELECT gun, revision, token FROM tabellion.heads WHERE gun = ANY ($1::bytea[])"
    " UNION ALL SELECT gun, revision, NULL FROM tabellion.retired WHERE gun = ANY ($1::bytea[])"
)
_NAMED: Final = HEADS.format(source="tabellion.heads") + " WHERE h.gun = ANY ($1::bytea[])"
_STORED: Final = (
    "WITH w AS (SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[])"
    " AS w (gun, role, version))"
    " SELECT gun, role, version, sha256, false FROM w"
    " JOIN tabellion.metadata USING (gun, role, version)"
    " UNION ALL SELECT gun, role, version, sha256, true FROM w"
    " JOIN tabellion.collected USING (gun, role, version)"
)
_WITHDRAWN: Final = (
    "SELECT w.gun, w.id FROM unnest($1::bytea[], $2::bytea[]) AS w (gun, id)"
    " WHERE NOT EXISTS (SELECT FROM tabellion.pending p WHERE p.gun = w.gun AND p.id = w.id)"
    " AND 'withdrawn' = (SELECT action FROM tabellion.audit a"
    " WHERE a.gun = w.gun AND a.proposal = w.id ORDER BY a.id DESC LIMIT 1)"
)
_NOT_COLLECTED: Final = (
    "DELETE FROM tabellion.collected c"
    " USING unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS w (gun, role, version)"
    " WHERE c.gun = w.gun AND c.role = w.role AND c.version = w.version"
)
# All that most publications write, in one round trip.
_WRITE: Final = (
    "WITH files AS (INSERT INTO tabellion.metadata"
    " (gun, role, version, sha256, length, stored_at, data) SELECT * FROM"
    " unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],"
    " $7::bytea[])),"
    " heads AS (INSERT INTO tabellion.heads (gun, dialect, revision, changed_at, token)"
    " SELECT * FROM unnest($8::bytea[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[])"
    " ON CONFLICT (gun) DO UPDATE SET dialect = excluded.dialect, revision = excluded.revision,"
    " changed_at = excluded.changed_at, token = excluded.token),"
    " current AS (INSERT INTO tabellion.current (gun, role, version, sha256, length)"
    " SELECT * FROM unnest($13::bytea[], $14::bytea[], $15::bigint[], $16::text[], $17::bigint[])"
    " ON CONFLICT (gun, role) DO UPDATE SET version = excluded.version,"
    " sha256 = excluded.sha256, length = excluded.length)"
    " INSERT INTO tabellion.events"
    " (gun, kind, target, role, version, metadata_sha256, digests, length, at)"
    " SELECT w.gun, w.kind, w.target, w.role, w.version, w.sha256, w.digests, w.length, w.at"
    " FROM unnest($18::bytea[], $19::text[], $20::bytea[], $21::bytea[], $22::bigint[],"
    " $23::text[], $24::text[], $25::bigint[], $26::bigint[]) WITH ORDINALITY"
    " AS w (gun, kind, target, role, version, sha256, digests, length, at, place)"
    " ORDER BY w.place"
)
_NOT_CURRENT: Final = (
    "DELETE FROM tabellion.current c USING unnest($1::bytea[], $2::bytea[]) AS w (gun, role)"
    " WHERE c.gun = w.gun AND c.role = w.role"
)
_CHANGES: Final = (
    "WITH changes AS (INSERT INTO tabellion.changes (id, gun, version, sha256, category, at)"
    " SELECT $1::bigint + w.ordinality, w.gun, w.version, w.sha256, w.category, w.at"
    " FROM unnest($2::bytea[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])"
    " WITH ORDINALITY AS w (gun, version, sha256, category, at, ordinality))"
    " UPDATE tabellion.counter SET last = $7"
)

Outcome = Head | StorageError
_Waiting = tuple[Publication, asyncio.Future[Head]]


class GroupWriter:
    """Writes publications; used by one event loop.

    Small ones wait for each other, large ones for nobody but other large ones: a file of 20 MB on
    its way to the server must not hold up what is quickly done. Nor must a GUN that another node
    has locked, and perhaps stands still: a small one to such a GUN waits among the large ones, with
    all others to it. No outcome is told before the transaction is on the server's disk.
    """

    def __init__(self, link: Link, water: Water, held: HeldHeads) -> None:
        self._link = link
        self._water = water
        self._held = held
        self._small: list[_Waiting] = []
        self._large: list[_Waiting] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False

    async def submit(self, item: Publication) -> Head:
        """Write a publication; give the GUN's new head.

        Raises:
            StorageError: It was refused, or the store failed.
        """
        if self._is_closed:
            raise StorageError(f"store {self._link.name} is closed", hint="open it again")
        done: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._queue(item, done, waits=item.size >= _LARGE_BYTES)
        return await done

    async def close(self) -> None:
        """Write what waits, then nothing more."""
        self._is_closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    def _queue(self, item: Publication, done: asyncio.Future[Head], *, waits: bool) -> None:
        queue, most = (self._large, 1) if waits else (self._small, MAX_GROUP)
        queue.append((item, done))
        if most not in self._tasks:
            self._tasks[most] = asyncio.create_task(self._write_all(queue, most))

    async def _write_all(self, queue: list[_Waiting], most: int) -> None:
        group: list[_Waiting] = []
        try:
            while queue:
                taken = _of_one_gun(queue) if most == 1 else queue[:most]
                answers = {done for _, done in taken}
                queue[:] = [entry for entry in queue if entry[1] not in answers]
                group = [entry for entry in taken if not entry[1].done()]
                if group:
                    await self._tell(group, waits=most == 1)
                    group = []  # all answered, or queued again
        finally:
            del self._tasks[most]
            for _, done in (*group, *queue):
                done.cancel()  # only if the loop itself ends: all others are answered

    async def _tell(self, group: Sequence[_Waiting], *, waits: bool) -> None:
        outcomes: Iterable[Outcome | None]
        try:
            outcomes = await self._write([item for item, _ in group], waits=waits)
        except Exception as error:  # noqa: BLE001  (the writer must outlive any failure)
            failure = storage_error(error, self._link.name)
            if len(group) > 1 and is_of_content(failure):  # one must not take all along
                for entry in group:
                    await self._tell([entry], waits=waits)
                return
            outcomes = [failure] * len(group)
        for (item, done), outcome in zip(group, outcomes, strict=True):
            if done.done():  # who asked has gone
                continue
            if outcome is None:
                self._queue(item, done, waits=True)
                continue
            if isinstance(outcome, StorageError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

    async def _write(self, items: Sequence[Publication], *, waits: bool) -> list[Outcome | None]:
        """Give what became of each; None, unless it waits, if its GUN was locked elsewhere."""
        every = {item.key for item in items}

        async def work(connection: Connection) -> tuple[list[Outcome | None], Plan, int]:
            keys = every if waits else await free_of(connection, every)
            free = [item for item in items if item.key in keys]
            stored, collected = await _stored(connection, free)
            states = await self._states(connection, keys)
            withdrawn = await _withdrawn(connection, free)
            plan = Plan(Found(states, stored, collected, withdrawn))
            outcomes = [self._take(plan, item) if item.key in keys else None for item in items]
            if plan.writing.tokens:
                await _write_rows(connection, plan)
            last = await write_changes(connection, self._water, plan.writing.changes)
            return outcomes, plan, last

        outcomes, plan, last = await self._link.transact(work, guns=every if waits else ())
        await self._water.note(last)
        for key, token in plan.writing.tokens.items():
            head = plan.states[key].head
            if head is not None:
                self._held.put(key, head, token)
        return outcomes

    def _take(self, plan: Plan, item: Publication) -> Outcome:
        try:
            return plan.take(item)
        except (StorageError, UnicodeEncodeError) as error:
            return storage_error(error, self._link.name)

    async def _states(self, connection: Connection, keys: Iterable[bytes]) -> dict[bytes, State]:
        """Read the GUNs, from memory where nobody has written since."""
        states = {key: State(None, 0) for key in keys}
        unknown: list[bytes] = []
        for key, revision, token in await connection.fetch(_FOUND, list(states)):
            if token is None:
                states[key].last_revision = revision
            elif (head := self._held.get(key, token)) is not None:
                states[key].head = head
            else:
                unknown.append(key)
        if unknown:
            for row in await connection.fetch(_NAMED, unknown):
                states[row["gun"]].head, _ = head_of(row)
        return states


def _of_one_gun(queue: Sequence[_Waiting]) -> list[_Waiting]:
    """Give what comes first: a large one alone, a small one with all others to its GUN."""
    first = queue[0]
    if first[0].size >= _LARGE_BYTES:
        return [first]
    others = [
        entry for entry in queue if entry[0].key == first[0].key and entry[0].size < _LARGE_BYTES
    ]
    return others[:MAX_GROUP]


async def write_changes(connection: Connection, water: Water, rows: Sequence[Row]) -> int:
    """Number changes and write them; the counter stays locked from here to the commit.

    Gives the newest change there will be then.

    Raises:
        RestoredStoreError: The database lacks changes that were told.
    """
    last, known = await locked_counter(connection)
    await water.admit(last, known, last + len(rows))
    if rows:
        await connection.execute(_CHANGES, last, *_columns(rows, 5), last + len(rows))
    return last + len(rows)


async def _stored(
    connection: Connection, items: Sequence[Publication]
) -> tuple[dict[Place, str], dict[Place, str]]:
    """Read the hashes of versions that are stored, and of those whose bytes were let go."""
    found: tuple[dict[Place, str], dict[Place, str]] = {}, {}
    if places := [place for item in items for place in item.places]:
        for *place, sha256, is_collected in await connection.fetch(_STORED, *_columns(places, 3)):
            gun, role, version = place
            found[is_collected][gun, role, version] = sha256
    return found


async def _withdrawn(
    connection: Connection, items: Sequence[Publication]
) -> set[tuple[bytes, bytes]]:
    closing = [place for item in items if (place := item.closing) is not None]
    rows = await connection.fetch(_WITHDRAWN, *_columns(closing, 2)) if closing else []
    return {(gun, number) for gun, number in rows}


async def _write_rows(connection: Connection, plan: Plan) -> None:
    writing = plan.writing
    if writing.again:
        await connection.execute(_NOT_COLLECTED, *_columns(writing.again, 3))
    heads = [
        (key, head.dialect, head.revision, ticks(head.changed_at), token)
        for key, token in writing.tokens.items()
        if (head := plan.states[key].head) is not None
    ]
    current = [
        (*place, ref.version, ref.sha256, ref.length)
        for place, ref in writing.current.items()
        if ref is not None
    ]
    await connection.execute(
        _WRITE,
        *_columns(writing.files, 7),
        *_columns(heads, 5),
        *_columns(current, 5),
        *_columns(writing.events, 9),
        timeout=WRITE_SECONDS,
    )
    if gone := [place for place, ref in writing.current.items() if ref is None]:
        await connection.execute(_NOT_CURRENT, *_columns(gone, 2))
    for entry in writing.closes:
        await close_row(connection, entry)
    for key, at in writing.dropped:
        await drop_pending(connection, key, at)


def _columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(width)]
