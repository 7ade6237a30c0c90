"""The SQLite file: made private and durable, its schema, its connections."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tabellion_server.storage.interface import StorageError, StoreCorruptionError

SCHEMA_VERSION: Final = 4
BUSY_SECONDS: Final = 30.0

_SCHEMA: Final = (
    "CREATE TABLE schema_version (version INTEGER NOT NULL)",
    """CREATE TABLE metadata (
        gun TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL CHECK (version > 0),
        sha256 TEXT NOT NULL, length INTEGER NOT NULL, stored_at INTEGER NOT NULL,
        data BLOB NOT NULL, PRIMARY KEY (gun, role, version))""",
    """CREATE TABLE heads (
        gun TEXT PRIMARY KEY, dialect TEXT NOT NULL, revision INTEGER NOT NULL,
        changed_at INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE current (
        gun TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (gun, role),
        FOREIGN KEY (gun, role, version) REFERENCES metadata) WITHOUT ROWID""",
    # The last revision of a deleted GUN: the next of that name goes on from there.
    "CREATE TABLE retired (gun TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, gun TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('signed', 'revoked')), target TEXT NOT NULL,
        role TEXT NOT NULL, version INTEGER NOT NULL, metadata_sha256 TEXT NOT NULL,
        digests TEXT NOT NULL, length INTEGER NOT NULL, at INTEGER NOT NULL)""",
    "CREATE INDEX events_by_gun ON events (gun, id)",
    "CREATE INDEX events_by_target ON events (gun, target, id)",
    """CREATE TABLE online_keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT, gun TEXT NOT NULL, role TEXT NOT NULL,
        keyid TEXT NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
        created_at INTEGER NOT NULL, UNIQUE (gun, role, keyid))""",
    """CREATE TRIGGER metadata_is_immutable BEFORE UPDATE ON metadata
        BEGIN SELECT RAISE(ABORT, 'stored metadata never changes'); END""",
)
_SECOND: Final = (
    "CREATE INDEX metadata_by_hash ON metadata (gun, role, sha256)",
    # Not tied to the GUN's rows: what became of a deleted GUN is told, too.
    """CREATE TABLE changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, gun TEXT NOT NULL, version INTEGER NOT NULL,
        sha256 TEXT NOT NULL, category TEXT NOT NULL CHECK (category IN ('update', 'deletion')),
        at INTEGER NOT NULL)""",
    "CREATE INDEX changes_by_gun ON changes (gun, id)",
)
_THIRD: Final = (
    # Restored backups: no change above that id was here, so many may have been told.
    """CREATE TABLE restorations (
        after_id INTEGER NOT NULL, missing INTEGER NOT NULL, at INTEGER NOT NULL,
        is_loss INTEGER NOT NULL)""",
    """CREATE TABLE pending (
        gun TEXT NOT NULL, id TEXT NOT NULL, versions TEXT NOT NULL, files TEXT NOT NULL,
        by TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
        revision INTEGER NOT NULL, PRIMARY KEY (gun, id))""",
    "CREATE INDEX pending_by_expiry ON pending (expires_at)",
    # Not tied to the GUN's rows either.
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, gun TEXT NOT NULL, proposal TEXT NOT NULL,
        action TEXT NOT NULL CHECK (action IN
            ('opened', 'signed', 'published', 'withdrawn', 'expired', 'dropped')),
        versions TEXT NOT NULL, keyids TEXT NOT NULL, by TEXT NOT NULL, at INTEGER NOT NULL)""",
    "CREATE INDEX audit_by_gun ON audit (gun, id)",
    "CREATE INDEX audit_by_proposal ON audit (gun, proposal, id)",
)
_FOURTH: Final = (
    # Versions whose bytes were let go: no other bytes may get their number.
    """CREATE TABLE collected (
        gun TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL,
        PRIMARY KEY (gun, role, version)) WITHOUT ROWID""",
)
# What brings a file of that schema to the next.
_UPGRADES: Final[dict[int, tuple[str, ...]]] = {
    1: (
        *_SECOND,
        """INSERT INTO changes (gun, version, sha256, category, at)
            SELECT gun, version, sha256, 'update', stored_at FROM metadata
            WHERE role = 'timestamp' ORDER BY stored_at, gun, version""",
    ),
    2: _THIRD,
    3: _FOURTH,
}


def storage_error(error: Exception, path: Path) -> StorageError:
    """Turn a failure of SQLite or of the file system into ours."""
    if isinstance(error, StorageError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreCorruptionError(f"store {path} is damaged: {error}")
    if isinstance(error, AttributeError | TypeError):  # its columns take values of any kind
        return StoreCorruptionError(f"store {path} is damaged: a value isn't of its kind: {error}")
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"store {path} has no space left", hint="free some space on its disk")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StorageError(
            f"store {path} stayed locked by another process", hint="see which one has it open"
        )
    is_elsewhere = isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError)
    where = "have storage.url name a file in a folder of a local disk" if is_elsewhere else ""
    return StorageError(f"store {path} failed: {error}", hint=where)


def open_store_file(path: Path) -> sqlite3.Connection:
    """Make or open the file; give the connection that writes.

    Raises:
        StorageError: It can't be made or opened, or another program or release wrote it.
    """
    try:
        _make(path)
        connection = connect(path)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise storage_error(error, path) from error
    try:
        _check_ours(connection, path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        _enter_wal_mode(connection, path)
        _transact(connection, lambda: _prepare_schema(connection, path))
        _sync_folder(path)
    except (OSError, sqlite3.Error) as error:
        connection.close()
        raise storage_error(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def seal(partial: Path, path: Path) -> None:
    """Give a store's file that nobody has open its name, and no companion files any more.

    Raises:
        StorageError: It can't be done.
    """
    try:
        connection = connect(partial)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            connection.close()
        descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _give_name(partial, path)
        _sync_folder(path)
    except (OSError, sqlite3.Error) as error:
        raise storage_error(error, partial) from error


def _give_name(partial: Path, path: Path) -> None:
    """Never over a file that came to be there meanwhile."""
    try:
        path.hardlink_to(partial)
    except FileExistsError as error:
        raise StorageError(f"{path} is there already", hint="give a new name") from error
    except OSError:  # some file systems have no second names
        partial.rename(path)
    else:
        partial.unlink()


def verify_in_place(path: Path, inode: int) -> None:
    """Refuse a store's name that means another file by now than the one that is open.

    Raises:
        StorageError: It was replaced or deleted.
    """
    try:
        found = path.stat().st_ino
    except OSError as error:
        raise storage_error(error, path) from error
    if found != inode:
        raise StorageError(
            f"store {path} was replaced while it was open",
            hint="restart: put a restored store in its place only while nothing runs",
        )


def copy_file(path: Path, copy: Path) -> None:
    """Copy a store's file, with what is only in its write-ahead log yet; it may be in use. Blocks.

    Raises:
        StorageError: It can't be read.
    """
    path = path.resolve()  # its log lies beside the file, not beside a link to it
    try:
        if not Path(f"{path}-wal").exists():
            shutil.copyfile(path, copy)
            return
        source = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        raise storage_error(error, path) from error


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open one more connection; transactions are begun and ended by hand."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # a file that went isn't made anew
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """Have a file that only its owner may read: SQLite gives its companions the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _enter_wal_mode(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to the write-ahead log; SQLite doesn't wait by itself for another who does so."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise StorageError(
                f"store {path} can't have a write-ahead log here",
                hint="put it on a local disk: network file systems don't carry one",
            )
        return


