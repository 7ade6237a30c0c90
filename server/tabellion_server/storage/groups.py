"""Requests that come while one is under way, put together: they share a round trip and an fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Groups(Generic[Asked, Given]):
    """Answers requests in groups, each in the order in which they came; used by one event loop."""

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Given]]],
        *,
        at_most: int = 64,
        at_once: int = 2,
    ) -> None:
        """Take what answers a group: each request, in order, or all of them by raising.

        Args:
            answer: If it raises, all of the group are told that.
            at_most: How many requests a group has.
            at_once: How many groups may be under way.
        """
        self._answer = answer
        self._at_most = at_most
        self._at_once = at_once
        self._waiting: list[tuple[Asked, asyncio.Future[Given]]] = []
        self._active = 0  # counted by themselves: who ends takes no more, though its task lives on
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, request: Asked) -> Given:
        """Have a request answered.

        Raises:
            StorageError: The store failed.
        """
        future: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._active < self._at_once:
            self._active += 1
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def _run(self) -> None:
        try:
            await self._answer_all()
        finally:
            self._active -= 1

    async def _answer_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._at_most], self._waiting[self._at_most :]
            try:
                answers = await self._answer([request for request, _ in group])
            except Exception as error:  # noqa: BLE001  (nobody may be left waiting)
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), given in zip(group, answers, strict=True):
                if not future.done():  # who asked has gone
                    future.set_result(given)
