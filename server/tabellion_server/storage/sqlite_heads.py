"""Heads of GUNs, read together: those asked for meanwhile share one hop to a reader thread.

The thread holds the heads that it read, and gives them as long as SQLite says that nobody
committed since.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tabellion_server.storage.interface import Head, StorageError
from tabellion_server.storage.sqlite_rows import read_head
from tabellion_server.storage.sqlite_threads import Readers

_MAX_REFS: Final = 50_000

Found = Head | StorageError | None


class HeadReader:
    """Answers each question by a read that began after it was asked; used by one event loop."""

    def __init__(self, path: Path) -> None:
        self._readers = Readers(path, count=1)
        self._waiting: dict[str, list[asyncio.Future[Head | None]]] = {}
        self._running: asyncio.Task[None] | None = None
        # The thread's own:
        self._connection: sqlite3.Connection | None = None
        self._state = 0
        self._heads: dict[str, Head] = {}
        self._refs = 0

    async def head(self, gun: str) -> Head | None:
        """Give a GUN's head, None if there's no such GUN.

        Raises:
            StorageError: The store failed.
        """
        answer: asyncio.Future[Head | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(gun, []).append(answer)
        if self._running is None:
            self._running = asyncio.create_task(self._answer_all())
        return await answer

    def close(self) -> None:
        """Close the connection; it blocks."""
        self._readers.close()

    async def _answer_all(self) -> None:
        asked: dict[str, list[asyncio.Future[Head | None]]] = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                for gun, found in (await self._find(list(asked))).items():
                    for answer in asked[gun]:
                        if answer.done():  # who asked has gone
                            continue
                        if isinstance(found, StorageError):
                            answer.set_exception(found)
                        else:
                            answer.set_result(found)
        finally:
            self._running = None
            for answer in (one for answers in asked.values() for one in answers):
                answer.cancel()  # only if the loop itself ends: all others are answered

    async def _find(self, guns: list[str]) -> dict[str, Found]:
        try:
            work = self._readers.submit(lambda connection: self._read(connection, guns))
            return await asyncio.wrap_future(work)
        except StorageError as error:
            if len(guns) == 1:
                return {guns[0]: error}
        # One damaged GUN must not be in the way of others.
        return {gun: found for one in guns for gun, found in (await self._find([one])).items()}

    def _read(self, connection: sqlite3.Connection, guns: Collection[str]) -> dict[str, Found]:
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