def _transact(connection: sqlite3.Connection, work: Callable[[], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _prepare_schema(connection: sqlite3.Connection, path: Path) -> None:
    held = _check_ours(connection, path)
    steps = [_SCHEMA, _SECOND, _THIRD, _FOURTH] if held is None else []
    steps += [_UPGRADES[version] for version in range(held or SCHEMA_VERSION, SCHEMA_VERSION)]
    for statement in itertools.chain(*steps):
        connection.execute(statement)
    if held != SCHEMA_VERSION:
        connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))


def _check_ours(connection: sqlite3.Connection, path: Path) -> int | None:
    """Refuse a file that isn't for this release; give its schema, None if it has none yet."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        return None
    if "schema_version" not in tables:
        raise StorageError(
            f"{path} is another program's database", hint="give the store a file of its own"
        )
    (is_loading,) = connection.execute("PRAGMA user_version").fetchone()
    if is_loading:
        raise StorageError(
            f"a restore into store {path} was cut off, or is under way",
            hint="if none is, delete that file and restore again",
        )
    (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    if version != SCHEMA_VERSION and version not in _UPGRADES:
        raise StorageError(
            f"store {path} has schema {version}; this release reads {SCHEMA_VERSION}",
            hint="run the release that wrote it, or a newer one",
        )
    return int(version)
