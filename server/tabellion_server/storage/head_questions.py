"""Questions for heads of GUNs, put together: those asked meanwhile share one look-up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tabellion_server.storage.interface import Head, StoreCorruptionError

Found = Head | Exception | None


class HeadQuestions:
    """Answers each question by a look-up that began after it was asked; used by one event loop."""

    def __init__(self, look_up: Callable[[list[str]], Awaitable[dict[str, Head | None]]]) -> None:
        """Take what looks up heads by name: all names that it was given."""
        self._look_up = look_up
        self._waiting: dict[str, list[asyncio.Future[Head | None]]] = {}
        self._running: asyncio.Task[None] | None = None

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

    async def _answer_all(self) -> None:
        asked: dict[str, list[asyncio.Future[Head | None]]] = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                for gun, found in (await self._find(list(asked))).items():
                    for answer in asked[gun]:
                        if answer.done():  # who asked has gone
                            continue
                        if isinstance(found, Exception):
                            answer.set_exception(found)
                        else:
                            answer.set_result(found)
        finally:
            self._running = None
            for answer in (one for answers in asked.values() for one in answers):
                answer.cancel()  # only if the loop itself ends: all others are answered

    async def _find(self, guns: list[str]) -> dict[str, Found]:
        try:
            return {**await self._look_up(guns)}
        except Exception as error:  # noqa: BLE001  (whoever asked is told, whatever it is)
            is_of_one = isinstance(error, StoreCorruptionError)
            if len(guns) == 1 or not is_of_one:
                return dict.fromkeys(guns, error)
        # One damaged GUN must not be in the way of others.
        return {gun: found for one in guns for gun, found in (await self._find([one])).items()}
