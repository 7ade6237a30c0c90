"""A real store whose calls can be counted, cut off, made to fail or to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from tabellion_server.storage.interface import StorageError, Store

_BY_CLOCK = {"changes", "now"}  # looked at now and then, so it isn't numbered
Fault = Literal["before", "after"]


class FaultyStore:
    """Passes every call on to a store.

    Attributes:
        calls: Names of the methods called so far.
        judge: Is asked at each call with its number, from 0, and name: what to raise before or
            after it.
        hangs: No call is answered.
        stop_at: At this call all ends, before or after it is done: nothing goes on until ``heal``.
        has_stopped: Set once it came to that.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.judge: Callable[[int, str, Fault], BaseException | None] = lambda *_: None
        self.hangs = False
        self.stop_at: tuple[int, Fault] | None = None
        self.has_stopped = asyncio.Event()
        self._goes_on = asyncio.Event()

    def break_down(self) -> None:
        """Have every call fail from now on."""
        self.judge = lambda _, name, when: StorageError(f"no {name}") if when == "before" else None

    def heal(self) -> None:
        """Have every call answered again."""
        self.judge = lambda *_: None
        self.hangs = False
        self._goes_on.set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def called(*args: Any, **kwargs: Any) -> Any:
            number = len(self.calls) if name not in _BY_CLOCK else -1
            self.calls += [name] if number >= 0 else []
            if self.hangs:
                await asyncio.Event().wait()
            await self._pass(number, name, "before")
            result = await method(*args, **kwargs)
            await self._pass(number, name, "after")
            return result

        return called if callable(method) else method

    async def _pass(self, number: int, name: str, when: Fault) -> None:
        if self.has_stopped.is_set() or self.stop_at == (number, when):
            self.has_stopped.set()
            await self._goes_on.wait()
        error = self.judge(number, name, when)
        if error is not None:
            raise error
