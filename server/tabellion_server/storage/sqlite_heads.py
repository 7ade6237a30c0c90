"""Heads held in memory, given only while SQLite says that nobody committed since they were read.

Reading ``PRAGMA data_version`` takes microseconds: SQLite looks into the shared memory of its
write-ahead log. So the event loop asks by itself; a hop to a thread would cost twenty times more.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from tabellion_server.storage.interface import Head
from tabellion_server.storage.sqlite_file import connect

_MAX_REFS: Final = 50_000


class HeldHeads:
    """Heads as of one state of the file; used by the event loop alone."""

    def __init__(self, path: Path) -> None:
        # Never waits: who can't be told at once reads the store.
        self._connection = connect(path, read_only=True, busy_seconds=0)
        self._state = -1
        self._heads: dict[str, Head] = {}
        self._refs = 0

    def state(self) -> int | None:
        """Give a number that changes with every commit of any process; None if it can't be told.

        Heads of another state are forgotten.
        """
        try:
            (state,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return None
        if state != self._state:
            self._state = state
            self._forget()
        return int(state)

    def get(self, gun: str) -> Head | None:
        """Give a head that is current as of the last ``state``."""
        return self._heads.get(gun)

    def put(self, head: Head, state: int) -> None:
        """Hold a head that was read after ``state`` was told, unless that has passed."""
        if state != self._state:
            return
        if self._refs > _MAX_REFS:
            self._forget()
        self._heads[head.gun] = head
        self._refs += 1 + len(head.files)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _forget(self) -> None:
        self._heads.clear()
        self._refs = 0
