"""Bounded connections to one PostgreSQL database, and transactions whose end is always known.

Isolation is READ COMMITTED. Who writes for a GUN holds that GUN's advisory lock until the end of
the transaction, so nothing it read of the GUN can change under it; stricter levels would add
nothing but failures to be retried. A read is one statement, which sees one moment.

Each transaction writes a receipt under a token of its own. If the answer to COMMIT is lost, a
fence is written under the same token: it waits for a transaction that still runs, and either finds
the receipt, or keeps it from ever being written.

Each also makes sure that the tables are still those of this release: a migration and transactions
keep out of each other's way by an advisory lock.

A connection may lead to a pooler that gives it another of its own with each transaction. So nothing
outlives a transaction here: no session's setting, no session's lock, and with a pooler no prepared
statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from tabellion.errors import ConfigurationError
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.password_file import read_password
from tabellion_server.storage.postgres_errors import is_connection_lost, storage_error

T = TypeVar("T")
Connection = Any  # asyncpg has no types

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 30.0
# A database that hangs is told within some twenty seconds, whichever step of a publication it was.
FETCH_SECONDS: Final = 8.0
BEGIN_SECONDS: Final = 12.0
COMMIT_SECONDS: Final = 8.0
DOUBT_SECONDS: Final = 10.0
_RELEASE_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.2
# Held shared by all who write, alone by who migrates: "tabellio".
SCHEMA_LOCK: Final = 0x7461_6265_6C6C_696F
# What the server ends by itself, so that no lock outlives its holder: milliseconds.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    " SET LOCAL lock_timeout = 10000; SET LOCAL idle_in_transaction_session_timeout = 15000;"
    # Some set it off for a whole server; what is acknowledged has to be on disk.
    " SELECT set_config('synchronous_commit', 'on', true)"
    " WHERE current_setting('synchronous_commit') = 'off';"
)
# Behind a pooler each transaction may get another server; a standby refuses this one.
_BEGIN_READ: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    " SET LOCAL idle_in_transaction_session_timeout = 15000"
)
# If a pooler mixes up the statements of two processes, one isn't found rather than another run.
_PROCESS: Final = secrets.token_hex(8)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database is.

    Attributes:
        url: As asyncpg takes it; may hold a password.
        name: The same as it may be told.
        password_file: Where the password is, read with each connection.
        connections: How many at most.
        prepares: Statements may stay prepared; False behind a connection pooler.
    """

    url: str
    name: str
    password_file: Path | None = None
    connections: int = 10
    prepares: bool = True


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # untyped
    def get_reset_query(self) -> str:
        """Spare a round trip: no session state is ever made here."""
        return ""

    def _get_unique_id(self, prefix: str) -> str:
        return f"{prefix}_{_PROCESS}_{os.getpid()}_{next(_numbers)}"


def lock_of(gun: bytes) -> int:
    """Give the advisory lock of a GUN; two may share one, which only makes them wait."""
    return int.from_bytes(hashlib.sha256(b"gun\0" + gun).digest()[:8], "big", signed=True)


async def connect(place: Place) -> Connection:
    """Open one connection.

    Raises:
        StorageError: It can't be had.
    """
    try:
        return await asyncpg.connect(place.url, **_options(place))
    except Exception as error:
        raise storage_error(error, place.name) from error


def _options(place: Place) -> dict[str, Any]:
    options: dict[str, Any] = {
        "timeout": CONNECT_SECONDS,
        "command_timeout": READ_SECONDS,
        "statement_cache_size": 100 if place.prepares else 0,
        "server_settings": {"application_name": "tabellion"},
        "connection_class": _Connection,
    }
    if "target_session_attrs" not in place.url:
        options["target_session_attrs"] = "primary"  # a standby would show what is old
    if place.password_file is not None:
        file = place.password_file

        async def password() -> str:
            return await asyncio.to_thread(_read_password, file)

        options["password"] = password
    return options


def _read_password(file: Path) -> str:
    try:
        return read_password(file).strip()
    except ConfigurationError as error:  # it was readable at the start
        raise StorageError(error.message, hint=error.hint) from error


