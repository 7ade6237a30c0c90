"""What a restored backup of the SQLite store lacks, and how it goes on from there."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from tabellion_server.storage.high_water import HighWater
from tabellion_server.storage.interface import Restoration, RestoredStoreError
from tabellion_server.storage.sqlite_file import connect, storage_error
from tabellion_server.storage.values import ticks


def join(connection: sqlite3.Connection, path: Path, high_water: Path) -> HighWater:
    """Join those that use the mark, and deal with what it says of this store."""
    try:
        water = HighWater(high_water)
        try:
            begin(connection, water)
        except BaseException:
            water.close()
            raise
        water.share()
    except sqlite3.Error as error:
        connection.close()
        raise storage_error(error, path) from error
    except BaseException:
        connection.close()
        raise
    return water


def cover(water: HighWater, path: Path, connection: sqlite3.Connection) -> None:
    """Have the mark no lower than what is about to be committed.

    Who looks meanwhile, or after a crash just then, sees what is committed: so that counts.
    """
    last = last_change(connection)
    if not water.covers(last):
        with contextlib.closing(connect(path, read_only=True)) as beside:
            committed = last_change(beside)
        water.cover(last, committed=committed)


def last_change(connection: sqlite3.Connection) -> int:
    """Give the highest id the changefeed ever had here."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return 0 if row is None else int(row[0])


def set_last_change(connection: sqlite3.Connection, last: int) -> None:
    """Have the next change get an id above that."""
    if connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'changes'").fetchone():
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'changes'", (last,))
    else:
        connection.execute("INSERT INTO sqlite_sequence VALUES ('changes', ?)", (last,))


def missing_changes(connection: sqlite3.Connection, water: HighWater) -> int:
    """Tell how many changes a restored store may lack; 0 if it's the one that was left."""
    mark, last = water.read(), last_change(connection)
    return mark.number - last if mark is not None and mark.may_be_restored(last) else 0


def verify_complete(connection: sqlite3.Connection, water: HighWater) -> None:
    """Refuse to write to a restored store.

    Raises:
        RestoredStoreError: It lacks changes that may have been told.
    """
    missing = missing_changes(connection, water)
    if missing:
        raise RestoredStoreError(
            f"the store lacks up to {missing} changes that {water.path} knows of: it's an old "
            "backup, and what was signed since then must not be signed otherwise",
            missing=missing,
        )


def begin(connection: sqlite3.Connection, water: HighWater) -> None:
    """Deal with what is found at the start, if nobody else has the store open.

    After a crash some ids that were written ahead weren't used, or a backup of a moment before
    was restored. Which of the two can't be told, so their versions are passed over.
    """
    mark, last = water.read(), last_change(connection)
    if water.is_alone and mark and last < mark.number and not mark.may_be_restored(last):
        connection.execute("BEGIN IMMEDIATE")
        pass_over(connection, mark.number - last, at=datetime.now(UTC), is_loss=False)
        connection.execute("COMMIT")


def pass_over(connection: sqlite3.Connection, missing: int, *, at: datetime, is_loss: bool) -> None:
    """Take changes for lost: neither their ids nor their versions are given out again.

    All that is there was before: the moment is no earlier, whatever the clocks of nodes said.
    """
    last = last_change(connection)
    (newest,) = connection.execute(
        "SELECT max(coalesce((SELECT max(created_at) FROM online_keys), 0),"
        " coalesce((SELECT max(stored_at) FROM metadata WHERE ?), 0))",
        (is_loss,),
    ).fetchone()
    connection.execute(
        "INSERT INTO restorations (after_id, missing, at, is_loss) VALUES (?, ?, ?, ?)",
        (last, missing, max(ticks(at), newest + 1), is_loss),
    )
    set_last_change(connection, last + missing)


def read_restoration(connection: sqlite3.Connection, gun: str) -> Restoration:
    """Tell what was restored beneath a GUN since its newest change, and publication.

    A GUN without any change may have been imported before, or founded since with keys that the
    backup has already; one whose keys are younger is new, and nothing of it is lost.
    """
    (skip,) = connection.execute(
        "SELECT coalesce(sum(missing), 0) FROM restorations"
        " WHERE after_id >= coalesce((SELECT max(id) FROM changes WHERE gun = :gun),"
        " (SELECT 0 FROM online_keys WHERE gun = :gun AND created_at <= restorations.at LIMIT 1))",
        {"gun": gun},
    ).fetchone()
    newest = dict(
        connection.execute(
            "SELECT role, max(stored_at) FROM metadata WHERE gun = ?"
            " AND role NOT IN ('snapshot', 'timestamp') GROUP BY role",
            (gun,),
        ).fetchall()
    )
    (lost_at,) = connection.execute("SELECT max(at) FROM restorations WHERE is_loss").fetchone()
    if lost_at is None or not newest or min(newest.values()) >= lost_at:
        return Restoration(skip, may_lack=False)
    settled = frozenset(role for role, stored_at in newest.items() if stored_at >= lost_at)
    return Restoration(skip, may_lack=True, settled=settled)
