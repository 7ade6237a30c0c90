"""Tables of the PostgreSQL store, in numbered migrations; all live in a schema of their own.

Names are UTF-8 in ``bytea``: any name is itself and nothing else, sorts by code point, and no
collation of the server's has a say. Moments are microseconds since 1970.
"""

from __future__ import annotations

import contextlib
import re
from typing import Final

from tabellion_server.storage.interface import StorageError, StoreCorruptionError
from tabellion_server.storage.postgres_errors import MIGRATE, storage_error
from tabellion_server.storage.postgres_link import (
    CONNECT_SECONDS,
    SCHEMA_LOCK,
    Connection,
    Place,
    connect,
)

_STEP_SECONDS: Final = 3600.0  # a step may have to wait for whoever reads, and rewrite a table

_FIRST: Final = (
    """CREATE TABLE tabellion.metadata (
        gun bytea NOT NULL, role bytea NOT NULL, version bigint NOT NULL CHECK (version > 0),
        sha256 text NOT NULL, length bigint NOT NULL, stored_at bigint NOT NULL,
        data bytea NOT NULL, PRIMARY KEY (gun, role, version))""",
    "CREATE INDEX metadata_by_hash ON tabellion.metadata (gun, role, sha256)",
    """CREATE FUNCTION tabellion.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'stored metadata never changes'; END $$""",
    """CREATE TRIGGER metadata_is_immutable BEFORE UPDATE ON tabellion.metadata
        FOR EACH STATEMENT EXECUTE FUNCTION tabellion.refuse_change()""",
    # Versions whose bytes were let go: no other bytes may get their number.
    """CREATE TABLE tabellion.collected (
        gun bytea NOT NULL, role bytea NOT NULL, version bigint NOT NULL, sha256 text NOT NULL,
        PRIMARY KEY (gun, role, version))""",
    # The token is drawn anew with each commit: heads held in memory are known by it.
    """CREATE TABLE tabellion.heads (
        gun bytea PRIMARY KEY, dialect text NOT NULL, revision bigint NOT NULL,
        changed_at bigint NOT NULL, token bigint NOT NULL)""",
    # Hash and length again, so that a head is read without the rows that carry files.
    """CREATE TABLE tabellion.current (
        gun bytea NOT NULL, role bytea NOT NULL, version bigint NOT NULL, sha256 text NOT NULL,
        length bigint NOT NULL, PRIMARY KEY (gun, role),
        FOREIGN KEY (gun, role, version) REFERENCES tabellion.metadata)""",
    # The last revision of a deleted GUN: the next of that name goes on from there.
    "CREATE TABLE tabellion.retired (gun bytea PRIMARY KEY, revision bigint NOT NULL)",
    """CREATE TABLE tabellion.events (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gun bytea NOT NULL,
        kind text NOT NULL CHECK (kind IN ('signed', 'revoked')), target bytea NOT NULL,
        role bytea NOT NULL, version bigint NOT NULL, metadata_sha256 text NOT NULL,
        digests text NOT NULL, length bigint NOT NULL, at bigint NOT NULL)""",
    "CREATE INDEX events_by_gun ON tabellion.events (gun, id)",
    "CREATE INDEX events_by_target ON tabellion.events (gun, target, id)",
    # Not tied to the GUN's rows: what became of a deleted GUN is told, too. Ids come from the
    # counter, whose row stays locked until the commit: so no reader sees one before a lower one.
    """CREATE TABLE tabellion.changes (
        id bigint PRIMARY KEY, gun bytea NOT NULL, version bigint NOT NULL, sha256 text NOT NULL,
        category text NOT NULL CHECK (category IN ('update', 'deletion')), at bigint NOT NULL)""",
    "CREATE INDEX changes_by_gun ON tabellion.changes (gun, id)",
    # last: the newest change. known: what nodes know to have been told; above last, it was lost.
    """CREATE TABLE tabellion.counter (
        one boolean PRIMARY KEY CHECK (one), last bigint NOT NULL, known bigint NOT NULL,
        is_loading boolean NOT NULL DEFAULT false)
        WITH (fillfactor = 10)""",
    "INSERT INTO tabellion.counter VALUES (true, 0, 0)",
    # Restored backups: no change above that id was here, so many may have been told.
    """CREATE TABLE tabellion.restorations (
        after_id bigint NOT NULL, missing bigint NOT NULL, at bigint NOT NULL,
        is_loss boolean NOT NULL)""",
    """CREATE TABLE tabellion.online_keys (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gun bytea NOT NULL,
        role bytea NOT NULL, keyid bytea NOT NULL, public bytea NOT NULL, sealed bytea NOT NULL,
        created_at bigint NOT NULL, UNIQUE (gun, role, keyid))""",
    """CREATE TABLE tabellion.pending (
        gun bytea NOT NULL, id bytea NOT NULL, versions text NOT NULL, files text NOT NULL,
        by bytea NOT NULL, created_at bigint NOT NULL, expires_at bigint NOT NULL,
        revision bigint NOT NULL, PRIMARY KEY (gun, id))""",
    "CREATE INDEX pending_by_expiry ON tabellion.pending (expires_at)",
    """CREATE TABLE tabellion.audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gun bytea NOT NULL,
        proposal bytea NOT NULL, action text NOT NULL CHECK (action IN
            ('opened', 'signed', 'published', 'withdrawn', 'expired', 'dropped')),
        versions text NOT NULL, keyids text NOT NULL, by bytea NOT NULL, at bigint NOT NULL)""",
    "CREATE INDEX audit_by_gun ON tabellion.audit (gun, id)",
    "CREATE INDEX audit_by_proposal ON tabellion.audit (gun, proposal, id)",
    # One row a transaction, until its end is known to who asked for it: see postgres_link.
    """CREATE TABLE tabellion.receipts (
        token bytea PRIMARY KEY, is_fence boolean NOT NULL,
        at timestamptz NOT NULL DEFAULT now())""",
)
MIGRATIONS: Final = (_FIRST,)
VERSION: Final = len(MIGRATIONS)