class Link:
    """The connections. Every failure comes as a StorageError."""

    def __init__(self, place: Place, pool: Any, schema: int) -> None:  # noqa: ANN401  (asyncpg has no types)
        self.name = place.name
        self._pool = pool
        self._schema = schema
        self._is_pooled = not place.prepares
        self._is_closed = False
        self._ended: list[str] = []  # receipts that nobody needs any more

    @classmethod
    async def open(cls, place: Place, *, schema: int) -> Link:
        """Make the pool; connections come when they are needed.

        Args:
            place: Where the database is.
            schema: Number of the migration that this release writes after, and no other.
        """
        try:
            pool = await asyncpg.create_pool(
                place.url, min_size=0, max_size=place.connections, **_options(place)
            )
        except Exception as error:
            raise storage_error(error, place.name) from error
        return cls(place, pool, schema)

    async def close(self) -> None:
        """Let go of all connections."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await asyncio.wait_for(self._pool.close(), _RELEASE_SECONDS)
        except Exception:  # noqa: BLE001  (a server that has gone must not be in the way)
            self._pool.terminate()

    def key(self, name: str) -> bytes:
        """Give a name as it's stored.

        Raises:
            StorageError: It isn't Unicode.
        """
        try:
            return name.encode()
        except UnicodeEncodeError as error:
            raise storage_error(error, self.name) from error

    async def fetch(self, query: str, *values: object) -> list[Any]:
        """Run one statement that only reads; on a connection that had gone, once more.

        Raises:
            StorageError: It failed.
        """
        try:
            return await self._fetch(query, values)
        except StorageError as error:
            if not _is_stale(error):
                raise
        return await self._fetch(query, values)

    async def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        async with self.connection() as connection:
            if not self._is_pooled:
                return list(await connection.fetch(query, *values, timeout=FETCH_SECONDS))
            await connection.execute(_BEGIN_READ, timeout=FETCH_SECONDS)
            rows = await connection.fetch(query, *values, timeout=FETCH_SECONDS)
            await connection.execute("COMMIT", timeout=FETCH_SECONDS)
            return list(rows)

    async def transact(
        self, work: Callable[[Connection], Awaitable[T]], *, guns: Collection[bytes] = ()
    ) -> T:
        """Run work in one transaction that holds the locks of some GUNs; tell its result if done.

        Work is run once more only where a connection had gone before anything was begun.

        Raises:
            StorageError: It wasn't done; or, as its words say, nobody knows.
        """
        token, ended = secrets.token_hex(16), self._ended
        self._ended = []
        begin = (
            f"{_BEGIN} SELECT pg_advisory_xact_lock_shared({SCHEMA_LOCK});"  # noqa: S608  (hex, numbers)
            f" INSERT INTO tabellion.receipts (token, is_fence)"
            f" VALUES ('\\x{token}', false);{_forget(ended)}"
            f"{''.join(f' SELECT pg_advisory_xact_lock({lock});' for lock in _locks(guns))}"
            f" SELECT FROM (SELECT max(version) FROM tabellion.schema_version) s"
            f" WHERE max = {self._schema}"
        )
        try:
            result, doubt = await self._run(begin, work)
            if doubt is not None:
                await self._verify_done(token, doubt)
        except BaseException:
            self._ended += ended
            raise
        self._ended.append(token)
        return result

    async def _run(
        self, begin: str, work: Callable[[Connection], Awaitable[T]]
    ) -> tuple[T, Exception | None]:
        """Run work and commit; give its result, and the failure that hid the answer to COMMIT."""
        async with contextlib.AsyncExitStack() as stack:
            connection = await self._begin(begin, stack)
            result = await work(connection)
            try:
                answer, warned = await _commit(connection)
            except Exception as error:  # noqa: BLE001  (whatever it is, it may have been done)
                _cut(connection)
                return result, error
            if answer != "COMMIT":
                raise StorageError(f"store {self.name} undid a transaction: {answer}")
            # Somebody ended its wait for a standby: it's there, but the standby may lack it.
            return result, StorageError("; ".join(warned)) if warned else None

    async def _begin(self, begin: str, stack: contextlib.AsyncExitStack) -> Connection:
        for is_last in (False, True):
            try:
                async with contextlib.AsyncExitStack() as attempt:
                    connection = await attempt.enter_async_context(self.connection())
                    self._verify_begun(await connection.execute(begin, timeout=BEGIN_SECONDS))
                    stack.push_async_exit(attempt.pop_all())
                    return connection
            except StorageError as error:
                if is_last or not _is_stale(error):
                    raise
        raise AssertionError  # the last turn returns or raises

    def _verify_begun(self, answer: str) -> None:
        """Refuse to write into tables that are for another release."""
        if answer != "SELECT 1":
            raise StorageError(
                f"store {self.name} was migrated: it no longer has schema {self._schema}, "
                "which this release writes",
                hint="run the release that migrated it on this node, too",
            )

    async def _verify_done(self, token: str, doubt: Exception) -> None:
        """Find out what became of a transaction whose end wasn't told; return if it was done.

        Raises:
            StorageError: It wasn't and never will be; or, as its words say, nobody knows.
        """
        try:
            async with asyncio.timeout(DOUBT_SECONDS):
                while (is_fenced := await self._fence(token)) is None:  # noqa: ASYNC110  (a server's turn)
                    await asyncio.sleep(_AGAIN_SECONDS)
        except TimeoutError:
            raise StorageError(
                f"store {self.name} went away while it committed: {doubt}; it isn't known whether "
                "that was done",
                hint="look at what is published before you publish again",
            ) from doubt
        if is_fenced:
            raise storage_error(doubt, self.name) from doubt

    async def _fence(self, token: str) -> bool | None:
        """Tell whether a transaction was kept from being done; None if that can't be told yet.

        It writes even where it finds the receipt: its own COMMIT then waits for all that the
        transaction's would have waited for, be it a standby.
        """
        try:
            async with self.connection() as connection:
                await connection.execute(_BEGIN, timeout=BEGIN_SECONDS)
                # It waits for a transaction of that token that still runs.
                found: bool = await connection.fetchval(
                    "INSERT INTO tabellion.receipts AS r (token, is_fence) VALUES ($1, true)"
                    " ON CONFLICT (token) DO UPDATE SET is_fence = r.is_fence RETURNING is_fence",
                    bytes.fromhex(token),
                )
                answer, warned = await _commit(connection)
        except StorageError:
            return None
        return found if answer == "COMMIT" and not warned else None

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection."""
        if self._is_closed:
            raise StorageError(f"store {self.name} is closed", hint="open it again")
        try:
            connection = await self._pool.acquire(timeout=CONNECT_SECONDS)
        except Exception as error:
            raise storage_error(error, self.name) from error
        try:
            yield connection
        except Exception as error:
            if not isinstance(error, (StorageError, asyncpg.PostgresError)):
                _cut(connection)  # a new one knows nothing of this failure
            raise storage_error(error, self.name) from error
        finally:
            with contextlib.suppress(Exception):
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK", timeout=_RELEASE_SECONDS)
            with contextlib.suppress(Exception):
                await self._pool.release(connection, timeout=_RELEASE_SECONDS)


