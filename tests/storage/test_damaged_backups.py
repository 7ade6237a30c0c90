"""A backup that was damaged, or made by somebody who means ill: it's refused in our own words."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storage.test_dump_contract import fill
from tabellion_server.storage.copying import copy_store
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.sqlite import SqliteStore


async def copy(path: Path, to: Path) -> None:
    async with AsyncExitStack() as stack:
        opened = []
        for place in (to, path):
            opened.append(await SqliteStore.open(place))
            stack.push_async_callback(opened[-1].close)
        await copy_store(opened[1], opened[0], tell=lambda _: None)


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
        "UPDATE events SET digests = '{'",
        "UPDATE events SET digests = '7'",
        "UPDATE online_keys SET sealed = 'text'",
        "UPDATE changes SET id = id * 4611686018427387904 WHERE id = 1",
        "UPDATE sqlite_sequence SET seq = 'x' WHERE name = 'changes'",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'changes'",
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
    store = await SqliteStore.open(path)
    await fill(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER metadata_is_immutable")
        assert connection.execute(statement).rowcount
        connection.commit()
    with pytest.raises(StorageError):
        await copy(path, tmp_path / "target.db")