async def found_version(connection: Connection) -> int | None:
    """Give the number of the newest migration that the database had, None for none.

    Raises:
        StorageError: Another program has a schema of that name.
        StoreCorruptionError: A table is gone.
    """
    names = {
        row["relname"]
        for row in await connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'tabellion' AND c.relkind = 'r'"
        )
    }
    if not names:
        return None
    if "schema_version" not in names:
        raise StorageError(
            "the database has a schema tabellion of another program",
            hint="give the store a database of its own",
        )
    version = await connection.fetchval("SELECT max(version) FROM tabellion.schema_version")
    if version is None:
        return None
    gone = sorted(_tables(int(version)) - names)
    if gone:
        raise StoreCorruptionError(
            f"the database has lost tables of schema tabellion: {', '.join(gone)}",
            hint="move the rest away (ALTER SCHEMA tabellion RENAME TO damaged), migrate, and "
            "restore a backup",
        )
    return int(version)


def _tables(version: int) -> set[str]:
    """Give the tables that the migrations up to that one make; none drops any."""
    statements = "\n".join(each for step in MIGRATIONS[:version] for each in step)
    return set(re.findall(r"CREATE TABLE tabellion\.(\w+)", statements))


async def verify_not_loading(connection: Connection, name: str) -> None:
    """Refuse a store that a backup is being restored into.

    Raises:
        StorageError: One is, or was cut off.
    """
    if await connection.fetchval("SELECT is_loading FROM tabellion.counter"):
        raise StorageError(
            f"a restore into store {name} was cut off, or is under way",
            hint="if none is: DROP SCHEMA tabellion CASCADE, migrate, and restore again",
        )


async def verify_schema(connection: Connection, name: str) -> None:
    """Refuse a database that isn't for this release.

    Raises:
        StorageError: It's empty, older or newer.
    """
    version = await found_version(connection)
    if version is None:
        raise StorageError(f"store {name} is empty", hint=MIGRATE)
    if version < VERSION:
        raise StorageError(
            f"store {name} has schema {version}; this release needs {VERSION}", hint=MIGRATE
        )
    _refuse_newer(version, name)


async def migrate_store(place: Place) -> str:
    """Bring a database's tables to this release in one transaction; say what was done.

    Raises:
        StorageError: A newer release, or another program, wrote them; or it can't be done.
    """
    connection = await connect(place)
    try:
        return await _migrate(connection, place.name)
    except Exception as error:
        raise storage_error(error, place.name) from error
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=CONNECT_SECONDS)


async def _migrate(connection: Connection, name: str) -> str:
    async with connection.transaction(isolation="read_committed"):
        # Whoever writes is let finish; who comes meanwhile finds the new number after it.
        await connection.execute(
            f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})", timeout=_STEP_SECONDS
        )
        held = await found_version(connection) or 0
        _refuse_newer(held, name)
        if not held:
            await connection.execute("CREATE SCHEMA IF NOT EXISTS tabellion")
            await connection.execute(
                "CREATE TABLE tabellion.schema_version (version integer PRIMARY KEY,"
                " applied_at timestamptz NOT NULL DEFAULT now())"
            )
        for number, statements in enumerate(MIGRATIONS[held:], start=held + 1):
            for statement in statements:
                await connection.execute(statement, timeout=_STEP_SECONDS)
            await connection.execute(
                "INSERT INTO tabellion.schema_version (version) VALUES ($1)", number
            )
    if held == VERSION:
        return f"store {name} has schema {VERSION} already: nothing to do"
    was = f"schema {held}" if held else "empty"
    return f"store {name} was {was} and has schema {VERSION} now"


def _refuse_newer(version: int, name: str) -> None:
    if version > VERSION:
        raise StorageError(
            f"store {name} has schema {version}; this release reads {VERSION}",
            hint="run the release that wrote it, or a newer one",
        )