async def _commit(connection: Connection) -> tuple[str, list[str]]:
    """Commit; give the answer, and what the server warned of."""
    warned: list[str] = []

    def hear(_: Connection, message: Any) -> None:  # noqa: ANN401  (asyncpg has no types)
        warned.append(message.message)

    connection.add_log_listener(hear)
    try:
        return await connection.execute("COMMIT", timeout=COMMIT_SECONDS), warned
    finally:
        with contextlib.suppress(asyncpg.InterfaceError):  # it has gone
            connection.remove_log_listener(hear)


def _cut(connection: Connection) -> None:
    """Have nobody get that connection again."""
    with contextlib.suppress(asyncpg.InterfaceError):  # it has gone by itself
        connection.terminate()


def _is_stale(error: StorageError) -> bool:
    return error.__cause__ is not None and is_connection_lost(error.__cause__)


def _forget(tokens: Collection[str]) -> str:
    if not tokens:
        return ""
    listed = ", ".join(f"'\\x{token}'" for token in tokens)
    return f" DELETE FROM tabellion.receipts WHERE token IN ({listed});"  # noqa: S608  (hex)


async def free_of(connection: Connection, guns: Collection[bytes]) -> set[bytes]:
    """Lock those GUNs that nobody else holds, in the connection's transaction; give these."""
    found = await connection.fetch(
        "SELECT lock FROM unnest($1::bigint[]) AS w (lock) WHERE pg_try_advisory_xact_lock(lock)",
        _locks(guns),
    )
    free = {lock for (lock,) in found}
    return {gun for gun in guns if lock_of(gun) in free}


def _locks(guns: Collection[bytes]) -> list[int]:
    """Give the locks in the one order that keeps two from waiting for each other."""
    return sorted({lock_of(gun) for gun in guns})
