"""A server with one promise broken on purpose: ``mutated_node.py MUTATION serve --config FILE``.

What judges histories has to see each of them; see ``integration/test_histories.py``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tabellion_server.services import signing
from tabellion_server.storage import sqlite
from tabellion_server.storage.interface import Head, StoredFile
from tabellion_server.storage.sqlite import SqliteStore


def two_steps() -> None:
    """Promise 1: the timestamp is committed before what it names."""
    commit = SqliteStore.commit

    async def broken(self: SqliteStore, gun: str, **given: Any) -> Head:
        added: Sequence[StoredFile] = given["added"]
        late = [item for item in added if item.role in {"snapshot", "targets"}]
        if given["expected_revision"] is None or not late:
            return await commit(self, gun, **given)
        early = [item for item in added if item not in late]
        head = await commit(self, gun, **{**given, "added": early})
        await asyncio.sleep(0.02)
        given |= {"added": late, "expected_revision": head.revision, "events": ()}
        return await commit(self, gun, **given)

    SqliteStore.commit = broken  # type: ignore[method-assign]


def last_wins() -> None:
    """Promise 2: nobody compares before they set, and what comes late is told to be there."""
    sqlite.check_head = lambda *_: None  # type: ignore[assignment]
    write = sqlite.write_files

    def broken(connection: Any, gun: str, files: Sequence[StoredFile], changes: Any = None) -> None:
        query = "SELECT 1 FROM metadata WHERE gun = ? AND role = ? AND version = ?"
        new = [
            file
            for file in files
            if not connection.execute(query, (gun, file.role, file.version)).fetchone()
        ]
        write(connection, gun, new, changes)

    sqlite.write_files = broken


def signed_twice() -> None:
    """Promise 3: a timestamp is renewed under the version it has."""
    following = signing.next_timestamp
    write = sqlite.write_files

    def next_timestamp(dialect: Any, previous: Any, data: bytes, *rest: Any, **more: Any) -> Any:
        made = following(dialect, previous, data, *rest, **more)
        if previous is not None and previous.snapshot_meta.version == made.snapshot_meta.version:
            made.version = previous.version
        return made

    def broken(connection: Any, gun: str, files: Sequence[StoredFile], changes: Any = None) -> None:
        connection.execute("DROP TRIGGER IF EXISTS metadata_is_immutable")
        for file in files:
            connection.execute(
                "UPDATE metadata SET data = ?, sha256 = ?, length = ?"
                " WHERE gun = ? AND role = ? AND version = ?",
                (file.data, file.sha256, len(file.data), gun, file.role, file.version),
            )
        write(connection, gun, files, changes)

    signing.next_timestamp = next_timestamp
    sqlite.write_files = broken


def old_head() -> None:
    """Promise 4: a node gives the head that it read a moment ago."""
    head = SqliteStore.head
    held: dict[str, tuple[float, Head | None]] = {}

    async def broken(self: SqliteStore, gun: str) -> Head | None:
        at, found = held.get(gun, (0.0, None))
        if time.monotonic() - at > 0.5 or found is None:
            found = await head(self, gun)
            held[gun] = time.monotonic(), found
        return found

    SqliteStore.head = broken  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    item.__name__: item for item in (two_steps, last_wins, signed_twice, old_head)
}

if __name__ == "__main__":
    from tabellion_server.cli import main

    MUTATIONS[sys.argv.pop(1)]()
    main()
