"""A TCP proxy before a real store that counts what a node sends, and ends or cuts it at one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Cut = Literal["end", "lost-question", "lost-answer"]


class CountingProxy:
    """Passes messages on until it's armed.

    A message is what arrives at once: a node asks, and waits for the answer.

    Attributes:
        port: Where it listens.
        count: Messages since it was armed.
        has_cut: Set once it came to that.
    """

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.count = 0
        self.has_cut = asyncio.Event()
        self._upstream = upstream
        self._armed: tuple[Cut, int] | None = None
        self._is_down = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._asking: set[asyncio.StreamWriter] = set()
        self._asked = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, upstream: int) -> AsyncIterator[CountingProxy]:
        proxy = cls(upstream)
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(proxy._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            listener.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def url(self, url: str) -> str:
        """Give a store's address by way of the proxy."""
        parts = urlsplit(url)
        place = f"{parts.username}@" if parts.username else ""
        return urlunsplit(parts._replace(netloc=f"{place}127.0.0.1:{self.port}"))

    def arm(self, cut: Cut, number: int) -> None:
        """Choose what becomes of the message of that number, counted from 0.

        ``end``: the store does it, and nothing comes or goes any more, as if the node had died.
        With the others only that connection is cut: before the store has it, or once it's done.
        """
        self._armed, self.count, self._is_down = (cut, number), 0, False
        self.has_cut.clear()

    async def settle(self) -> None:
        """Wait until the node is done with what it does by itself at its start."""
        before = -1
        while self._asking or self._asked != before:
            before = self._asked
            await asyncio.sleep(0.02)

    def heal(self) -> None:
        """Pass everything on again."""
        self._armed, self._is_down = None, False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            writer.transport.abort()
            return
        answers, server = await asyncio.open_connection("127.0.0.1", self._upstream)
        ends = {writer, server}
        self._ends |= ends
        back = asyncio.create_task(self._answer(answers, writer))
        try:
            while data := await reader.read(1 << 20):
                cut = self._next()
                if self._is_down:
                    break
                if cut in {"end", "lost-answer"}:
                    back.cancel()
                    await asyncio.wait({back})
                    server.write(data)
                    await answers.read(1)
                if cut == "end":
                    self._is_down = True
                    for end in self._ends:
                        end.transport.abort()
                if cut is not None:
                    self.has_cut.set()
                    break
                self._asked += 1
                self._asking.add(writer)
                server.write(data)
        except OSError:
            pass
        finally:
            back.cancel()
            self._ends -= ends
            self._asking -= ends
            for end in ends:
                end.transport.abort()

    def _next(self) -> Cut | None:
        if self._armed is None:
            return None
        self.count += 1
        cut, number = self._armed
        return cut if self.count - 1 == number else None

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await answers.read(1 << 20):
                self._asking.discard(writer)
                writer.write(data)
            writer.close()
