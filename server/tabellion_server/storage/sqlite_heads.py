"""Heads of GUNs, read together in one reader thread.

The thread holds the heads that it read, and gives them as long as SQLite says that nobody
committed since.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tabellion_server.storage.head_questions import HeadQuestions
from tabellion_server.storage.interface import Head
from tabellion_server.storage.sqlite_rows import read_head
from tabellion_server.storage.sqlite_threads import Readers

_MAX_REFS: Final = 50_000


class HeadReader(HeadQuestions):
    """Answers from a thread of its own; used by one event loop."""

    def __init__(self, path: Path) -> None:
        super().__init__(self._read_all)
        self._readers = Readers(path, count=1)
        # The thread's own:
        self._connection: sqlite3.Connection | None = None
        self._state = 0
        self._heads: dict[str, Head] = {}
        self._refs = 0

    def close(self) -> None:
        """Close the connection; it blocks."""
        self._readers.close()

    async def _read_all(self, guns: list[str]) -> dict[str, Head | None]:
        work = self._readers.submit(lambda connection: self._read(connection, guns))
        return await asyncio.wrap_future(work)

    def _read(
        self, connection: sqlite3.Connection, guns: Collection[str]
    ) -> dict[str, Head | None]:
        """Read in the thread, in one transaction."""
        (state,) = connection.execute("PRAGMA data_version").fetchone()
        # Its numbers mean something on one connection only; others commit, never this one.
        if connection is not self._connection or state != self._state or self._refs > _MAX_REFS:
            self._connection, self._state = connection, state
            self._heads.clear()
            self._refs = 0
        return {gun: self._held(connection, gun) for gun in guns}

    def _held(self, connection: sqlite3.Connection, gun: str) -> Head | None:
        found = self._heads.get(gun)
        if found is None:
            found = read_head(connection, gun)
            if found is not None:
                self._heads[gun] = found
                self._refs += 1 + len(found.files)
        return found
