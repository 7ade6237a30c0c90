"""A backup that was damaged, or made by somebody who means ill: it's refused in our own words."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storage.conftest import OpenStore
from storage.test_contract import AT
from storage.test_dump_contract import fill
from tabellion_server.storage.copying import copy_store
from tabellion_server.storage.interface import (
    AuditEntry,
    Change,
    StorageError,
    StoreCorruptionError,
    TagEvent,
)
from tabellion_server.storage.record_checks import check_records
from tabellion_server.storage.records import EventRecord, HeadRecord, Record
from tabellion_server.storage.sqlite import SqliteStore


async def copy(path: Path, to: Path) -> None:
    async with AsyncExitStack() as stack:
        opened = []
        for place in (to, path):
            opened.append(await SqliteStore.open(place))
            stack.push_async_callback(opened[-1].close)
        await copy_store(opened[1], opened[0], tell=lambda _: None)


async def make(path: Path, statement: str) -> None:
    """Make a backup, and change it."""
    store = await SqliteStore.open(path)
    await fill(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER metadata_is_immutable")
        assert connection.execute(statement).rowcount
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE metadata SET data = 'text' WHERE role = 'root'",
        "UPDATE metadata SET stored_at = 'soon'",
        "UPDATE metadata SET stored_at = 9223372036854775807",
        "UPDATE metadata SET version = 'many' WHERE version = 1 AND role = 'snapshot'",
        "UPDATE metadata SET gun = x'ff00' WHERE role = 'targets' AND version = 2",
        "UPDATE metadata SET sha256 = 7",
        "UPDATE heads SET revision = 'x'",
        "UPDATE heads SET dialect = 'other'",
        "UPDATE events SET digests = '{'",
        "UPDATE events SET digests = '7'",
        "UPDATE events SET digests = replace(hex(zeroblob(50000)), '0', '[')",
        "UPDATE online_keys SET sealed = 'text'",
        "UPDATE changes SET id = id * 4611686018427387904 WHERE id = 1",
        "UPDATE sqlite_sequence SET seq = 'x' WHERE name = 'changes'",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'changes'",
        "UPDATE sqlite_sequence SET seq = 4611686018427387904 WHERE name = 'changes'",
        "INSERT INTO restorations VALUES (0, 4611686018427387904, 0, 1)",
        "UPDATE schema_version SET version = 'four'",
        "DELETE FROM schema_version",
        "DROP TABLE audit",
        "ALTER TABLE heads DROP COLUMN changed_at",
        "INSERT INTO pending VALUES ('g', 'i', '[]', '[]', '', 0, 0, 1)",
        "INSERT INTO pending VALUES ('g', 'i', '{}', '{\"root\": 7}', '', 0, 0, 1)",
        "INSERT INTO audit VALUES (9, 'g', 'i', 'opened', '{}', '{', '', 0)",
        "INSERT INTO restorations VALUES ('x', 'y', 'z', 0)",
        "UPDATE current SET version = 9",
    ],
)
async def test_a_damaged_backup_is_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "backup.db"
    await make(path, statement)
    with pytest.raises(StorageError):
        await copy(path, tmp_path / "target.db")


async def test_no_engine_takes_a_head_without_its_file(
    tmp_path: Path, open_store: OpenStore
) -> None:
    path = tmp_path / "backup.db"
    await make(path, "UPDATE current SET version = 9")
    target = await open_store()
    source = await SqliteStore.open(path)
    with pytest.raises(StorageError):
        await copy_store(source, target, tell=lambda _: None)
    await source.close()


@pytest.mark.parametrize(
    "record",
    [
        Change("g", 1, "", "other", AT),  # type: ignore[arg-type]  # as it comes from a file
        EventRecord("g", TagEvent("other", "t", "targets", 1, "", {}, 1, AT)),  # type: ignore[arg-type]
        AuditEntry("g", "p", "other", {}, (), "", AT),  # type: ignore[arg-type]
        HeadRecord("g", "other", 1, AT, {}),
    ],
)
def test_what_no_store_knows_is_refused(record: Record) -> None:
    with pytest.raises(StoreCorruptionError, match="other"):
        check_records([record])
